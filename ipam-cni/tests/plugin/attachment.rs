//! A node, a pod, and the veth between them that an agent would make.

use std::{fs, os::fd::OwnedFd};

use ipam_cni::protocol::{PodInterface, Reply, Request};
use rustix::fs::fstat;
use serde_json::Value;

use crate::{
    agent::{Agent, Peer},
    namespaces::Netns,
    runner::{Call, Outcome},
};

pub const HOST_MAC: &str = "02:00:00:00:00:01";
pub const POD_MAC: &str = "02:00:00:00:00:02";

/// A node's and a pod's namespace.
pub struct Attachment {
    pub node: Netns,
    pub pod: Netns,
}

/// What a scripted ADD saw.
pub struct Seen {
    pub add: Request,
    pub wired: Option<Request>,
}

impl Attachment {
    pub fn new() -> Self {
        Self { node: Netns::new("node"), pod: Netns::new("pod") }
    }

    /// An interface with IPv4, and IPv6 when asked for.
    pub fn interface(&self, dual_stack: bool) -> PodInterface {
        let mut pod = PodInterface {
            ifname: "eth0".into(),
            mac: POD_MAC.into(),
            mtu: 1480,
            addresses: vec!["10.66.0.5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap()],
            gateway_mac: HOST_MAC.into(),
            host_ifname: "ipam0".into(),
        };
        if dual_stack {
            pod.addresses.push("fd66::5".parse().unwrap());
            pod.gateways.push("fe80::1".parse().unwrap());
        }
        pod
    }

    /// The agent's part of wiring: the veth, its pod end in the pod, and the node's side.
    pub fn make_veth(node: &str, pod: &str, interface: &PodInterface) {
        let PodInterface { ifname, mac, mtu, host_ifname, gateway_mac, .. } = interface;
        let run = |words: String| {
            let output = std::process::Command::new("ip").args(words.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(format!(
            "-n {node} link add {host_ifname} address {gateway_mac} mtu {mtu} type veth \
             peer name {ifname} address {mac} mtu {mtu} netns {pod}"
        ));
        run(format!("-n {node} addr add 10.66.0.1/32 dev lo"));
        run(format!("-n {node} addr add fd66::1/128 dev lo"));
        run(format!("-n {node} link set {host_ifname} up"));
        run(format!("-n {node} addr add fe80::1/64 dev {host_ifname} nodad"));
        run(format!("-n {node} route add 10.66.0.5/32 dev {host_ifname}"));
        run(format!("-n {node} route add fd66::5/128 dev {host_ifname}"));
    }

    /// An agent that serves one ADD.
    pub fn agent(&self, interface: PodInterface) -> Agent<Seen> {
        let (node, pod) = (self.node.name().to_owned(), self.pod.name().to_owned());
        Agent::play(move |listener| {
            let mut peer = Peer::accept(listener);
            let add = peer.request().unwrap();
            assert_is_netns(peer.fd.as_ref().expect("no descriptor came with ADD"), &pod);
            Self::make_veth(&node, &pod, &interface);
            peer.reply(&Reply::Wire(interface));
            let wired = peer.request();
            if wired.is_some() {
                peer.reply(&Reply::Done);
                peer.wait_for_end();
            }
            Seen { add, wired }
        })
    }

    /// A call for this pod.
    pub fn call(&self, verb: &str) -> Call {
        Call::new(verb).env("CNI_NETNS", &self.pod.path())
    }

    /// Wires the pod, which must work, and returns the result.
    pub fn add(&self, interface: &PodInterface, version: &str) -> Value {
        let agent = self.agent(interface.clone());
        let outcome = self.call("ADD").version(version).socket(&agent.socket).run();
        assert_eq!(agent.finish().wired, Some(Request::Wired), "{}", outcome.stdout);
        outcome.result()
    }

    /// CHECK with an agent that expects this interface.
    pub fn check(&self, interface: &PodInterface, result: &Value) -> Outcome {
        let reply = Reply::Wire(interface.clone());
        let agent = Agent::play(move |listener| crate::agent::serve(listener, &reply));
        let version = result["cniVersion"].as_str().unwrap().to_owned();
        let call =
            self.call("CHECK").version(&version).field("prevResult", result.clone()).socket(&agent.socket);
        let outcome = call.run();
        assert!(matches!(agent.finish(), Request::Check { .. }));
        outcome
    }
}

fn assert_is_netns(fd: &OwnedFd, name: &str) {
    let received = fstat(fd).unwrap();
    let named = fstat(fs::File::open(format!("/run/netns/{name}")).unwrap()).unwrap();
    assert_eq!((received.st_dev, received.st_ino), (named.st_dev, named.st_ino), "not the pod's namespace");
}
