//! The metadata service at 169.254.169.254, which pods reach through the node.

use std::net::Ipv4Addr;

use crate::rules::Proxy;
use crate::scene::{PORT, Scene, Server, failed, run, tcp, udp};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_reached_through_the_node() {
    let scene = Scene::new("metadata", Proxy::Iptables, &[]).await;
    let host = scene.machine_at("metadata", METADATA);
    let server = Server { ns: host.ns(), ip: METADATA.into(), port: PORT };
    let (pod, node) = (scene.client.sandbox.ns(), scene.machine());
    let (primary, _) = scene.node_ips();
    let own = [scene.client.ip()];
    let results = vec![
        ("node", tcp(node, (METADATA, PORT), server, &[primary])),
        ("pod by its own ENI, TCP", tcp(pod, (METADATA, PORT), server, &own)),
        ("pod by its own ENI, UDP", udp(pod, (METADATA, PORT), server, &own)),
    ];
    let failed_without = failed(results);
    assert!(failed_without.is_empty(), "{failed_without:#?}");

    // As operators have it where the service knows machines only.
    let snat = "-t nat -A POSTROUTING -s 10.0.1.0/24 -d 169.254.169.254/32 -j MASQUERADE";
    run(node, &[&["iptables"][..], &snat.split(' ').collect::<Vec<_>>()].concat());
    let results = vec![
        ("pod as the node, TCP", tcp(pod, (METADATA, PORT), server, &[primary])),
        ("pod as the node, UDP", udp(pod, (METADATA, PORT), server, &[primary])),
        ("the node as ever", tcp(node, (METADATA, PORT), server, &[primary])),
    ];
    let failed_with = failed(results);
    assert!(failed_with.is_empty(), "{failed_with:#?}");
}
