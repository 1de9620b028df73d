//! Two nodes, a pod that asks, pods that answer, and machines outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use ipam_lab::cluster::{Cluster, ClusterBuilder, RunningPod};
use ipam_lab::lab::host::VpcHost;
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::patience::patient;
use ipam_lab::lab::traffic::{TcpEcho, tcp_roundtrip};
use ipam_lab::world::World;

use crate::rules::{Policy, Proxy, Service, TARGET_PORT};

pub const WAIT: Duration = Duration::from_millis(1500);
pub const PORT: u16 = 80;
pub const TO_SELF: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
pub const TO_LOCAL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
pub const TO_REMOTE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 12);
/// Addresses at a load balancer, of the services of the local and of the remote pod.
pub const BALANCED_LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
pub const BALANCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 81);

pub struct Scene {
    pub cluster: Cluster,
    pub client: RunningPod,
    pub local: RunningPod,
    pub remote: RunningPod,
}

impl Scene {
    pub async fn new(test: &str, proxy: Proxy, more: &[&str]) -> Self {
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24");
        Self::start(builder.agent_args(more), proxy).await
    }

    /// With pods of both families; the services are of IPv4 alone.
    pub async fn dual_stack(test: &str, proxy: Proxy, more: &[&str]) -> Self {
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24,fd00:0:0:1::/64");
        let builder = builder.controller_args(&["--ip-families", "ipv4,ipv6"]);
        Self::start(builder.agent_args(more), proxy).await
    }

    async fn start(builder: ClusterBuilder, proxy: Proxy) -> Self {
        let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
        let cluster = builder.agent_args(&["--stack-cidr", "172.16.0.0/16"]).start().await.unwrap();
        let client = cluster.run_pod("client", "node-a", &[]).await.unwrap();
        let local = cluster.run_pod("local", "node-a", &[]).await.unwrap();
        let remote = cluster.run_pod("remote", "node-b", &[]).await.unwrap();
        let service =
            |ip: Ipv4Addr, balancer: Option<Ipv4Addr>, backend: &RunningPod, node_port, policy| Service {
                ip: ip.into(),
                balancer: balancer.map(IpAddr::from),
                port: PORT,
                backend: backend.ip().into(),
                node_port,
                policy,
            };
        let services = [
            service(TO_SELF, None, &client, 30080, Policy::Cluster),
            service(TO_LOCAL, Some(BALANCED_LOCAL), &local, 30081, Policy::Local),
            service(TO_REMOTE, Some(BALANCED), &remote, 30082, Policy::Cluster),
        ];
        proxy.install(cluster.node("node-a").machine().ns(), &services).unwrap();
        Self { cluster, client, local, remote }
    }

    /// The addresses of node-a: of the primary ENI, and of the pods' ENI.
    pub fn node_ips(&self) -> (Ipv4Addr, Ipv4Addr) {
        let machine = self.cluster.node("node-a").machine();
        let output = machine.command("ip").args(["-j", "-4", "addr"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = links.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array().unwrap());
        let ips = all.map(|addr| addr["local"].as_str().unwrap().parse::<Ipv4Addr>().unwrap());
        let secondary = ips.into_iter().find(|ip| !ip.is_loopback() && *ip != machine.ip()).unwrap();
        (machine.ip(), secondary)
    }

    /// A machine of the VPC's whose only address is one that no subnet has, as with load balancers, metadata servers and
    /// the world.
    pub fn machine_at(&self, name: &str, ip: Ipv4Addr) -> VpcHost {
        let lab = &self.cluster.lab;
        let host = lab.host(name, "zone-1").unwrap();
        self.cluster.cloud.take_address(host.ip());
        lab.fabric().assign(&host.primary().id, ip.into()).unwrap();
        run(host.ns(), &["ip", "addr", "flush", "dev", "eth0"]);
        run(host.ns(), &["ip", "addr", "add", &format!("{ip}/32"), "dev", "eth0"]);
        let gateway = host.subnet().gateway.to_string();
        run(host.ns(), &["ip", "route", "replace", "default", "via", &gateway, "dev", "eth0", "onlink"]);
        host
    }

    pub fn machine(&self) -> &Netns {
        self.cluster.node("node-a").machine().ns()
    }

    /// Packets that node-a's stack has forwarded.
    pub fn forwarded(&self) -> u64 {
        let snmp = self.machine().read("/proc/net/snmp").unwrap();
        let values = snmp.lines().filter(|line| line.starts_with("Ip:")).nth(1).unwrap();
        values.split_whitespace().nth(6).unwrap().parse().unwrap()
    }

    pub fn flows(&self) -> usize {
        self.cluster.node("node-a").dump("STACK_FLOWS").unwrap().len()
    }
}

/// Where something answers.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    pub ns: &'a Netns,
    pub ip: IpAddr,
    pub port: u16,
}

