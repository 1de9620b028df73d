//! Agents that are not there, late, wrong or dead.

use std::{path::Path, sync::mpsc, time::Instant};

use ipam_cni::{
    error::{CniError, code},
    protocol::{Reply, Request},
};
use serde_json::json;

use crate::{
    agent::{Agent, Peer, serve},
    attachment::Attachment,
};

/// Every command that asks the agent, with the code for an agent that cannot be talked to.
const VERBS: [(&str, u32); 5] = [
    ("ADD", code::TRY_AGAIN_LATER),
    ("DEL", code::TRY_AGAIN_LATER),
    ("CHECK", code::TRY_AGAIN_LATER),
    ("GC", code::TRY_AGAIN_LATER),
    ("STATUS", code::NOT_AVAILABLE),
];

fn call(a: &Attachment, verb: &str, socket: &Path) -> crate::runner::Call {
    let result = json!({"cniVersion": "1.1.0"});
    a.call(verb).field("prevResult", result).field("cni.dev/valid-attachments", json!([])).socket(socket)
}

#[test]
fn no_agent() {
    let a = Attachment::new();
    for (verb, code) in VERBS {
        let error =
            call(&a, verb, Path::new("/nonexistent/cni.sock")).field("timeoutSeconds", 1).run().error(code);
        assert!(error["msg"].as_str().unwrap().contains("/nonexistent/cni.sock"), "{error}");
    }
}

#[test]
fn an_agent_that_hangs_up() {
    let a = Attachment::new();
    let agent = Agent::play(|listener| {
        let mut asked = Vec::new();
        while let Some(request) = Peer::accept(listener).request() {
            asked.push(request);
        }
        asked
    });
    for (verb, code) in VERBS {
        let error = call(&a, verb, &agent.socket).field("timeoutSeconds", 1).run().error(code);
        assert!(error["details"].as_str().unwrap().contains("hung up"), "{error}");
    }
    drop(std::os::unix::net::UnixStream::connect(&agent.socket).unwrap());
    let asked = agent.finish();
    let adds = asked.iter().filter(|request| matches!(request, Request::Add { .. })).count();
    let dels = asked.iter().filter(|request| matches!(request, Request::Del { .. })).count();
    assert!(adds == 1 && dels > 1, "only what can be asked for twice is: {asked:?}");
}

#[test]
fn an_agent_that_is_restarted() {
    let a = Attachment::new();
    let agent = Agent::play(|listener| {
        Peer::accept(listener).request().unwrap();
        serve(listener, &Reply::Done)
    });
    call(&a, "DEL", &agent.socket).run().done();
    assert!(matches!(agent.finish(), Request::Del { .. }));
    // The same with nobody at the socket for a moment.
    let dir = tempfile::TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    let late = std::thread::spawn({
        let socket = socket.clone();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            serve(&std::os::unix::net::UnixListener::bind(socket).unwrap(), &Reply::Done)
        }
    });
    call(&a, "STATUS", &socket).run().done();
    assert!(matches!(late.join().unwrap(), Request::Status { .. }));
}

#[test]
fn an_agent_that_is_late() {
    let a = Attachment::new();
    let agent = Agent::play(|listener| {
        for _ in VERBS {
            let mut peer = Peer::accept(listener);
            peer.request().unwrap();
            // A start of a reply, and no more: the limit is on the whole.
            peer.send(b"\"Do");
            peer.wait_for_end();
        }
    });
    for (verb, code) in VERBS {
        let start = Instant::now();
        let error = call(&a, verb, &agent.socket).field("timeoutSeconds", 1).run().error(code);
        assert!((900..5000).contains(&start.elapsed().as_millis()), "{verb} took {:?}", start.elapsed());
        assert!(error["msg"].as_str().unwrap().contains("within 1 s"), "{error}");
    }
    agent.finish();
}

#[test]
fn an_agent_that_accepts_nobody() {
    let a = Attachment::new();
    let (full, wait) = mpsc::channel::<()>();
    let agent = Agent::play(move |_| wait.recv().unwrap_or_default());
    // Fill the backlog, so that one more connection waits for its turn.
    let fillers: Vec<_> = std::iter::from_fn(|| {
        let fd = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let address = rustix::net::SocketAddrUnix::new(&agent.socket).unwrap();
        rustix::net::connect(&fd, &address).is_ok().then_some(fd)
    })
    .take(20_000)
    .collect();
    assert!(fillers.len() < 20_000, "the backlog has no end");
    let error = call(&a, "DEL", &agent.socket).field("timeoutSeconds", 1).run().error(code::TRY_AGAIN_LATER);
    assert!(error["details"].as_str().unwrap().contains("accepts no connection"), "{error}");
    drop(full);
    agent.finish();
}

