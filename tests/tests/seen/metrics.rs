//! `/metrics` of the node agent and of the controller: the rules of the format, and numbers that are the packets' own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;

use ipam_agent::api::{IpPhase, VpcIP};
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::scrape::{Family, Scrape};
use ipam_lab::story::STATIC;
use kube::Api;
use kube::api::ListParams;

const NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);
const CONTROLLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9471);

/// Frame of a UDP packet of IPv4 with so many bytes of payload.
const fn frame(payload: u64) -> u64 {
    14 + 20 + 8 + payload
}

/// Sends UDP packets to where nobody listens but a bound socket, which reads none.
fn send(from: &RunningPod, to: &RunningPod, packets: u64, payload: usize) {
    let _bound = to.sandbox.ns().run(|| UdpSocket::bind((to.ip(), 4001)).unwrap());
    let socket = from.sandbox.ns().run(|| UdpSocket::bind((from.ip(), 0)).unwrap());
    for _ in 0..packets {
        socket.send_to(&vec![7; payload], (to.ip(), 4001)).unwrap();
    }
}

fn scrape(cluster: &Cluster, node: &str) -> Scrape {
    Scrape::from(cluster.node(node).machine().ns(), NODE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_the_rules_and_count_the_packets_that_were_sent() {
    let cluster = Cluster::two_nodes("metrics").await.unwrap();
    let web = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let local = cluster.run_pod("local", "node-a", &[]).await.unwrap();
    let remote = cluster.run_pod("remote", "node-b", &[]).await.unwrap();
    let before = scrape(&cluster, "node-a");
    send(&web, &local, 30, 100);
    send(&web, &remote, 50, 1000);
    send(&remote, &web, 20, 10);
    let after = scrape(&cluster, "node-a");

    let counted = |metric: &str, pod: &str, labels: &[(&str, &str)]| {
        let labels = [&[("namespace", "default"), ("pod", pod), ("family", "ipv4")], labels].concat();
        let value = |scrape: &Scrape| scrape.value(metric, &labels).unwrap() as u64;
        value(&after) - value(&before)
    };
    assert_eq!(counted("eni_ipam_pod_transmit_packets_total", "web-0", &[]), 80);
    assert_eq!(
        counted("eni_ipam_pod_transmit_bytes_total", "web-0", &[]),
        30 * frame(100) + 50 * frame(1000)
    );
    assert_eq!(counted("eni_ipam_pod_receive_packets_total", "web-0", &[]), 20);
    assert_eq!(counted("eni_ipam_pod_receive_bytes_total", "web-0", &[]), 20 * frame(10));
    assert_eq!(counted("eni_ipam_pod_receive_packets_total", "local", &[]), 30);
    assert!(
        after.value("eni_ipam_pod_receive_packets_total", &[("pod", "remote")]).is_err(),
        "not of this node"
    );

    assert_eq!(after.value("eni_ipam_attachments", &[("state", "committed")]).unwrap(), 2.);
    assert_eq!(after.value("eni_ipam_enis", &[("ready", "true")]).unwrap(), 1.);
    assert_eq!(after.value("eni_ipam_pod_routes", &[("family", "ipv4")]).unwrap(), 2.);
    assert_eq!(after.value("eni_ipam_programs_attached", &[("program", "from_pod")]).unwrap(), 2.);
    assert_eq!(after.value("eni_ipam_cni_calls_total", &[("command", "ADD"), ("code", "0")]).unwrap(), 2.);
    assert_eq!(after.value("eni_ipam_cni_call_duration_seconds_count", &[("command", "ADD")]).unwrap(), 2.);
    assert_eq!(after.value("eni_ipam_api_synced", &[]).unwrap(), 1.);
    assert_eq!(after.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_and_flows_of_the_stack_are_counted() {
    let builder = Cluster::builder("metrics_drops").subnet("subnet-a", "zone-1", "10.0.1.0/24");
    let builder = builder.node("node-a", "zone-1").agent_args(&["--stack-cidr", "198.51.100.0/24"]);
    let cluster = builder.start().await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let before = scrape(&cluster, "node-a");
    // An address that is not the pod's own: each packet is dropped.
    let foreign = Ipv4Addr::new(10, 0, 1, 250);
    let ip = pod.sandbox.ns().command("ip").args(["address", "add", "10.0.1.250/32", "dev", "eth0"]).status();
    assert!(ip.unwrap().success());
    let socket = pod.sandbox.ns().run(|| UdpSocket::bind((foreign, 0)).unwrap());
    for _ in 0..25 {
        socket.send_to(&[1; 50], (cluster.lab.ctl().ip(), 4002)).unwrap();
    }
    // Through the stack: five flows of the pod's own address, and its pair of addresses with the peer's.
    for _ in 0..5 {
        let socket = pod.sandbox.ns().run(|| UdpSocket::bind((pod.ip(), 0)).unwrap());
        socket.send_to(&[1; 50], ("198.51.100.9", 4002)).unwrap();
    }
    let after = scrape(&cluster, "node-a");
    let counted = |metric: &str, labels: &[(&str, &str)]| {
        (after.value(metric, labels).unwrap() - before.value(metric, labels).unwrap()) as u64
    };
    assert_eq!(counted("eni_ipam_drop_packets_total", &[("reason", "unknown_source")]), 25);
    assert_eq!(counted("eni_ipam_drop_bytes_total", &[("reason", "unknown_source")]), 25 * frame(50));
    assert_eq!(counted("eni_ipam_stack_flow_insertions_total", &[]), 6);
    assert_eq!(counted("eni_ipam_stack_flows", &[]), 6);
    assert_eq!(after.value("eni_ipam_stack_flow_evictions_total", &[]).unwrap(), 0.);
    assert_eq!(after.value("eni_ipam_stack_flows_limit", &[]).unwrap(), 65536.);
    assert_eq!(after.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_counts_claims_addresses_and_calls() {
    let cluster = Cluster::two_nodes("metrics_ctl").await.unwrap();
    // Both on one node: its agent has a pod to show, and has written that another is gone.
    let first = cluster.run_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    let _second = cluster.run_pod("web-1", "node-b", &[]).await.unwrap();
    cluster.end_pod(first).await.unwrap();
    let controller = || Scrape::from(cluster.lab.ctl().ns(), CONTROLLER).unwrap();
    eventually("a retained claim to be counted", async || {
        controller().value("eni_ipam_claims", &[("phase", "Retained")]).unwrap() == 1.
    })
    .await
    .unwrap();
    // Two pods' addresses, and the primary one of each of two ENIs: a node has its first without a pod. With them those that
    // were picked and are the lab's machines' own.
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    eventually("four addresses to be used", async || {
        let used = controller().value("eni_ipam_subnet_addresses_used", &[("subnet", "subnet-a")]).unwrap();
        let all = ips.list(&ListParams::default()).await.unwrap().items;
        let elsewhere = all.iter().filter(|ip| ip.state().phase == IpPhase::Quarantined).count();
        used == all.len() as f64 && all.len() - elsewhere == 4
    })
    .await
    .unwrap();
    let seen = controller();
    assert_eq!(seen.value("eni_ipam_claims", &[("phase", "Bound")]).unwrap(), 1.);
    assert_eq!(seen.value("eni_ipam_vpc_ips", &[("phase", "Bound")]).unwrap(), 1.);
    assert_eq!(seen.value("eni_ipam_vpc_ips", &[("phase", "Retained")]).unwrap(), 1.);
    assert!(seen.value("eni_ipam_subnet_addresses_available", &[("subnet", "subnet-a")]).unwrap() > 200.);
    let created =
        seen.value("eni_ipam_cloud_calls_total", &[("action", "create_eni"), ("result", "success")]);
    assert_eq!(created.unwrap(), 2.);
    assert_eq!(
        seen.value("eni_ipam_cloud_call_duration_seconds_count", &[("action", "attach_eni")]).unwrap(),
        2.
    );
    let written = seen.value(
        "eni_ipam_api_writes_total",
        &[("method", "POST"), ("resource", "vpcipclaims"), ("code", "201")],
    );
    assert_eq!(written.unwrap(), 2.);
    assert_eq!(seen.complaints(), Vec::<String>::new());
    assert_documented(&[("node agent", scrape(&cluster, "node-b")), ("controller", seen)]);
}

/// The table of `docs/observability.md` is what the programs say of themselves. `IPAM_WRITE_DOCS=1` writes it.
fn assert_documented(scrapes: &[(&str, Scrape)]) {
    const BEGIN: &str = "<!-- metrics: written by `IPAM_WRITE_DOCS=1`, see tests/tests/seen/metrics.rs -->\n";
    const END: &str = "<!-- end of metrics -->\n";
    let mut table = String::from("| Metric | Of | Type | Labels | What |\n|---|---|---|---|---|\n");
    for (of, scrape) in scrapes {
        for (name, family) in &scrape.families {
            let suffix = if family.kind == "counter" { "_total" } else { "" };
            let suffix = if family.kind == "info" { "_info" } else { suffix };
            let labels: BTreeSet<_> = family.samples.iter().flat_map(|sample| sample.labels.keys()).collect();
            let labels: Vec<_> = labels.into_iter().filter(|label| *label != "le").cloned().collect();
            let labels = labels.join(", ");
            let Family { kind, help, .. } = family;
            table += &format!("| `{name}{suffix}` | {of} | {kind} | {labels} | {help} |\n");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/observability.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("IPAM_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "run this test with IPAM_WRITE_DOCS=1");
    }
}
