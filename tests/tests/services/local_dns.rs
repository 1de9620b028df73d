//! node-local DNS: a cache on the node that listens on a link-local address and on the service address of the cluster's
//! DNS, and that keeps connection tracking out of it.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use ipam_lab::lab::netns::Netns;

use crate::rules::Proxy;
use crate::scene::{Scene, Server, failed, run, tcp, udp};

/// What node-local DNS is reached by when kube-proxy runs in IPVS mode, or the pods' resolv.conf names it.
const LINK_LOCAL: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
/// The service address of the cluster's DNS.
const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const PORT: u16 = 53;

/// The rules that `node-cache -setupiptables` writes for its addresses.
fn rules() -> String {
    let (mut raw, mut filter) = (String::new(), String::new());
    for ip in [LINK_LOCAL, CLUSTER_DNS] {
        for protocol in ["tcp", "udp"] {
            let to = format!("-d {ip}/32 -p {protocol} -m {protocol} --dport {PORT}");
            let from = format!("-s {ip}/32 -p {protocol} -m {protocol} --sport {PORT}");
            raw += &format!(
                "-A PREROUTING {to} -j NOTRACK\n-A OUTPUT {from} -j NOTRACK\n-A OUTPUT {to} -j NOTRACK\n"
            );
            filter += &format!("-A INPUT {to} -j ACCEPT\n-A OUTPUT {from} -j ACCEPT\n");
        }
    }
    format!("*raw\n{raw}COMMIT\n*filter\n{filter}COMMIT\n")
}

fn install(node: &Netns) {
    // `node-cache` makes a dummy; a bridge without ports is as good a place for an address.
    run(node, &["ip", "link", "add", "nodelocaldns", "type", "bridge"]);
    for ip in [LINK_LOCAL, CLUSTER_DNS] {
        run(node, &["ip", "addr", "add", &format!("{ip}/32"), "dev", "nodelocaldns"]);
    }
    run(node, &["ip", "link", "set", "nodelocaldns", "up"]);
    let mut restore =
        node.command("iptables-restore").arg("--noflush").stdin(Stdio::piped()).spawn().unwrap();
    restore.stdin.take().unwrap().write_all(rules().as_bytes()).unwrap();
    assert!(restore.wait().unwrap().success());
}

async fn answers(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let node = scene.machine();
    install(node);
    let tracked_before = tracked(node);
    let (client, own) = (scene.client.sandbox.ns(), [scene.client.ip()]);
    let mut results = Vec::new();
    for ip in [LINK_LOCAL, CLUSTER_DNS] {
        let server = Server { ns: node, ip: ip.into(), port: PORT };
        results.push(("UDP", udp(client, (ip, PORT), server, &own)));
        results.push(("TCP", tcp(client, (ip, PORT), server, &own)));
        results.push(("UDP from the node", udp(node, (ip, PORT), server, &[ip])));
    }
    let failed = failed(results);
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(tracked(node), tracked_before, "connection tracking saw the DNS");

    // The cache asks the cluster's DNS, a pod, from the node.
    let (primary, secondary) = scene.node_ips();
    let mut to_pod = Server::from(&scene.local);
    to_pod.port = PORT;
    udp(node, (scene.local.ip(), PORT), to_pod, &[primary, secondary]).unwrap();
}

/// Connections to or from port 53 in the node's table.
fn tracked(node: &Netns) -> usize {
    let table = node.read("/proc/net/nf_conntrack").unwrap();
    table.lines().filter(|line| line.split_whitespace().any(|word| word == "dport=53")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn node_local_dns_beside_kube_proxy_in_iptables_mode() {
    answers("dns_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_local_dns_beside_kube_proxy_in_nftables_mode() {
    answers("dns_nftables", Proxy::Nftables).await;
}
