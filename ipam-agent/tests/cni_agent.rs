//! The node agent with the real plugin, dataplane and API, on a node that is a network namespace. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "agent_world/world.rs"]
mod agent_world;

use std::{
    os::fd::AsFd as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agent_world::{GATEWAY, Netns, World, mode, pings, wait_for};
use ipam_agent::{
    api::IpPhase,
    dataplane::Dataplane,
    node::{
        NodeConfig, PodRules,
        journal::{Change, Journal, Record},
    },
};
use ipam_cni::{
    agent_client::Agent as AgentClient,
    error::code,
    protocol::{AttachmentKey, PROTOCOL_VERSION, PodIdentity, Request},
};
use ipam_common::PodRoute;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const IP: &str = "10.0.0.5";

fn ready() -> (World, agent_world::Agent) {
    let world = World::new();
    world.attach_eni();
    let agent = world.start();
    wait_for("the node to be ready", || world.is_ready());
    (world, agent)
}

/// Begins an ADD and gets as far as the agent's `Wire`.
fn half_an_add(world: &World, container: &str, pod: &Netns) -> AgentClient {
    let mut client = AgentClient::connect(&world.socket(), Duration::from_secs(5), code::IO).unwrap();
    let key = AttachmentKey { network: "net".into(), container_id: container.into(), ifname: "eth0".into() };
    let identity = PodIdentity {
        namespace: Some("default".into()),
        name: Some("web-0".into()),
        uid: Some(world.pod_uid("web-0")),
    };
    let request = Request::Add { protocol: PROTOCOL_VERSION, key, pod: identity, netns: pod.path() };
    client.send(&request, Some(pod.fd().as_fd())).unwrap();
    let interface = client.expect_wire().unwrap();
    assert_eq!(interface.addresses, [std::net::IpAddr::from([10, 0, 0, 5])]);
    assert!(pod.ip("-o link").contains("eth0"), "the pod's end is made in the pod");
    client
}

#[test]
fn a_pod_lives_and_its_detach_is_acknowledged() {
    let (world, agent) = ready();
    world.bind(IP, "web-0", 3);
    let pod = Netns::new();
    let result = world.add("c1", "web-0", &pod).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.0.0.5/32");
    assert!(pings(&pod, GATEWAY), "the pod reaches the VPC");
    assert!(pings(&world.node, IP.parse().unwrap()), "the node reaches the pod");
    let check = || world.cni("CHECK", "c1", "web-0", Some(&pod), json!({ "prevResult": result }));
    check().unwrap();
    assert_eq!(world.add("c1", "web-0", &pod).unwrap_err().code, code::INTERFACE_EXISTS);
    let (links, routes) = world.wiring();
    assert_eq!(links.len(), 1);
    assert_eq!(routes, [format!("{IP} dev {} scope link", links[0])]);
    assert_eq!(mode(&world.socket()), 0o600);

    world.set_phase(IP, IpPhase::Detaching);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.acknowledged(IP), None, "the pod is still there");
    check().unwrap();
    world.del("c1").unwrap();
    world.del("c1").unwrap();
    wait_for("the acknowledgement", || world.acknowledged(IP) == Some(3));
    assert_eq!(world.wiring(), (vec![], vec![]), "acknowledged means that nothing is left");
    assert_eq!(check().unwrap_err().code, code::UNKNOWN_CONTAINER);
    agent.stop().unwrap();
    assert_eq!(world.dataplane(), (vec![], vec![]));
}

