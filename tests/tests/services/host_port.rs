//! hostPort by the stock `portmap` plugin, chained behind ours as runtimes do it. Its CHECK is left out: version 1.1 looks
//! for IPv6 rules that its ADD of an IPv4 pod does not write.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipam_lab::cluster::{NETWORK, RunningPod};
use serde_json::{Value, json};

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{Scene, failed, tcp, udp};

/// Where distributions put the reference plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
const HOST_PORT: u16 = 8088;
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn portmap() -> PathBuf {
    let all = CNI_FOLDERS.iter().map(|folder| Path::new(folder).join("portmap"));
    all.into_iter().find(|path| path.exists()).expect("portmap: not installed? cargo xtask setup")
}

/// The configuration as the runtime hands it to the second plugin of the list.
fn conf(pod: &RunningPod) -> Value {
    let mappings: Vec<_> = ["tcp", "udp"]
        .iter()
        .map(|protocol| json!({"hostPort": HOST_PORT, "containerPort": TARGET_PORT, "protocol": protocol}))
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": pod.sandbox.result().unwrap(),
    })
}

async fn host_ports(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let plugin = portmap();
    let conf = conf(&scene.local);
    let call = |command| scene.local.sandbox.call(&plugin, command, &[], &conf.to_string()).unwrap();
    call("ADD").ok().unwrap();

    let (primary, secondary) = scene.node_ips();
    let (ctl, pod) = (scene.cluster.lab.ctl(), &scene.client);
    let (here, there, itself) = (pod.sandbox.ns(), scene.remote.sandbox.ns(), scene.local.sandbox.ns());
    let (from_ctl, from_here, from_there) = ([ctl.ip()], [pod.ip()], [scene.remote.ip()]);
    let node = [primary, secondary, scene.local.ip()];
    let at = |ip| (ip, HOST_PORT);
    let local = &scene.local;
    let failed = failed(vec![
        ("VPC host, primary ENI", tcp(ctl.ns(), at(primary), local, &from_ctl)),
        ("VPC host, secondary ENI", tcp(ctl.ns(), at(secondary), local, &from_ctl)),
        ("VPC host, UDP", udp(ctl.ns(), at(secondary), local, &from_ctl)),
        ("pod of the same node", tcp(here, at(primary), local, &from_here)),
        ("pod of the same node, UDP", udp(here, at(primary), local, &from_here)),
        ("pod of another node", tcp(there, at(primary), local, &from_there)),
        ("pod of another node, UDP", udp(there, at(secondary), local, &from_there)),
        ("the pod itself", tcp(itself, at(primary), local, &node)),
        ("the node by its address", tcp(scene.machine(), at(primary), local, &node)),
        ("the node by its loopback", tcp(scene.machine(), at(LOOPBACK), local, &node)),
    ]);
    assert!(failed.is_empty(), "{failed:#?}");

    call("DEL").ok().unwrap();
    tcp(ctl.ns(), at(primary), local, &from_ctl).unwrap_err();
    // Our own DEL of the list comes last, and CHECK of ours does not mind the other plugin.
    scene.local.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_beside_kube_proxy_in_iptables_mode() {
    host_ports("hostport_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_beside_kube_proxy_in_nftables_mode() {
    host_ports("hostport_nftables", Proxy::Nftables).await;
}
