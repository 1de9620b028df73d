//! Services beside the fast path, with the rules that kube-proxy writes, and that the tests can tell: without the
//! egress programs they fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "services/rules.rs"]
mod rules;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use ipam_lab::cluster::{Cluster, RunningPod};
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::traffic::{TcpEcho, ping, tcp_roundtrip};

use rules::{Policy, Proxy, Service, TARGET_PORT};

const WAIT: Duration = Duration::from_millis(1500);
const PORT: u16 = 80;
const TO_SELF: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
const TO_LOCAL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
const TO_REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 12);

struct Scene {
    cluster: Cluster,
    client: RunningPod,
    local: RunningPod,
    remote: RunningPod,
}

impl Scene {
    async fn new(test: &str, proxy: Proxy, more: &[&str]) -> Self {
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24");
        let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
        let builder = builder.agent_args(&["--stack-cidr", "172.16.0.0/16"]).agent_args(more);
        let cluster = builder.start().await.unwrap();
        let client = cluster.run_pod("client", "node-a", &[]).await.unwrap();
        let local = cluster.run_pod("local", "node-a", &[]).await.unwrap();
        let remote = cluster.run_pod("remote", "node-b", &[]).await.unwrap();
        let service = |ip, backend: &RunningPod, node_port, policy| Service {
            ip,
            port: PORT,
            backend: backend.ip(),
            node_port,
            policy,
        };
        let services = [
            service(TO_SELF, &client, 30080, Policy::Cluster),
            service(TO_LOCAL, &local, 30081, Policy::Local),
            service(TO_REMOTE, &remote, 30082, Policy::Cluster),
        ];
        proxy.install(cluster.node("node-a").machine().ns(), &services).unwrap();
        Self { cluster, client, local, remote }
    }