#[test]
fn an_add_waits_for_its_address_and_a_pod_that_never_came_is_acknowledged() {
    let world = World::new();
    let _agent = world.start();
    // A node without ENIs can serve: its first ENI comes with its first pod.
    wait_for("the node to be ready", || world.cni("STATUS", "x", "x", None, Value::Null).is_ok());
    let pod = Netns::new();
    world.create_pod("web-0");
    std::thread::scope(|scope| {
        let add = scope.spawn(|| (world.add("c1", "web-0", &pod), Instant::now()));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!add.is_finished());
        world.attach_eni();
        world.bind(IP, "web-0", 1);
        let (result, at) = (Instant::now(), add.join().unwrap());
        at.0.unwrap();
        assert!(at.1 - result < Duration::from_secs(15), "woken, not at the end of its patience");
    });
    assert!(pings(&pod, GATEWAY));
    world.bind("10.0.0.6", "never", 7);
    world.set_phase("10.0.0.6", IpPhase::Detaching);
    wait_for("the acknowledgement", || world.acknowledged("10.0.0.6") == Some(7));
    // Whoever asks for it now is too late.
    world.set_phase("10.0.0.6", IpPhase::Bound);
    std::thread::sleep(Duration::from_millis(100));
    std::thread::scope(|scope| {
        let late = scope.spawn(|| world.add("c2", "never", &Netns::new()));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!late.is_finished(), "epoch 7 is over");
        world.with_api(async |client| {
            let api: kube::Api<ipam_agent::api::VpcIP> = kube::Api::all(client);
            let patch = kube::api::Patch::Merge(json!({ "status": { "epoch": 8 } }));
            api.patch_status("10.0.0.6", &Default::default(), &patch).await.unwrap();
        });
        late.join().unwrap().unwrap();
    });
}

#[test]
fn a_plugin_that_leaves_half_way_leaves_nothing() {
    let (world, agent) = ready();
    world.bind(IP, "web-0", 1);
    let pod = Netns::new();
    drop(half_an_add(&world, "c1", &pod));
    world.assert_bare();
    assert!(!pod.ip("-o link").contains("eth0"));
    world.add("c1", "web-0", &pod).unwrap();
    assert!(pings(&pod, GATEWAY));
    agent.stop().unwrap();
}

#[test]
fn an_agent_killed_half_way_undoes_it_at_its_next_start() {
    let (world, agent) = ready();
    world.bind(IP, "web-0", 1);
    let pod = Netns::new();
    let client = half_an_add(&world, "c1", &pod);
    agent.kill();
    drop(client);
    assert_eq!(world.wiring().0.len(), 1, "it was killed with the link in place");
    let agent = world.start();
    assert_eq!(world.wiring(), (vec![], vec![]), "undone before the first call");
    world.add("c1", "web-0", &pod).unwrap();
    assert!(pings(&pod, GATEWAY));
    agent.stop().unwrap();
    assert_eq!(world.dataplane().0, [std::net::Ipv4Addr::new(10, 0, 0, 5)]);
}

