//! Traffic at 10 000 packets a second by every way a packet can take, numbered, so that a lost one shows.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipam_lab::cluster::{Cluster, RunningPod};
use ipam_lab::lab::traffic::{UdpReport, UdpStream};
use ipam_lab::story::STATIC;

/// Service addresses, which rules like kube-proxy's lead to a pod of this node and to one of the other.
const TO_LOCAL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
const TO_REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 12);
const PORT: u16 = 80;

/// Packets a second: four streams of 2000, and two of 500 which come back.
pub const RATE: f64 = 10_000.0;

/// Two nodes, and the pods between which packets go.
pub struct Scene {
    pub cluster: Cluster,
    local: RunningPod,
    other: RunningPod,
    remote: RunningPod,
}

/// What became of all streams together.
pub struct Total {
    /// Packets that pods sent, those that came back too.
    pub sent: u64,
    pub lost: u64,
    /// The longest time between two arrivals of one stream.
    pub gap: Duration,
    /// Packets a second while all streams went.
    pub rate: f64,
    pub report: String,
}

impl Scene {
    pub async fn new(test: &str, args: &[&str]) -> Self {
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24");
        let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
        let cluster =
            builder.agent_args(&["--stack-cidr", "172.16.0.0/16"]).agent_args(args).start().await.unwrap();
        let local = cluster.run_pod("local", "node-a", &[STATIC]).await.unwrap();
        let other = cluster.run_pod("other", "node-a", &[]).await.unwrap();
        let remote = cluster.run_pod("remote", "node-b", &[]).await.unwrap();
        let node = cluster.node("node-a").machine().ns();
        for (service, backend, port) in [(TO_LOCAL, &other, 8001), (TO_REMOTE, &remote, 8002)] {
            let rule = format!(
                "-t nat -A PREROUTING -d {service}/32 -p udp -m udp --dport {PORT} -j DNAT --to-destination {}:{port}",
                backend.ip()
            );
            let output = node.command("iptables").args(rule.split(' ')).output().unwrap();
            assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self { cluster, local, other, remote }
    }

    /// Starts all streams.
    pub fn start(&self) -> Vec<(&'static str, UdpStream)> {
        let one_way = |from: &RunningPod, to: &RunningPod, port: u16| {
            UdpStream::start(from.sandbox.ns(), to.sandbox.ns(), (to.ip(), port).into(), 2000).unwrap()
        };
        let echo = |service: Ipv4Addr, to: &RunningPod, port: u16| {
            let from = self.local.sandbox.ns();
            UdpStream::start_echo(from, (service, PORT).into(), to.sandbox.ns(), port, 500).unwrap()
        };
        let Self { local, other, remote, .. } = self;
        vec![
            ("to the other node", one_way(local, remote, 7001)),
            ("from the other node", one_way(remote, local, 7002)),
            ("on the node", one_way(local, other, 7003)),
            ("on the node, back", one_way(other, local, 7004)),
            ("service, pod here, and back", echo(TO_LOCAL, other, 8001)),
            ("service, pod there, and back", echo(TO_REMOTE, remote, 8002)),
        ]
    }

    pub fn pods_of_node_a(&self) -> [&RunningPod; 2] {
        [&self.local, &self.other]
    }
}

/// Stops all streams.
pub fn stop(streams: Vec<(&'static str, UdpStream)>) -> Total {
    let mut total = Total { sent: 0, lost: 0, gap: Duration::ZERO, rate: 0.0, report: String::new() };
    for (name, stream) in streams {
        let report: UdpReport = stream.stop().unwrap();
        let sent = report.sent * if name.contains("and back") { 2 } else { 1 };
        total.sent += sent;
        total.rate += sent as f64 / report.duration.as_secs_f64();
        total.lost += report.lost;
        total.gap = total.gap.max(report.longest_gap);
        total.report += &format!("  {name}: {report}\n");
    }
    total
}
