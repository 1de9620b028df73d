//! The ways of a service: pods here and there, itself, NodePort, and the node.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};

use ipam_lab::lab::patience::patient;
use ipam_lab::lab::traffic::{TcpEcho, ping};

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, TO_LOCAL, TO_REMOTE, TO_SELF, WAIT, tcp, udp};

impl Scene {
    /// Every way to a service, and how it went.
    pub fn results(&self) -> Vec<(&'static str, anyhow::Result<()>)> {
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

    // Connections outlive the agent.
    let _echo =
        TcpEcho::start(scene.local.sandbox.ns(), (Ipv4Addr::UNSPECIFIED, TARGET_PORT).into()).unwrap();
    let mut stream = scene.client.sandbox.ns().connect((TO_LOCAL, PORT).into(), patient(WAIT)).unwrap();
    stream.set_read_timeout(Some(patient(WAIT))).unwrap();
    let server = scene.remote.sandbox.ns().inbox((Ipv4Addr::UNSPECIFIED, TARGET_PORT).into()).unwrap();
    let asker = scene.client.sandbox.ns().run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    asker.connect((TO_REMOTE, PORT)).unwrap();
    let ask = || -> std::io::Result<()> {
        for socket in [&asker, &*server] {
            socket.set_read_timeout(Some(patient(WAIT)))?;
        }
        asker.send(b"still there?")?;
        let (_, peer) = server.recv_from(&mut [0; 12])?;
        server.send_to(b"yes", peer)?;
        asker.recv(&mut [0; 3]).map(drop)
    };
    for _ in 0..2 {
        ask().unwrap();
        stream.write_all(b"still there?").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        scene.cluster.node_mut("node-a").restart_agent().await.unwrap();
    }
    ask().unwrap();
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