#[test]
fn a_restart_loses_no_packet_and_drift_is_repaired() {
    let (world, agent) = ready();
    world.bind(IP, "web-0", 1);
    let pod = Netns::new();
    let result = world.add("c1", "web-0", &pod).unwrap();
    let ping = pod.run(|| {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-q", "-i", "0.002", "-c", "1000", "-W", "1", &GATEWAY.to_string()]);
        ping.stdout(Stdio::piped()).spawn().unwrap()
    });
    std::thread::sleep(Duration::from_millis(200));
    agent.kill();
    std::thread::sleep(Duration::from_millis(200));
    let agent = world.start();
    let output = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("1000 received, 0% packet loss"), "{output}");

    let link = world.wiring().0.remove(0);
    world.node.ip(&format!("link set {link} down"));
    world.node.ip("link set eni0 down");
    wait_for("the repair", || {
        world.cni("CHECK", "c1", "web-0", Some(&pod), json!({ "prevResult": result })).is_ok()
            && pings(&pod, GATEWAY)
    });
    agent.kill();

    // What is of no attachment goes at the start; what is somebody else's stays.
    let stray = std::net::Ipv4Addr::new(10, 0, 0, 99);
    world.node.run(|| {
        let mut dataplane = Dataplane::open(&world.bpffs).unwrap();
        let mac = ipam_common::Mac::ZERO;
        let route = PodRoute { ifindex: 9999, epoch: 1, eni: 1, flags: 0, mac, reserved: [0; 2] };
        dataplane.set_route(stray, &route).unwrap();
    });
    assert_eq!(world.dataplane().0.len(), 2);
    world.node.ip("link add ipam00000000000 type veth peer name other");
    world.node.ip("link set ipam00000000000 up");
    world.node.ip("route add 10.0.0.99/32 dev ipam00000000000 proto 69");
    world.node.ip("link add ipamforeign type veth peer name foreign");
    world.node.ip("link set ipamforeign up");
    world.node.ip("route add 10.0.0.98/32 dev ipamforeign");
    let agent = world.start();
    assert!(pings(&pod, GATEWAY));
    let (mut links, routes) = world.wiring();
    links.sort();
    assert_eq!(links.len(), 2, "{links:?}");
    assert!(links.contains(&link) && links.contains(&"ipamforeign".to_owned()));
    assert_eq!(routes, [format!("{IP} dev {link} scope link")]);
    assert!(world.node.ip("route").contains("10.0.0.98 dev ipamforeign"));
    agent.stop().unwrap();
    assert_eq!(world.dataplane().0, [std::net::Ipv4Addr::new(10, 0, 0, 5)]);
}

#[test]
fn a_pod_whose_namespace_is_gone_is_collected() {
    let (world, _agent) = ready();
    world.bind(IP, "web-0", 2);
    let pod = Netns::new();
    world.add("c1", "web-0", &pod).unwrap();
    drop(pod);
    world.set_phase(IP, IpPhase::Detaching);
    wait_for("the acknowledgement", || world.acknowledged(IP) == Some(2));
    world.assert_bare();
}

#[test]
fn a_second_sandbox_takes_over_and_the_first_ones_del_does_not_hurt_it() {
    let (world, _agent) = ready();
    world.bind(IP, "web-0", 1);
    let (first, second) = (Netns::new(), Netns::new());
    world.add("c1", "web-0", &first).unwrap();
    let result = world.add("c2", "web-0", &second).unwrap();
    assert!(pings(&second, GATEWAY));
    assert!(!pings(&first, GATEWAY), "one address, one holder");
    world.del("c1").unwrap();
    wait_for("the first link to go", || world.wiring().0.len() == 1);
    assert!(pings(&second, GATEWAY));
    world.cni("CHECK", "c2", "web-0", Some(&second), json!({ "prevResult": result })).unwrap();
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "c2", "ifname": "eth0" }] });
    world.cni("GC", "x", "x", None, valid).unwrap();
    assert!(pings(&second, GATEWAY), "it is valid");
    world.cni("GC", "x", "x", None, json!({ "cni.dev/valid-attachments": [] })).unwrap();
    world.assert_bare();
}

#[test]
fn thirty_pods_at_once() {
    let (world, agent) = ready();
    for id in 0..30 {
        world.bind(&format!("10.0.0.{}", 100 + id), &format!("p{id}"), 1);
    }
    let pods: Vec<_> = (0..30).map(|_| Netns::new()).collect();
    std::thread::scope(|scope| {
        for (id, pod) in pods.iter().enumerate() {
            let world = &world;
            scope.spawn(move || world.add(&format!("c{id}"), &format!("p{id}"), pod).unwrap());
        }
    });
    assert_eq!(world.wiring().0.len(), 30);
    assert!(pods.iter().all(|pod| pings(pod, GATEWAY)));
    std::thread::scope(|scope| {
        for id in 0..30 {
            let world = &world;
            scope.spawn(move || world.del(&format!("c{id}")).unwrap());
        }
    });
    world.assert_bare();
    agent.stop().unwrap();
    assert_eq!(world.dataplane(), (vec![], vec![]));
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let (world, _agent) = ready();
    let mut config = world.config();
    config.socket = world.directory.path().join("second.sock");
    let error = world.start_with(config).stop().unwrap_err().to_string();
    assert!(error.contains("node.redb`: another process has it open; stop the other agent"), "{error}");
    let mut config = world.config();
    config.journal = world.directory.path().join("second.redb");
    let refused = world.start_with(config).stop();
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("another agent answers there; stop that agent"), "{error}");
    wait_for("the first agent to serve", || world.cni("STATUS", "x", "x", None, Value::Null).is_ok());
}