    /// The addresses of node-a: of the primary ENI, and of the pods' ENI.
    fn node_ips(&self) -> (Ipv4Addr, Ipv4Addr) {
        let machine = self.cluster.node("node-a").machine();
        let output = machine.command("ip").args(["-j", "-4", "addr"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = links.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array().unwrap());
        let ips = all.map(|addr| addr["local"].as_str().unwrap().parse::<Ipv4Addr>().unwrap());
        let secondary = ips.into_iter().find(|ip| !ip.is_loopback() && *ip != machine.ip()).unwrap();
        (machine.ip(), secondary)
    }

    /// Every way to a service, and how it went.
    fn results(&self) -> Vec<(&'static str, anyhow::Result<()>)> {
        let (primary, secondary) = self.node_ips();
        let node = [primary, secondary];
        let (client, ctl) = (self.client.sandbox.ns(), self.cluster.lab.ctl());
        let own = [self.client.ip()];
        vec![
            ("pod → service → pod here, TCP", tcp(client, (TO_LOCAL, PORT), &self.local, &own)),
            ("pod → service → pod there, TCP", tcp(client, (TO_REMOTE, PORT), &self.remote, &own)),
            ("pod → service → itself, TCP", tcp(client, (TO_SELF, PORT), &self.client, &node)),
            ("pod → service → pod here, UDP", udp(client, (TO_LOCAL, PORT), &self.local, &own)),
            ("pod → service → pod there, UDP", udp(client, (TO_REMOTE, PORT), &self.remote, &own)),
            ("NodePort, Cluster, primary ENI", tcp(ctl.ns(), (primary, 30082), &self.remote, &node)),
            ("NodePort, Cluster, secondary ENI", tcp(ctl.ns(), (secondary, 30082), &self.remote, &node)),
            ("NodePort, Cluster, pod here", tcp(ctl.ns(), (primary, 30080), &self.client, &node)),
            ("NodePort, Local, primary ENI", tcp(ctl.ns(), (primary, 30081), &self.local, &[ctl.ip()])),
            ("NodePort, Local, secondary ENI", tcp(ctl.ns(), (secondary, 30081), &self.local, &[ctl.ip()])),
            ("NodePort, Local, UDP", udp(ctl.ns(), (secondary, 30081), &self.local, &[ctl.ip()])),
            ("node → pod", tcp(self.machine(), (self.local.ip(), TARGET_PORT), &self.local, &node)),
            ("node → pod, ICMP", ping(self.machine(), self.local.ip(), WAIT).map(drop)),
            ("pod → node, ICMP", ping(client, primary, WAIT).map(drop)),
        ]
    }

    fn machine(&self) -> &Netns {
        self.cluster.node("node-a").machine().ns()
    }

    /// Packets that node-a's stack has forwarded.
    fn forwarded(&self) -> u64 {
        let snmp = self.machine().read("/proc/net/snmp").unwrap();
        let values = snmp.lines().filter(|line| line.starts_with("Ip:")).nth(1).unwrap();
        values.split_whitespace().nth(6).unwrap().parse().unwrap()
    }

    fn flows(&self) -> usize {
        self.cluster.node("node-a").dump("STACK_FLOWS").unwrap().len()
    }
}

/// A connection to a service whose pod must see one of `peers`.
fn tcp(from: &Netns, to: (Ipv4Addr, u16), backend: &RunningPod, peers: &[Ipv4Addr]) -> anyhow::Result<()> {
    let echo = TcpEcho::start(backend.sandbox.ns(), (Ipv4Addr::UNSPECIFIED, TARGET_PORT).into())?;
    tcp_roundtrip(from, to.into(), &[7; 20_000], WAIT)?;
    seen_from(echo.peers(), peers)
}

fn udp(from: &Netns, to: (Ipv4Addr, u16), backend: &RunningPod, peers: &[Ipv4Addr]) -> anyhow::Result<()> {
    let bind = |ns: &Netns, port| ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (server, client) = (bind(backend.sandbox.ns(), TARGET_PORT)?, bind(from, 0)?);
    server.set_read_timeout(Some(WAIT))?;
    client.set_read_timeout(Some(WAIT))?;
    client.connect(SocketAddr::from(to))?;
    let mut bytes = [0; 8];
    // The second goes by what the first has marked.
    for _ in 0..2 {
        client.send(b"question")?;
        let (_, peer) = server.recv_from(&mut bytes).context("question")?;
        server.send_to(b"answer", peer)?;
        client.recv(&mut bytes).context("answer")?;
        seen_from(vec![peer], peers)?;
    }
    Ok(())
}

fn seen_from(seen: Vec<SocketAddr>, wanted: &[Ipv4Addr]) -> anyhow::Result<()> {
    let right = |peer: &SocketAddr| wanted.iter().any(|ip| peer.ip() == IpAddr::V4(*ip));
    ensure!(!seen.is_empty() && seen.iter().all(right), "the pod sees {seen:?}, not {wanted:?}");
    Ok(())
}

async fn all_work(test: &str, proxy: Proxy) {
    let mut scene = Scene::new(test, proxy, &[]).await;

    // What no service is in the way of never enters the stack.
    let before = (scene.forwarded(), scene.flows());
    for to in [&scene.local, &scene.remote] {
        let direct = (to.ip(), TARGET_PORT);
        tcp(scene.client.sandbox.ns(), direct, to, &[scene.client.ip()]).unwrap();
        ping(scene.client.sandbox.ns(), to.ip(), WAIT).unwrap();
    }
    assert_eq!((scene.forwarded(), scene.flows()), before, "pod to pod entered the stack");

    let failed: Vec<_> = scene.results().into_iter().filter(|(_, result)| result.is_err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(scene.forwarded() > before.0 && scene.flows() > before.1, "services are the stack's");

    // A connection outlives the agent.
    let _echo =
        TcpEcho::start(scene.local.sandbox.ns(), (Ipv4Addr::UNSPECIFIED, TARGET_PORT).into()).unwrap();
    let mut stream = scene.client.sandbox.ns().connect((TO_LOCAL, PORT).into(), WAIT).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    for _ in 0..2 {
        stream.write_all(b"still there?").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        scene.cluster.node_mut("node-a").restart_agent().await.unwrap();
    }
    stream.write_all(b"still there?").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn services_work_beside_kube_proxy_in_iptables_mode() {
    all_work("svc_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_work_beside_kube_proxy_in_nftables_mode() {
    all_work("svc_nftables", Proxy::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stack_affinity_services_fail() {
    let scene = Scene::new("svc_off", Proxy::Iptables, &["--no-stack-affinity"]).await;
    let failed: Vec<_> =
        scene.results().into_iter().filter_map(|(name, result)| result.err().map(|_| name)).collect();
    for name in [
        "pod → service → pod here, TCP",
        "pod → service → pod there, TCP",
        "pod → service → pod here, UDP",
        "NodePort, Cluster, secondary ENI",
        "NodePort, Local, primary ENI",
        "NodePort, Local, secondary ENI",
    ] {
        assert!(failed.contains(&name), "{name} works without stack affinity; failed are {failed:?}");
    }
}