#[test]
fn an_agent_that_fails_is_quoted() {
    let a = Attachment::new();
    let failure = CniError::new(11, "no address bound yet").details("subnet-1 is out of addresses");
    let reply = Reply::Failed(failure);
    let agent = Agent::play(move |listener| VERBS.map(|_| serve(listener, &reply)));
    for (verb, _) in VERBS {
        let error = call(&a, verb, &agent.socket).run().error(11);
        assert_eq!(error["msg"], "no address bound yet");
        assert_eq!(error["details"], "subnet-1 is out of addresses");
    }
    agent.finish();
    assert_eq!(a.pod.ip("-o link").lines().filter(|line| line.contains("eth0")).count(), 0);
}

#[test]
fn an_agent_that_talks_nonsense() {
    let a = Attachment::new();
    for nonsense in [&b"{\"Wired\": true}\n"[..], b"\xff\xfe\n", b"[]\n", b"\n"] {
        let agent = Agent::play(move |listener| {
            let mut peer = Peer::accept(listener);
            peer.request().unwrap();
            peer.send(nonsense);
            peer.wait_for_end();
        });
        let error = call(&a, "ADD", &agent.socket).run().error(code::INTERNAL);
        assert!(error["details"].as_str().unwrap().contains("same version"), "{error}");
        agent.finish();
    }
    let agent = Agent::play(|listener| serve(listener, &Reply::Done));
    call(&a, "ADD", &agent.socket).run().error(code::INTERNAL);
    agent.finish();
}

#[test]
fn a_failure_with_code_zero_is_a_failure() {
    let a = Attachment::new();
    let agent = Agent::play(|listener| serve(listener, &Reply::Failed(CniError::new(0, "odd"))));
    call(&a, "DEL", &agent.socket).run().error(code::INTERNAL);
    agent.finish();
}

/// The agent dies after the plugin was told to wire, or after it said that it had: the runtime hears a
/// failure either way, and will DEL.
#[test]
fn an_agent_that_dies_within_add() {
    for heard_wired in [false, true] {
        let a = Attachment::new();
        let interface = a.interface(false);
        let (node, pod) = (a.node.name().to_owned(), a.pod.name().to_owned());
        let agent = Agent::play(move |listener| {
            let mut peer = Peer::accept(listener);
            peer.request().unwrap();
            Attachment::make_veth(&node, &pod, &interface);
            peer.reply(&Reply::Wire(interface));
            if heard_wired {
                assert_eq!(peer.request(), Some(Request::Wired));
            }
        });
        let error = call(&a, "ADD", &agent.socket).run().error(code::TRY_AGAIN_LATER);
        assert!(error["msg"].as_str().unwrap().contains("broke off"), "{error}");
        agent.finish();
    }
}

#[test]
fn an_agent_that_makes_another_interface() {
    let a = Attachment::new();
    let mut other_name = a.interface(false);
    other_name.ifname = "eth1".into();
    let agent = a.agent(other_name);
    let error = call(&a, "ADD", &agent.socket).run().error(code::INTERNAL);
    assert!(error["msg"].as_str().unwrap().contains("\"eth1\""), "{error}");
    assert_eq!(agent.finish().wired, None);

    let a = Attachment::new();
    let interface = a.interface(false);
    let reply = Reply::Wire(interface);
    let agent = Agent::play(move |listener| serve(listener, &reply));
    let error = call(&a, "ADD", &agent.socket).run().error(code::INTERNAL);
    assert!(error["msg"].as_str().unwrap().contains("made no interface"), "{error}");
    agent.finish();
}

#[test]
fn gc_passes_the_list_on() {
    let a = Attachment::new();
    let agent = Agent::play(|listener| serve(listener, &Reply::Done));
    let list = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]);
    let call = a.call("GC").without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME");
    call.field("cni.dev/valid-attachments", list).socket(&agent.socket).run().done();
    let Request::Gc { network, valid, .. } = agent.finish() else { panic!("not GC") };
    assert_eq!(network, "net");
    let keys: Vec<_> = valid
        .iter()
        .map(|key| (key.network.as_str(), key.container_id.as_str(), key.ifname.as_str()))
        .collect();
    assert_eq!(keys, [("net", "c1", "eth0"), ("net", "c2", "net1")]);
}