#[test]
fn a_journal_that_was_being_made_anew_when_the_agent_died_is_made_to_its_end() {
    let (world, agent) = ready();
    world.bind(IP, "web-0", 3);
    let pod = Netns::new();
    let result = world.add("c1", "web-0", &pod).unwrap();
    agent.kill();
    // What the first start without the journal has written, up to the mark that it has come to its end.
    let path = world.config().journal;
    let known = Journal::open(&path).unwrap();
    let record = known.book().attachments.values().next().unwrap().clone();
    drop(known);
    std::fs::remove_file(&path).unwrap();
    let key = AttachmentKey {
        network: String::new(),
        container_id: record.host_ifname.clone(),
        ifname: String::new(),
    };
    let found = Record {
        key,
        pod_namespace: String::new(),
        pod_name: String::new(),
        pod_uid: None,
        vpc_ip_uid: String::new(),
        ..Record::clone(&record)
    };
    let begun = Journal::open(&path).unwrap();
    world.with_api(async |_| {
        begun.change(Change::Adopt { was: None, record: Box::new(found) }).await.unwrap();
    });
    assert!(begun.book().rebuilding);
    drop(begun);
    let file = std::fs::File::open(&path).unwrap();
    wait_for("the journal to be closed", || file.try_lock().is_ok());
    drop(file);

    let agent = world.start();
    wait_for("the node to be ready", || world.is_ready());
    assert!(pings(&pod, GATEWAY));
    world.cni("CHECK", "c1", "web-0", Some(&pod), json!({ "prevResult": result })).unwrap();
    world.del("c1").unwrap();
    world.assert_bare();
    agent.stop().unwrap();
    wait_for("the journal to be whole", || {
        Journal::open(&path).is_ok_and(|journal| !journal.book().rebuilding)
    });
}

#[test]
fn the_copy_of_a_static_pod_is_the_pod_that_the_runtime_names() {
    let (world, _agent) = ready();
    let pods = async |client| -> kube::Api<Pod> { kube::Api::default_namespaced(client) };
    world.with_api(async |client| {
        let copy = json!({
            "metadata": { "name": "web-0", "annotations": { "kubernetes.io/config.mirror": "web-0-uid" } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "none" }] },
        });
        pods(client).await.create(&Default::default(), &serde_json::from_value(copy).unwrap()).await.unwrap();
    });
    // The world knows no object of this pod, so this is the UID in `CNI_ARGS`.
    assert_eq!(world.pod_uid("web-0"), "web-0-uid");
    world.bind_uid(IP, "web-0", "web-0-uid", 3);
    world.add("c1", "web-0", &Netns::new()).unwrap();
    world.del("c1").unwrap();
    // Longer than the agent asks.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.acknowledged(IP), None, "the pod lives, and gets another sandbox");
    world.add("c2", "web-0", &Netns::new()).unwrap();
    world.with_api(async |client| {
        pods(client).await.delete("web-0", &Default::default()).await.unwrap();
    });
    world.del("c2").unwrap();
    wait_for("the acknowledgement", || world.acknowledged(IP) == Some(3));
}

