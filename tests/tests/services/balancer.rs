//! A load balancer of the cloud: its probes, and connections whose destination it keeps.

use std::net::Ipv4Addr;

use ipam_lab::world::World as _;

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{BALANCED, BALANCED_LOCAL, PORT, Scene, Server, failed, tcp, udp};

/// Sources of probes: of Tencent Cloud's CLB, and of the range that most clouds take theirs from (RFC 6598).
const PROBERS: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 128, 7), Ipv4Addr::new(100, 64, 9, 9)];
/// A client in the world, whose address the balancer keeps too.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
/// Where kube-proxy answers `healthCheckNodePort`.
const HEALTH_PORT: u16 = 32000;

async fn probes_and_connections(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let (primary, secondary) = scene.node_ips();
    let node = [primary, secondary];
    let health = Server { ns: scene.machine(), ip: Ipv4Addr::UNSPECIFIED.into(), port: HEALTH_PORT };
    for (n, ip) in PROBERS.into_iter().enumerate() {
        let prober = scene.machine_at(&format!("prober-{n}"), ip);
        let from = prober.ns();
        let failed = failed(vec![
            ("health check of the node", tcp(from, (primary, HEALTH_PORT), health, &[ip])),
            ("probe of a NodePort, Local", tcp(from, (primary, 30081), &scene.local, &[ip])),
            ("probe of a NodePort, Local, secondary ENI", tcp(from, (secondary, 30081), &scene.local, &[ip])),
            ("probe of a NodePort, Cluster", tcp(from, (primary, 30082), &scene.remote, &node)),
            ("probe of a NodePort, UDP", udp(from, (primary, 30081), &scene.local, &[ip])),
            ("probe of the pod itself", tcp(from, (scene.local.ip(), TARGET_PORT), &scene.local, &[ip])),
            ("probe of the pod itself, UDP", udp(from, (scene.local.ip(), TARGET_PORT), &scene.local, &[ip])),
        ]);
        assert!(failed.is_empty(), "from {ip}: {failed:#?}");
    }

    // The balancer sends what comes for its addresses to a node as it is, and lets the node answer for it.
    let machine = scene.cluster.node("node-a").machine();
    for ip in [BALANCED, BALANCED_LOCAL] {
        scene.cluster.lab.fabric().assign(&machine.primary().id, ip.into()).unwrap();
    }
    let client = scene.machine_at("client", CLIENT);
    let (from, pod) = (client.ns(), scene.client.sandbox.ns());
    let own = [scene.client.ip()];
    let failed = failed(vec![
        ("Local, the client's address is kept", tcp(from, (BALANCED_LOCAL, PORT), &scene.local, &[CLIENT])),
        ("Local, UDP", udp(from, (BALANCED_LOCAL, PORT), &scene.local, &[CLIENT])),
        ("Cluster, to a pod of another node", tcp(from, (BALANCED, PORT), &scene.remote, &node)),
        ("Cluster, UDP", udp(from, (BALANCED, PORT), &scene.remote, &node)),
        ("a pod by the balancer's address, Local", tcp(pod, (BALANCED_LOCAL, PORT), &scene.local, &own)),
        (
            "the node by the balancer's address",
            tcp(scene.machine(), (BALANCED_LOCAL, PORT), &scene.local, &node),
        ),
        ("a pod by the balancer's address, Cluster", tcp(pod, (BALANCED, PORT), &scene.remote, &node)),
    ]);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_beside_kube_proxy_in_iptables_mode() {
    probes_and_connections("lb_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_beside_kube_proxy_in_nftables_mode() {
    probes_and_connections("lb_nftables", Proxy::Nftables).await;
}
