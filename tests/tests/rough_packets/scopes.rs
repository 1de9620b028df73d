//! Packets that live shortly, and packets for everybody.

use std::net::{Ipv4Addr, UdpSocket};

use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::traffic::ping;

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, TO_REMOTE, WAIT, run};
use crate::wire::{MARK, Tap, snmp};

/// Sends a datagram that one router may forward at most `ttl` - 1 times.
fn datagram(from: &Netns, to: (Ipv4Addr, u16), ttl: u32) {
    let socket = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.set_ttl(ttl).unwrap();
    socket.set_multicast_ttl_v4(ttl).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.send_to(MARK, to).unwrap();
}

fn time_exceeded(pod: &Netns) -> u64 {
    snmp(pod, "Icmp", "InTimeExcds")
}

/// Waits until a pod was told once more that its packet's time was up.
fn told(pod: &Netns, before: u64) {
    let start = std::time::Instant::now();
    while time_exceeded(pod) == before {
        assert!(start.elapsed() < WAIT, "no message about the time to live");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_ends_where_it_should_and_its_sender_hears_of_it() {
    let scene = Scene::new("ttl", Proxy::Iptables, &[]).await;
    let Scene { client, local, remote, cluster, .. } = &scene;
    let pod = client.sandbox.ns();
    // Between pods of one node there is no router.
    let tap = Tap::new(local.sandbox.ns());
    datagram(pod, (local.ip(), TARGET_PORT), 1);
    tap.wait_for_mark();
    // The first one is the VPC's.
    let tap = Tap::new(remote.sandbox.ns());
    let mut before = time_exceeded(pod);
    datagram(pod, (remote.ip(), TARGET_PORT), 1);
    told(pod, before);
    assert_eq!(tap.marked(), 0);
    datagram(pod, (remote.ip(), TARGET_PORT), 2);
    tap.wait_for_mark();
    let args = ["-n", "-c1", "-W1", "-t1", &cluster.lab.ctl().ip().to_string()];
    let output = pod.command("ping").args(args).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let gateway = cluster.lab.subnets()[0].gateway;
    assert!(printed.contains(&format!("From {gateway}")), "{printed}");
    // To a service, the node is one.
    before = time_exceeded(pod);
    datagram(pod, (TO_REMOTE, PORT), 1);
    told(pod, before);
    assert_eq!(tap.marked(), 0);
    // It is translated back: the pod hears about what it sent, from behind the service too.
    before = time_exceeded(pod);
    datagram(pod, (TO_REMOTE, PORT), 2);
    told(pod, before);
    assert_eq!(tap.marked(), 0);
    datagram(pod, (TO_REMOTE, PORT), 3);
    tap.wait_for_mark();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_everybody_leaves_no_pod() {
    let scene = Scene::new("everybody", Proxy::Iptables, &[]).await;
    let Scene { client, local, remote, cluster, .. } = &scene;
    let around = [cluster.lab.fabric().ns(), local.sandbox.ns(), remote.sandbox.ns(), cluster.lab.ctl().ns()];
    let taps: Vec<_> = around.into_iter().map(Tap::new).collect();
    let pod = client.sandbox.ns();
    for to in ["255.255.255.255", "224.0.0.1", "224.0.0.251", "239.1.2.3"] {
        datagram(pod, (to.parse().unwrap(), 5353), 9);
    }
    ping(pod, cluster.lab.ctl().ip(), WAIT).unwrap();
    for tap in &taps {
        assert_eq!(tap.marked(), 0, "something for everybody turned up in {}", tap.name());
    }
    // The taps do see what a pod sends to one.
    datagram(pod, (local.ip(), 5353), 9);
    taps[1].wait_for_mark();

    // What the VPC sends to all, or from nowhere, is no pod's.
    let ctl = cluster.lab.ctl().ns();
    run(ctl, &["ip", "route", "replace", "broadcast", "255.255.255.255", "dev", "eth0"]);
    datagram(ctl, (Ipv4Addr::BROADCAST, 5353), 9);
    ping(ctl, local.ip(), WAIT).unwrap();
    assert_eq!(taps[1].marked() + taps[2].marked(), 0);
}