impl<'a> From<&'a RunningPod> for Server<'a> {
    fn from(pod: &'a RunningPod) -> Self {
        Self { ns: pod.sandbox.ns(), ip: Ipv4Addr::UNSPECIFIED.into(), port: TARGET_PORT }
    }
}

/// A connection whose server must see one of `peers`.
pub fn tcp<'a>(
    from: &Netns,
    to: impl Into<SocketAddr>,
    server: impl Into<Server<'a>>,
    peers: &[impl Into<IpAddr> + Copy],
) -> anyhow::Result<()> {
    let server = server.into();
    let echo = TcpEcho::start(server.ns, (server.ip, server.port).into())?;
    tcp_roundtrip(from, to.into(), &[7; 20_000], WAIT)?;
    seen_from(echo.peers(), peers)
}

/// Two questions and answers whose server must see one of `peers`.
pub fn udp<'a>(
    from: &Netns,
    to: impl Into<SocketAddr>,
    server: impl Into<Server<'a>>,
    peers: &[impl Into<IpAddr> + Copy],
) -> anyhow::Result<()> {
    let at = server.into();
    let server = at.ns.inbox((at.ip, at.port).into())?;
    let to = to.into();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = from.run(|| UdpSocket::bind((any, 0)))?;
    server.set_read_timeout(Some(patient(WAIT)))?;
    client.set_read_timeout(Some(patient(WAIT)))?;
    client.connect(to)?;
    let mut bytes = [0; 8];
    // The second goes by what the first has marked.
    for _ in 0..2 {
        let question = rand::random::<[u8; 8]>();
        client.send(&question)?;
        let peer = loop {
            let (_, peer) = server.recv_from(&mut bytes).context("question")?;
            // One of a way that failed before may come late.
            if bytes == question {
                break peer;
            }
        };
        server.send_to(b"answer", peer)?;
        client.recv(&mut bytes).context("answer")?;
        seen_from(vec![peer], peers)?;
    }
    Ok(())
}

/// Runs a tool in a namespace.
pub fn run(ns: &Netns, command: &[&str]) -> String {
    let output = ns.command(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What went wrong among what was tried.
pub fn failed(results: Vec<(&'static str, anyhow::Result<()>)>) -> Vec<String> {
    let failures = results.into_iter().filter_map(|(what, result)| Some((what, result.err()?)));
    failures.map(|(what, error)| format!("{what}: {error:#}")).collect()
}

pub fn seen_from(seen: Vec<SocketAddr>, wanted: &[impl Into<IpAddr> + Copy]) -> anyhow::Result<()> {
    let wanted: Vec<IpAddr> = wanted.iter().map(|ip| (*ip).into()).collect();
    let right = |peer: &SocketAddr| wanted.contains(&peer.ip());
    ensure!(!seen.is_empty() && seen.iter().all(right), "the pod sees {seen:?}, not {wanted:?}");
    Ok(())
}
