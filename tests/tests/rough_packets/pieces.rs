//! Segments and fragments.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use ipam_lab::cluster::{Cluster, RunningPod};
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::patience::patient;
use rustix::net::{Shutdown, shutdown};

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, Server, TO_LOCAL, TO_REMOTE, WAIT, failed};

/// Sends so many bytes by TCP and compares what comes; MB/s.
pub fn bulk(from: &Netns, server: &Netns, to: (Ipv4Addr, u16), bytes: usize) -> f64 {
    let listener = server.listen((Ipv4Addr::UNSPECIFIED, TARGET_PORT).into()).unwrap();
    let start = Instant::now();
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT * 4)).unwrap();
        // The next one listens there: closing does not end it while a process that was forked meanwhile has it too.
        shutdown(&listener, Shutdown::Both).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let mut stream = from.connect(to.into(), WAIT).unwrap();
    stream.set_write_timeout(Some(WAIT * 4)).unwrap();
    stream.write_all(&sent).unwrap();
    drop(stream);
    assert!(received.join().unwrap() == sent, "what came is not what was sent");
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Bytes in the average packet that a pod has sent: more than an MTU when the kernel leaves segmentation to the device.
pub fn largest_sent(cluster: &Cluster, node: &str, pod: &RunningPod) -> f64 {
    let stats = cluster.node(node).dump("POD_STATS").unwrap();
    let octets = serde_json::json!(pod.ip().octets());
    let entry = stats.iter().find(|entry| entry["formatted"]["key"]["octets"] == octets).unwrap();
    let cpus = entry["formatted"]["values"].as_array().unwrap();
    let sum = |name: &str| cpus.iter().filter_map(|cpu| cpu["value"][name].as_u64()).sum::<u64>() as f64;
    sum("tx_bytes") / sum("tx_packets")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_cut_into_segments_by_nobody_before_the_device() {
    let scene = Scene::new("gso", Proxy::Iptables, &[]).await;
    let Scene { client, local, remote, cluster, .. } = &scene;
    let ns = |pod: &RunningPod| pod.sandbox.ns().name().to_owned();
    for (from, to, server) in [
        (client, (local.ip(), TARGET_PORT), local),
        (client, (remote.ip(), TARGET_PORT), remote),
        (remote, (client.ip(), TARGET_PORT), client),
        (client, (TO_LOCAL, PORT), local),
        (client, (TO_REMOTE, PORT), remote),
    ] {
        let speed = bulk(from.sandbox.ns(), server.sandbox.ns(), to, 32 << 20);
        println!("{} → {}:{}: {speed:.0} MB/s", ns(from), to.0, to.1);
    }
    let average = largest_sent(cluster, "node-a", client);
    println!("{average:.0} bytes in the average packet");
    assert!(average > 5000.0, "packets of {average:.0} bytes: the stream is cut before it must be");
}

/// A datagram of 9 KB there and the same back: seven fragments each.
fn large_datagrams(from: &Netns, to: (Ipv4Addr, u16), server: Server<'_>) -> anyhow::Result<()> {
    use anyhow::{Context as _, ensure};
    let inbox = server.ns.inbox((server.ip, server.port).into())?;
    let outbox = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    inbox.set_read_timeout(Some(patient(WAIT)))?;
    outbox.set_read_timeout(Some(patient(WAIT)))?;
    outbox.connect(SocketAddr::from(to))?;
    let sent: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
    let mut got = vec![0; 10_000];
    for round in ["first", "second"] {
        outbox.send(&sent)?;
        let (length, peer) = inbox.recv_from(&mut got).with_context(|| format!("{round} question"))?;
        ensure!(got[..length] == sent, "the question is not what was sent");
        inbox.send_to(&got[..length], peer)?;
        let length = outbox.recv(&mut got).with_context(|| format!("{round} answer"))?;
        ensure!(got[..length] == sent, "the answer is not what was sent");
    }
    Ok(())
}

async fn fragments(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let Scene { client, local, remote, cluster, .. } = &scene;
    let (primary, secondary) = scene.node_ips();
    let ctl = cluster.lab.ctl();
    let host = Server { ns: ctl.ns(), ip: ctl.ip().into(), port: TARGET_PORT };
    let (pod, node) = (client.sandbox.ns(), scene.machine());
    let failed = failed(vec![
        ("pod → pod here", large_datagrams(pod, (local.ip(), TARGET_PORT), local.into())),
        ("pod → pod there", large_datagrams(pod, (remote.ip(), TARGET_PORT), remote.into())),
        ("pod → VPC host", large_datagrams(pod, (ctl.ip(), TARGET_PORT), host)),
        ("VPC host → pod", large_datagrams(ctl.ns(), (local.ip(), TARGET_PORT), local.into())),
        ("pod → service → pod here", large_datagrams(pod, (TO_LOCAL, PORT), local.into())),
        ("pod → service → pod there", large_datagrams(pod, (TO_REMOTE, PORT), remote.into())),
        ("NodePort, primary ENI", large_datagrams(ctl.ns(), (primary, 30081), local.into())),
        ("NodePort, secondary ENI", large_datagrams(ctl.ns(), (secondary, 30081), local.into())),
        ("node → pod", large_datagrams(node, (local.ip(), TARGET_PORT), local.into())),
        ("once more past the service", large_datagrams(pod, (remote.ip(), TARGET_PORT), remote.into())),
    ]);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_in_fragments_beside_kube_proxy_in_iptables_mode() {
    fragments("frags_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_in_fragments_beside_kube_proxy_in_nftables_mode() {
    fragments("frags_nftables", Proxy::Nftables).await;
}
