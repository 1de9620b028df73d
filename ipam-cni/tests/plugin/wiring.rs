//! ADD with a real pod.

use std::collections::BTreeSet;

use ipam_cni::{
    error::code,
    protocol::{AttachmentKey, PROTOCOL_VERSION, PodIdentity, Request},
};
use serde_json::json;

use crate::attachment::{Attachment, HOST_MAC, POD_MAC};

#[test]
fn add_wires_the_pod() {
    let a = Attachment::new();
    let agent = a.agent(a.interface(false));
    let outcome = a
        .call("ADD")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c1")
        .field("dns", json!({"nameservers": ["192.0.2.53"], "search": ["example"]}))
        .socket(&agent.socket)
        .run();
    let seen = agent.finish();
    let some = |text: &str| Some(text.to_owned());
    let expected = Request::Add {
        protocol: PROTOCOL_VERSION,
        key: AttachmentKey { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: PodIdentity { namespace: some("ns"), name: some("web-0"), uid: some("u1") },
        netns: a.pod.path(),
    };
    assert_eq!(seen.add, expected);
    assert_eq!(seen.wired, Some(Request::Wired));
    assert_eq!(
        outcome.result(),
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "ipam0", "mac": HOST_MAC, "mtu": 1480},
                {"name": "eth0", "mac": POD_MAC, "mtu": 1480, "sandbox": a.pod.path()},
            ],
            "ips": [{"address": "10.66.0.5/32", "gateway": "169.254.1.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            "dns": {"nameservers": ["192.0.2.53"], "search": ["example"]},
        })
    );

    let addresses = a.pod.ip("-o addr show dev eth0");
    assert!(addresses.contains("inet 10.66.0.5/32"), "{addresses}");
    assert!(!addresses.contains("inet6"), "a pod without IPv6 got a link-local address: {addresses}");
    assert!(a.pod.ip("link show dev eth0").contains("state UP"));
    let routes: BTreeSet<_> = a.pod.ip("route").lines().map(|line| line.trim().to_owned()).collect();
    let expected = ["default via 169.254.1.1 dev eth0 onlink", "169.254.1.1 dev eth0 scope link"];
    assert_eq!(routes, expected.map(str::to_owned).into());
    let neighbours = a.pod.ip("neigh show dev eth0");
    assert_eq!(neighbours.trim(), format!("169.254.1.1 lladdr {HOST_MAC} PERMANENT"));

    assert!(a.node.pings("10.66.0.5"), "the node does not reach the pod");
    assert!(a.pod.pings("10.66.0.1"), "the pod does not reach the node");
}

#[test]
fn add_wires_both_families() {
    let a = Attachment::new();
    let result = a.add(&a.interface(true), "1.0.0");
    assert_eq!(result["ips"][1], json!({"address": "fd66::5/128", "gateway": "fe80::1", "interface": 1}));
    assert!(a.pod.ip("-6 route").contains("default via fe80::1 dev eth0"));
    assert!(a.pod.ip("-6 neigh show dev eth0").contains(&format!("fe80::1 lladdr {HOST_MAC} PERMANENT")));
    assert!(a.node.pings("10.66.0.5"));
    assert!(a.node.pings("fd66::5"), "the node does not reach the pod over IPv6");
    assert!(a.pod.pings("fd66::1"), "the pod does not reach the node over IPv6");
}

#[test]
fn results_have_the_form_of_their_version() {
    for (version, ip_version, mtu) in [
        ("0.3.1", json!("4"), json!(null)),
        ("0.4.0", json!("4"), json!(null)),
        ("1.0.0", json!(null), json!(null)),
        ("1.1.0", json!(null), json!(1480)),
    ] {
        let a = Attachment::new();
        let result = a.add(&a.interface(false), version);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["version"], ip_version, "{version}");
        assert_eq!(result["interfaces"][1]["mtu"], mtu, "{version}");
    }
}

#[test]
fn add_appends_to_what_came_before_it_in_the_chain() {
    let a = Attachment::new();
    let agent = a.agent(a.interface(false));
    let before = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net0", "sandbox": a.pod.path()}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.1"]},
    });
    let outcome =
        a.call("ADD").version("1.0.0").field("prevResult", before.clone()).socket(&agent.socket).run();
    agent.finish();
    let result = outcome.result();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!(result["ips"][0], before["ips"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"], before["dns"]);
}

#[test]
fn add_leaves_an_interface_that_exists_alone() {
    let a = Attachment::new();
    a.add(&a.interface(false), "1.1.0");
    let state = || [a.pod.ip("-o addr"), a.pod.ip("route"), a.pod.ip("neigh"), a.pod.ip("-o link")];
    let before = state();
    // No agent: nothing may be asked for before this is seen.
    let error = a.call("ADD").run().error(code::INTERFACE_EXISTS);
    assert!(error["msg"].as_str().unwrap().contains("eth0"), "{error}");
    assert_eq!(state(), before);
    assert!(a.node.pings("10.66.0.5"));
}

#[test]
fn a_refusal_of_the_kernel_names_the_step_and_ends_the_conversation() {
    let a = Attachment::new();
    let mut interface = a.interface(false);
    // The kernel takes no multicast address as next hop.
    interface.gateways = vec!["224.0.0.1".parse().unwrap()];
    let agent = a.agent(interface);
    let error = a.call("ADD").socket(&agent.socket).run().error(code::KERNEL);
    assert_eq!(agent.finish().wired, None, "the agent heard Wired after a failure");
    assert!(error["msg"].as_str().unwrap().contains("224.0.0.1"), "{error}");
    assert!(error["details"].as_str().unwrap().contains("os error"), "{error}");
}

#[test]
fn del_is_served_without_a_namespace_and_again() {
    use crate::agent::{Agent, serve};
    use ipam_cni::protocol::Reply;

    let a = Attachment::new();
    let agent = Agent::play(|listener| [(); 4].map(|()| serve(listener, &Reply::Done)));
    let del = a.call("DEL").socket(&agent.socket).field("prevResult", json!({}));
    del.run().done();
    del.run().done();
    a.pod.remove();
    del.run().done();
    del.without("CNI_NETNS").run().done();
    for request in agent.finish() {
        assert!(
            matches!(request, Request::Del { key, .. } if key.container_id == "c1" && key.network == "net")
        );
    }
}
