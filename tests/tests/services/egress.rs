//! To the world: by the pod's own ENI and address, or masqueraded as the node.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipam_lab::cluster::eventually;
use ipam_lab::lab::host::VpcHost;
use ipam_lab::lab::traffic::{TcpEcho, ping};

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, Server, WAIT, failed, run, tcp, udp};

const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// The VPC alone.
const VPC: &str = "nonMasqueradeCIDRs: [10.0.0.0/8]";

struct Egress {
    scene: Scene,
    world: VpcHost,
    file: PathBuf,
    /// While it is there, the agents repair nothing.
    hold: PathBuf,
    _dir: tempfile::TempDir,
}

impl Egress {
    async fn new(test: &str, proxy: Proxy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let hold = dir.path().join("hold");
        let args =
            ["--masquerade-file", file.to_str().unwrap(), "--hold-repairs-while", hold.to_str().unwrap()];
        let scene = Scene::new(test, proxy, &args).await;
        let world = scene.machine_at("world", WORLD);
        Self { scene, world, file, hold, _dir: dir }
    }

    fn write(&self, text: &str) {
        // As a ConfigMap is written: never half.
        let new = self.file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    fn server(&self) -> Server<'_> {
        Server { ns: self.world.ns(), ip: WORLD.into(), port: PORT }
    }

    /// The world, asked by TCP and UDP, sees the client as `seen`.
    fn seen_as(&self, seen: Ipv4Addr) -> anyhow::Result<()> {
        let client = self.scene.client.sandbox.ns();
        tcp(client, (WORLD, PORT), self.server(), &[seen])?;
        udp(client, (WORLD, PORT), self.server(), &[seen])?;
        ping(client, WORLD, WAIT).map(drop)
    }

    /// The world asks the pods.
    fn inbound(&self) -> Vec<String> {
        let Scene { local, remote, .. } = &self.scene;
        let from = self.world.ns();
        failed(vec![
            ("world → pod, TCP", tcp(from, (local.ip(), TARGET_PORT), local, &[WORLD])),
            ("world → pod, UDP", udp(from, (local.ip(), TARGET_PORT), local, &[WORLD])),
            ("world → pod, ICMP", ping(from, local.ip(), WAIT).map(drop)),
            ("world → pod of another node", tcp(from, (remote.ip(), TARGET_PORT), remote, &[WORLD])),
        ])
    }

    async fn comes_to_be_seen_as(&self, seen: Ipv4Addr) {
        let mut last = None;
        let holds = eventually("the world to see the pod", async || {
            last = self.seen_as(seen).err();
            last.is_none()
        });
        holds.await.unwrap_or_else(|error| panic!("{error:#} as {seen}: {last:?}"));
    }

    fn tables(&self) -> String {
        run(self.scene.machine(), &["nft", "list", "tables"])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_the_world_by_their_own_eni() {
    let egress = Egress::new("own_eni", Proxy::Iptables).await;
    let Scene { client, cluster, .. } = &egress.scene;
    let before = (egress.scene.forwarded(), egress.scene.flows());
    egress.seen_as(client.ip()).unwrap();
    assert_eq!(egress.inbound(), [""; 0]);
    assert_eq!((egress.scene.forwarded(), egress.scene.flows()), before, "it went through the stack");
    let eni = cluster.lab.fabric().owner(client.ip()).unwrap();
    assert!(cluster.lab.fabric().from_eni(&eni, client.ip()).unwrap().packets > 0);
    assert!(!egress.tables().contains("eni-ipam"));
}

async fn masquerading(test: &str, proxy: Proxy) {
    let mut egress = Egress::new(test, proxy).await;
    let (own, (primary, _)) = (egress.scene.client.ip(), egress.scene.node_ips());
    egress.seen_as(own).unwrap();

    egress.write(VPC);
    egress.comes_to_be_seen_as(primary).await;
    // The world reaches pods as before, and the VPC sees pods as they are, past the stack.
    assert_eq!(egress.inbound(), [""; 0]);
    let scene = &egress.scene;
    let before = scene.forwarded();
    let pod = scene.client.sandbox.ns();
    tcp(pod, (scene.remote.ip(), TARGET_PORT), &scene.remote, &[own]).unwrap();
    let ctl =
        Server { ns: scene.cluster.lab.ctl().ns(), ip: scene.cluster.lab.ctl().ip().into(), port: PORT };
    tcp(pod, (ctl.ip, PORT), ctl, &[own]).unwrap();
    assert_eq!(scene.forwarded(), before, "the VPC is reached past the stack");
    let failures = failed(scene.results());
    assert!(failures.is_empty(), "{failures:#?}");

    // A masqueraded connection outlives the agent; and a file that cannot be read, whatever the agent does.
    let echo = TcpEcho::start(egress.world.ns(), (WORLD, 7).into()).unwrap();
    let mut stream = pod.connect((WORLD, 7).into(), WAIT).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    for (text, said) in [
        (VPC, "attachments of the journal adopted"),
        ("nonMasqueradeCIDRs: []", "nonMasqueradeCIDRs has no IPv4 CIDR"),
        ("- 10.0.0.0/8", "not the format of ip-masq-agent"),
    ] {
        egress.write(text);
        let node = egress.scene.cluster.node_mut("node-a");
        node.restart_agent().await.unwrap();
        eventually(said, async || node.agent().log().contains(said)).await.unwrap();
        stream.write_all(b"still there?").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        egress.seen_as(primary).unwrap();
    }
    assert_eq!(echo.peers().iter().map(SocketAddr::ip).collect::<Vec<_>>(), [primary]);

    // Re-read while the agent runs.
    egress.write("nonMasqueradeCIDRs: [10.0.0.0/8, 198.51.100.0/24]");
    egress.comes_to_be_seen_as(own).await;
    egress.write(VPC);
    egress.comes_to_be_seen_as(primary).await;

    // Without the table, or with another in its place, pods are masqueraded again, and nobody else's table is touched.
    let node = egress.scene.machine();
    run(node, &["nft", "add", "table", "ip", "others"]);
    for vandalism in [
        "delete table ip eni-ipam",
        "flush chain ip eni-ipam postrouting",
        "add table ip eni-ipam { flags dormant; }",
        "insert rule ip eni-ipam postrouting return",
    ] {
        // Or it is repaired before anybody has seen it.
        egress.scene.cluster.node("node-a").hold_repairs(&egress.hold).await.unwrap();
        run(node, &["nft", vandalism]);
        egress.seen_as(primary).unwrap_err();
        fs::remove_file(&egress.hold).unwrap();
        egress.comes_to_be_seen_as(primary).await;
    }
    assert!(egress.tables().contains("table ip others"));
    run(node, &["nft", "flush", "ruleset"]);
    egress.comes_to_be_seen_as(primary).await;
    // One repair each, and none for nothing.
    let node = egress.scene.cluster.node_mut("node-a");
    let repairs = |log: &str| log.matches("kind=\"masquerade\"").count();
    eventually("five repairs", async || repairs(&node.agent().log()) == 5).await.unwrap();

    fs::remove_file(&egress.file).unwrap();
    egress.comes_to_be_seen_as(own).await;
    assert!(!egress.tables().contains("eni-ipam"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_masqueraded_beside_kube_proxy_in_iptables_mode() {
    masquerading("masq_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_masqueraded_beside_kube_proxy_in_nftables_mode() {
    masquerading("masq_nftables", Proxy::Nftables).await;
}
