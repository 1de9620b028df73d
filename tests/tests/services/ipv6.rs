//! Services of IPv6, with pods of both families: here, there, itself, NodePort and the node.

use std::net::Ipv6Addr;

use ipam_lab::cluster::RunningPod;
use ipam_lab::lab::traffic::ping;

use crate::rules::{Policy, Proxy, Service, TARGET_PORT};
use crate::scene::{PORT, Scene, Server, WAIT, failed, tcp, udp};

const CIDR: &str = "fd00:10:96::/112";
const TO_SELF: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10);
const TO_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11);
const TO_REMOTE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x12);

fn server(pod: &RunningPod) -> Server<'_> {
    Server { ns: pod.sandbox.ns(), ip: pod.ip_v6().into(), port: TARGET_PORT }
}

/// Two nodes, with services of IPv6 on the first beside those of IPv4.
async fn scene(test: &str, proxy: Proxy, more: &[&str]) -> Scene {
    let scene = Scene::dual_stack(test, proxy, &[&["--stack-cidr", CIDR], more].concat()).await;
    let service = |ip: Ipv6Addr, pod: &RunningPod, node_port, policy| Service {
        ip: ip.into(),
        balancer: None,
        port: PORT,
        backend: pod.ip_v6().into(),
        node_port,
        policy,
    };
    let services = [
        service(TO_SELF, &scene.client, 30080, Policy::Cluster),
        service(TO_LOCAL, &scene.local, 30081, Policy::Local),
        service(TO_REMOTE, &scene.remote, 30082, Policy::Cluster),
    ];
    proxy.install(scene.machine(), &services).unwrap();
    scene
}

/// Every way to a service, and how it went.
fn results(scene: &Scene) -> Vec<(&'static str, anyhow::Result<()>)> {
    let Scene { client, local, remote, cluster } = scene;
    let (pod, ctl) = (client.sandbox.ns(), cluster.lab.host("outside", "zone-1").unwrap());
    let outside = [ctl.ip_v6().unwrap()];
    let machine = cluster.node("node-a").machine().ip_v6().unwrap();
    let (own, node) = ([client.ip_v6()], [machine]);
    let (to_self, to_local, to_remote) = (server(client), server(local), server(remote));
    vec![
        ("pod → service → pod here, TCP", tcp(pod, (TO_LOCAL, PORT), to_local, &own)),
        ("pod → service → pod there, TCP", tcp(pod, (TO_REMOTE, PORT), to_remote, &own)),
        ("pod → service → itself, TCP", tcp(pod, (TO_SELF, PORT), to_self, &node)),
        ("pod → service → pod here, UDP", udp(pod, (TO_LOCAL, PORT), to_local, &own)),
        ("pod → service → pod there, UDP", udp(pod, (TO_REMOTE, PORT), to_remote, &own)),
        ("NodePort, Cluster", tcp(ctl.ns(), (machine, 30082), to_remote, &node)),
        ("NodePort, Cluster, pod here", tcp(ctl.ns(), (machine, 30080), to_self, &node)),
        ("NodePort, Local", tcp(ctl.ns(), (machine, 30081), to_local, &outside)),
        ("NodePort, Local, UDP", udp(ctl.ns(), (machine, 30081), to_local, &outside)),
        ("node → service → pod there", tcp(scene.machine(), (TO_REMOTE, PORT), to_remote, &node)),
        ("node → pod", tcp(scene.machine(), (local.ip_v6(), TARGET_PORT), to_local, &node)),
        ("node → pod, ICMP", ping(scene.machine(), local.ip_v6(), WAIT).map(drop)),
        ("pod → node, ICMP", ping(pod, machine, WAIT).map(drop)),
    ]
}

/// Packets of IPv6 that node-a's stack has forwarded.
fn forwarded(scene: &Scene) -> u64 {
    let snmp = scene.machine().read("/proc/net/snmp6").unwrap();
    let line = snmp.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap();
    line.trim().parse().unwrap()
}

async fn all_work(test: &str, proxy: Proxy) {
    let scene = scene(test, proxy, &[]).await;
    let (pod, own) = (scene.client.sandbox.ns(), [scene.client.ip_v6()]);
    // What no service is in the way of never enters the stack.
    let before = (forwarded(&scene), scene.flows());
    for to in [&scene.local, &scene.remote] {
        tcp(pod, (to.ip_v6(), TARGET_PORT), server(to), &own).unwrap();
    }
    assert_eq!((forwarded(&scene), scene.flows()), before, "pod to pod entered the stack");
    let failed = failed(results(&scene));
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(forwarded(&scene) > before.0 && scene.flows() > before.1, "services are the stack's");
    assert_eq!(scene.cluster.lab.fabric().all_foreign_v6().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_beside_kube_proxy_in_iptables_mode() {
    all_work("svc6_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_beside_kube_proxy_in_nftables_mode() {
    all_work("svc6_nftables", Proxy::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_affinity_services_of_ipv6_fail() {
    let scene = scene("svc6_off", Proxy::Iptables, &["--no-stack-affinity"]).await;
    let failed = failed(results(&scene));
    for name in ["pod → service → pod here, TCP", "pod → service → pod there, TCP", "NodePort, Local"]
    {
        let found = failed.iter().any(|failed| failed.starts_with(&format!("{name}: ")));
        assert!(found, "{name} works without stack affinity; failed are {failed:#?}");
    }
}
