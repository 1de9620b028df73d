//! Links of different MTU: whoever sends too big a packet hears of it, and sends smaller ones.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::lab::fabric::Fabric;
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::traffic::{TcpEcho, ping_sized, tcp_roundtrip};

use crate::pieces::{bulk, largest_sent};
use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, TO_REMOTE, WAIT, run, tcp};
use crate::wire::snmp;

/// Sets the MTU of the fabric's end of an ENI: of the way from the fabric to its machine.
fn narrow(fabric: &Fabric, eni: &str, mtu: u32) {
    let link = fabric.ifname_of(eni).unwrap();
    run(fabric.ns(), &["ip", "link", "set", "dev", &link, "mtu", &mtu.to_string()]);
}

/// What a pod has learnt of the way to an address.
fn learnt(pod: &Netns, to: Ipv4Addr) -> Option<u32> {
    let printed = run(pod, &["ip", "route", "get", &to.to_string()]);
    let mut words = printed.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_in_the_vpc_tells_the_pod_that_sent_too_much() {
    let scene = Scene::new("pmtu_router", Proxy::Iptables, &[]).await;
    let Scene { client, local, cluster, .. } = &scene;
    let (ctl, fabric) = (cluster.lab.ctl(), cluster.lab.fabric());
    narrow(fabric, &ctl.primary().id, 1300);
    let echo = TcpEcho::start(ctl.ns(), (Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap();
    let forwarded = scene.forwarded();
    tcp_roundtrip(client.sandbox.ns(), (ctl.ip(), PORT).into(), &[7; 60_000], WAIT).unwrap();
    assert_eq!(echo.peers()[0].ip(), client.ip());
    // The message came to the pod itself, by its own ENI and past the stack, and to no other pod.
    assert_eq!(learnt(client.sandbox.ns(), ctl.ip()), Some(1300));
    assert!(snmp(client.sandbox.ns(), "Icmp", "InDestUnreachs") > 0);
    assert_eq!(snmp(local.sandbox.ns(), "Icmp", "InDestUnreachs"), 0);
    assert_eq!(learnt(local.sandbox.ns(), ctl.ip()), None);
    assert_eq!(scene.forwarded(), forwarded);
    assert_eq!(fabric.all_foreign().unwrap().len(), 0);
    // And in the middle of a connection.
    let mut stream = client.sandbox.ns().connect((ctl.ip(), PORT).into(), WAIT).unwrap();
    narrow(fabric, &ctl.primary().id, 1200);
    let payload = [9; 60_000];
    std::io::Write::write_all(&mut stream, &payload).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 60_000]).unwrap();
    assert_eq!(learnt(client.sandbox.ns(), ctl.ip()), Some(1200));
}

async fn through_a_service(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let fabric = scene.cluster.lab.fabric();
    let eni = fabric.owner(scene.remote.ip()).unwrap();
    narrow(fabric, &eni, 1300);
    let (client, own) = (scene.client.sandbox.ns(), [scene.client.ip()]);
    tcp(client, (TO_REMOTE, PORT), &scene.remote, &own).unwrap();
    // Translated back, or the pod would not know what it is about.
    assert_eq!(learnt(client, TO_REMOTE), Some(1300));
    assert_eq!(learnt(client, scene.remote.ip()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_behind_a_service_is_heard_in_iptables_mode() {
    through_a_service("pmtu_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_behind_a_service_is_heard_in_nftables_mode() {
    through_a_service("pmtu_nftables", Proxy::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_tells_the_pod_what_its_eni_cannot_carry() {
    let scene = Scene::new("pmtu_node", Proxy::Iptables, &[]).await;
    let Scene { client, cluster, .. } = &scene;
    let (ctl, pod) = (cluster.lab.ctl(), client.sandbox.ns());
    shrink(cluster, client, 1400).await;
    let error = ping_sized(pod, ctl.ip(), 1450, WAIT).unwrap_err();
    assert_eq!(learnt(pod, ctl.ip()), Some(1400), "{error:#}");
    let _echo = TcpEcho::start(ctl.ns(), (Ipv4Addr::UNSPECIFIED, PORT).into()).unwrap();
    tcp_roundtrip(pod, (ctl.ip(), PORT).into(), &[7; 60_000], WAIT).unwrap();
    tcp(pod, (TO_REMOTE, PORT), &scene.remote, &[client.ip()]).unwrap();
    assert_eq!(cluster.lab.fabric().all_foreign().unwrap().len(), 0);
}

/// Gives the ENIs of node-a, of which one is that of a pod, another MTU, and waits until the dataplane knows.
async fn shrink(cluster: &Cluster, pod: &RunningPod, mtu: u32) {
    let fabric = cluster.lab.fabric();
    let node = cluster.node("node-a");
    for eni in [fabric.owner(pod.ip()).unwrap(), node.machine().primary().id.clone()] {
        let (_, ifname) = fabric.location(&eni).unwrap();
        run(node.machine().ns(), &["ip", "link", "set", "dev", &ifname, "mtu", &mtu.to_string()]);
        narrow(fabric, &eni, mtu);
    }
    let knows = || {
        let enis = node.dump("ENIS").unwrap();
        enis.iter().any(|entry| entry["formatted"]["value"]["mtu"].as_u64() == Some(mtu.into()))
    };
    eventually("the map to have the MTU", async || knows()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_errors_come_from_its_own_address() {
    let scene = Scene::new("own_errors", Proxy::Iptables, &[]).await;
    let (ctl, pod) = (scene.cluster.lab.ctl(), &scene.local);
    let fabric = scene.cluster.lab.fabric();
    let eni = fabric.owner(pod.ip()).unwrap();
    let before = fabric.from_eni(&eni, pod.ip()).unwrap().packets;
    let socket = ctl.ns().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(SocketAddr::from((pod.ip(), 9))).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(fabric.from_eni(&eni, pod.ip()).unwrap().packets, before + 1);
    assert_eq!(fabric.all_foreign().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jumbo_frames_beside_ordinary_ones() {
    let builder = Cluster::builder("jumbo").mtu(9001).subnet("subnet-a", "zone-1", "10.0.1.0/24");
    let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
    let cluster = builder.start().await.unwrap();
    // The node's first pod brings its ENI.
    let early = cluster.run_pod("early", "node-a", &[]).await.unwrap();
    shrink(&cluster, &early, 1500).await;
    let small = cluster.run_pod("small", "node-a", &[]).await.unwrap();
    let big = cluster.run_pod("big", "node-b", &[]).await.unwrap();
    let other = cluster.run_pod("other", "node-b", &[]).await.unwrap();
    for (pod, mtu) in [(&small, 1500), (&big, 9001), (&other, 9001)] {
        let printed = run(pod.sandbox.ns(), &["ip", "link", "show", "eth0"]);
        assert!(printed.contains(&format!("mtu {mtu} ")), "{printed}");
    }
    // The early pod still has the MTU of then: its packets are too big for its own ENI.
    for (from, to) in [(&small, &big), (&big, &small), (&early, &big), (&big, &other)] {
        let megabytes_a_second = bulk(from.sandbox.ns(), to.sandbox.ns(), (to.ip(), TARGET_PORT), 8 << 20);
        println!("{} → {}: {megabytes_a_second:.0} MB/s", from.sandbox.name, to.sandbox.name);
    }
    // TCP agrees on what fits both ends; for all else the router says what fits.
    ping_sized(big.sandbox.ns(), small.ip(), 5000, WAIT).unwrap_err();
    assert_eq!(learnt(big.sandbox.ns(), small.ip()), Some(1500));
    assert_eq!(learnt(early.sandbox.ns(), big.ip()), Some(1500));
    assert!(largest_sent(&cluster, "node-b", &big) > 1500.0);
    ping_sized(big.sandbox.ns(), other.ip(), 8900, WAIT).unwrap();
}