/// A small tmpfs, until it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(at: std::path::PathBuf) -> Self {
        std::fs::create_dir(&at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "small"]).arg(&at).status().unwrap();
        assert!(mount.success());
        Self(at)
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while filler.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_journal_that_cannot_be_written_ends_the_agent_and_the_next_one_goes_on() {
    let world = World::new();
    let disk = SmallDisk::new(world.directory.path().join("small"));
    let config = || NodeConfig { journal: disk.0.join("node.redb"), ..world.config() };
    world.attach_eni();
    let agent = world.start_with(config());
    wait_for("the node to be ready", || world.is_ready());
    world.bind(IP, "web-0", 3);
    let pod = Netns::new();
    let result = world.add("c1", "web-0", &pod).unwrap();

    disk.fill();
    // Until one of them needs a page that the file has not.
    for number in 6..60 {
        world.bind(&format!("10.0.0.{number}"), &format!("web-{number}"), 1);
        if world.add(&format!("c{number}"), &format!("web-{number}"), &Netns::new()).is_err() {
            break;
        }
    }
    let error = agent.ended().to_string();
    assert!(
        error.starts_with(&format!("journal `{}`: write failed: ", config().journal.display())),
        "{error}"
    );
    assert!(error.contains("check the disk"), "{error}");
    assert!(pings(&pod, GATEWAY), "pods go on");

    disk.clear();
    let _agent = world.start_with(config());
    wait_for("the node to be ready", || world.is_ready());
    world.cni("CHECK", "c1", "web-0", Some(&pod), json!({ "prevResult": result })).unwrap();
    world.bind("10.0.0.99", "web-99", 1);
    world.add("c99", "web-99", &Netns::new()).unwrap();
    world.del("c1").unwrap();
}

/// Name, UID and annotations of the only Pod, once it is there.
fn only_pod(world: &World) -> Option<(String, String, std::collections::BTreeMap<String, String>)> {
    let pods = world.with_api(async |client| {
        let api: kube::Api<Pod> = kube::Api::namespaced(client, "default");
        api.list(&Default::default()).await.unwrap().items
    });
    assert!(pods.len() < 2, "{pods:?}");
    let meta = pods.into_iter().next()?.metadata;
    Some((meta.name.unwrap(), meta.uid.unwrap(), meta.annotations.unwrap_or_default()))
}

#[test]
fn a_container_of_no_cluster_is_a_pod_too() {
    let world = World::new();
    world.attach_eni();
    let mut config = world.config();
    config.create_pods = Some(PodRules { static_names: vec!["web-*".into()], expired_duration: None });
    let agent = world.start_with(config.clone());
    let args = "IgnoreUnknown=1;K8S_POD_NAME=web-0";
    let netns = Netns::new();
    let add = |container: &str| world.cni_with("ADD", container, args, Some(&netns), Value::Null);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| add("c1"));
        wait_for("the Pod object", || only_pod(&world).is_some());
        let (name, uid, annotations) = only_pod(&world).unwrap();
        assert_eq!(
            (name.as_str(), annotations["eni-ipam.dev/vpc-ip-claim-delete-policy"].as_str()),
            ("web-0", "Never")
        );
        world.bind_uid(IP, "web-0", &uid, 1);
        adding.join().unwrap().unwrap();
    });
    assert!(pings(&netns, GATEWAY));
    let twin = world.cni_with("ADD", "c2", args, Some(&Netns::new()), Value::Null).unwrap_err();
    assert!(twin.to_string().contains("container c1 of the name web-0 is attached"), "{twin}");
    world.cni_with("DEL", "c1", args, None, Value::Null).unwrap();
    wait_for("the Pod object to go", || only_pod(&world).is_none());

    // Killed while the next one waits for its address: its Pod is swept away at the start.
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| add("c3"));
        wait_for("the Pod object", || only_pod(&world).is_some());
        agent.kill();
        adding.join().unwrap().unwrap_err();
    });
    assert!(only_pod(&world).is_some());
    let _agent = world.start_with(config);
    assert!(only_pod(&world).is_none());
    world.assert_bare();
}
