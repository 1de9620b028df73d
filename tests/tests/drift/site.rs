//! A node with pods, what it looks like, and doing it harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ipam_agent::dataplane::Hook;
use ipam_lab::cluster::{Cluster, ClusterNode, RunningPod, eventually};
use ipam_lab::lab::GATEWAY_V6;
use ipam_lab::lab::traffic::ping;

/// How long a repair may take.
pub const LIMIT: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(2);

/// Things on the node that are not ours, and what shows them.
const FOREIGN: &str = "
    ip addr add 10.99.1.1/32 dev $ENI
    ip neigh add 10.99.1.9 lladdr 02:00:00:00:00:09 nud permanent dev $ENI
    ip neigh add 10.99.1.8 lladdr 02:00:00:00:00:08 nud permanent dev $VETH
    ip route add 10.99.2.0/24 dev $ENI proto static
    ip route add 10.99.3.1/32 dev $ENI proto bird
    ip route add default dev $ENI table 2004
    ip rule add from 10.99.0.0/16 lookup 2004 pref 100
    ip link add foreign0 type veth peer name foreign1
    ip link set foreign0 up
    tc qdisc add dev $ENI clsact
    tc filter add dev $ENI ingress protocol ip pref 7 bpf bytecode '1,6 0 0 0,' flowid 1:1
    tc filter add dev $ENI egress protocol ip pref 7 bpf bytecode '1,6 0 0 0,' flowid 1:1
    tc qdisc add dev $VETH clsact
    tc filter add dev $VETH ingress protocol ip pref 7 bpf bytecode '1,6 0 0 0,' flowid 1:1
";
const SHOW_FOREIGN: &str = "
    ip -4 -o addr show to 10.99.0.0/16 | sed 's/^[0-9]*: //'
    ip -4 neigh show to 10.99.0.0/16
    ip -4 route show table all | grep -E '10\\.99\\.|table 2004'
    ip rule show pref 100
    for hook in ingress egress; do for dev in $ENI $VETH; do tc filter show dev $dev $hook; done; done
    ip -o link show foreign0 | grep -o 'foreign0.*state'
";

/// What is ours, but for counters.
const SHOW_OURS: &str = "
    for dev in $VETH $OTHER_VETH $ENI; do
        ip -o link show dev $dev | sed 's/ qdisc.*link/ link/'
        sysctl net.ipv4.conf.$dev.forwarding
    done
    sysctl net.ipv4.conf.$ENI.rp_filter
    sysctl net.ipv4.ip_forward
    ip -4 -o addr show dev $ENI to 10.0.1.0/24 | awk '{print $2, $4}'
    ip -4 route show proto 69
    ip -4 neigh show $GATEWAY dev $ENI nud all | grep -o 'lladdr [^ ]*'
    ip -4 neigh show $GATEWAY dev $ENI nud all | grep -o managed
    ls $PINS $PINS/links
";

/// What is ours of IPv6.
const SHOW_OURS_V6: &str = "
    for dev in $VETH $OTHER_VETH $ENI; do
        for name in disable_ipv6 accept_ra accept_dad; do sysctl net.ipv6.conf.$dev.$name; done
    done
    sysctl net.ipv6.conf.all.forwarding
    ip -6 route show proto 69
    ip -6 -o addr show dev $ENI scope link | awk '{print $4}'
    ip -6 neigh show $GATEWAY_V6 dev $ENI nud all | grep -o 'lladdr [^ ]*'
";

/// Two nodes; on the first, two pods and much that is not ours.
pub struct Site {
    pub cluster: Cluster,
    pub pod: RunningPod,
    pub neighbour: RunningPod,
    pub remote: RunningPod,
    variables: Vec<(&'static str, String)>,
    dual_stack: bool,
}

impl Site {
    pub async fn new(test: &str) -> Self {
        Self::on(Cluster::two_nodes(test).await.unwrap(), false).await
    }

    /// With pods of both families.
    pub async fn dual_stack(test: &str) -> Self {
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24,fd00:0:0:1::/64");
        let builder = builder.controller_args(&["--ip-families", "ipv4,ipv6"]);
        let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
        Self::on(builder.start().await.unwrap(), true).await
    }

    async fn on(cluster: Cluster, dual_stack: bool) -> Self {
        let pod = cluster.run_pod("pod", "node-a", &[]).await.unwrap();
        let neighbour = cluster.run_pod("neighbour", "node-a", &[]).await.unwrap();
        let remote = cluster.run_pod("remote", "node-b", &[]).await.unwrap();
        let mut site = Self { cluster, pod, neighbour, remote, variables: Vec::new(), dual_stack };
        let pins = site.node().machine().bpffs_dir();
        let links = std::fs::read_dir(pins.join("links")).unwrap();
        let names = links.map(|link| link.unwrap().file_name().into_string().unwrap());
        let eni =
            names.filter_map(|name| Some(name.strip_suffix("-from_eni")?.rsplit_once('-')?.0.to_owned()));
        let eni = eni.max().unwrap();
        let veth_of = |pod: &RunningPod| {
            let route = site.sh(&format!("ip -4 route show {}", pod.ip()));
            route.split_whitespace().nth(2).unwrap().to_owned()
        };
        let (veth, other_veth) = (veth_of(&site.pod), veth_of(&site.neighbour));
        let gateway = site.node().machine().subnet().gateway.to_string();
        site.variables = vec![
            ("VETH", veth),
            ("ENI", eni),
            ("GATEWAY", gateway),
            ("GATEWAY_V6", GATEWAY_V6.to_string()),
            ("OTHER_VETH", other_veth),
            ("OTHER_IP", site.neighbour.ip().to_string()),
            ("IP", site.pod.ip().to_string()),
            ("PINS", pins.display().to_string()),
        ];
        site.sh(FOREIGN);
        site.connected();
        site
    }

    /// Starts the agent anew with mounts that a script has changed.
    pub async fn restart_agent_with_mounts(&mut self, script: &str) {
        let pins = self.node().machine().bpffs_dir();
        let node = self.cluster.node_mut("node-a");
        node.agent().kill9().unwrap();
        node.start_agent_with_mounts(&format!("PINS={}\n{script}", pins.display())).unwrap();
        let log = node.machine().dir().join("agent.log");
        eventually("the agent to have adopted everything", async || {
            std::fs::read_to_string(&log).unwrap().matches("node agent is ready").count() == 2
        })
        .await
        .unwrap();
        let node = self.cluster.node_mut("node-a");
        let pid = node.agent().pid().to_string();
        self.set("AGENT", &pid);
    }

    pub fn node(&self) -> &ClusterNode {
        self.cluster.node("node-a")
    }

    /// Sets a variable of scripts.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(variable, _)| *variable != name);
        self.variables.push((name, value.to_owned()));
    }

    /// Runs a script on the node; every command must succeed.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(&format!("set -e\n{script}")).unwrap_or_else(|output| panic!("{script}\n{output}"))
    }

    fn try_sh(&self, script: &str) -> Result<String, String> {
        let mut command = self.node().machine().command("sh");
        let output = command.args(["-c", script]).envs(self.variables.clone()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    /// Everything on the node that is ours.
    pub fn ours(&self) -> String {
        let mut text = self.try_sh(SHOW_OURS).unwrap_or_else(|output| output);
        if self.dual_stack {
            text += &self.try_sh(SHOW_OURS_V6).unwrap_or_else(|output| output);
        }
        for map in ["POD_ROUTES_V4", "POD_ROUTES_V6", "ENIS", "STACK_CIDRS", "NODE_ADDRS", "POD_STATS"] {
            let mut entries: Vec<String> = match self.node().dump(map) {
                Ok(entries) => entries
                    .iter()
                    .map(|entry| {
                        let entry = &entry["formatted"];
                        if map == "POD_STATS" { entry["key"].to_string() } else { entry.to_string() }
                    })
                    .collect(),
                Err(error) => vec![error.to_string()],
            };
            entries.sort();
            writeln!(text, "{map} {entries:#?}").unwrap();
        }
        for hook in [Hook::Ingress, Hook::Egress] {
            // A program that is attached anew comes behind a foreign one.
            let mut programs = self.node().hook_programs(hook).unwrap();
            programs.values_mut().for_each(|names| names.sort());
            writeln!(text, "{hook:?} {programs:?}").unwrap();
        }
        text
    }

    pub fn foreign(&self) -> String {
        let text = self.try_sh(SHOW_FOREIGN).unwrap_or_else(|output| output);
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.node().machine().dir().join("agent.log")).unwrap()
    }

    /// Repairs so far, those too that only a debug log has.
    pub fn repair_lines(&self) -> usize {
        self.log().matches("node::drift::repairs: repaired").count()
    }

    /// Repairs so far by kind, as an operator's log has them.
    pub fn repairs(&self) -> BTreeMap<String, usize> {
        let log = self.log();
        let mut counts = BTreeMap::new();
        for line in
            log.lines().filter(|line| line.contains("WARN ipam_agent::node::drift::repairs: repaired"))
        {
            let kind = line.split("kind=\"").nth(1).unwrap().split('"').next().unwrap();
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Pods reach each other, and the node its pod.
    pub fn connected(&self) {
        for (from, to) in [
            (self.pod.sandbox.ns(), &self.neighbour),
            (self.neighbour.sandbox.ns(), &self.pod),
            (self.pod.sandbox.ns(), &self.remote),
            (self.remote.sandbox.ns(), &self.pod),
            (self.node().machine().ns(), &self.pod),
        ] {
            let ips = to.sandbox.ips();
            assert_eq!(ips.len(), if self.dual_stack { 2 } else { 1 });
            for ip in ips {
                ping(from, ip, PING).unwrap_or_else(|error| panic!("→ {ip}: {error:#}"));
            }
        }
    }

    /// Does harm and waits until all is as it was. `repaired` are the repairs that are counted, by kind.
    pub async fn vandalise(&self, what: &str, script: &str, repaired: &[(&str, usize)]) {
        let foreign = self.foreign();
        self.vandalise_device(what, script, repaired).await;
        assert_eq!(self.foreign(), foreign, "{what}: something foreign was touched");
    }

    /// Likewise where the harm itself takes foreign things away.
    pub async fn vandalise_device(&self, what: &str, script: &str, repaired: &[(&str, usize)]) {
        let (ours, before, lines) = (self.ours(), self.repairs(), self.repair_lines());
        let start = Instant::now();
        self.sh(script);
        assert!(self.ours() != ours || self.repair_lines() > lines, "{what}: no harm was done");
        let healed = eventually(what, async || self.ours() == ours).await;
        let took = start.elapsed();
        let now = self.ours();
        assert!(healed.is_ok(), "{what}: not repaired:\n{}", difference(&ours, &now));
        println!("{what}: repaired in {took:.2?}");
        assert!(took < LIMIT, "{what}: {took:?}");
        self.connected();
        // Another look must find nothing more.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let mut counts = self.repairs();
        for (kind, count) in before {
            *counts.get_mut(&kind).unwrap() -= count;
        }
        counts.retain(|_, count| *count > 0);
        let wanted: BTreeMap<_, _> =
            repaired.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        assert_eq!(counts, wanted, "{what}: repairs that were counted");
    }
}

fn difference(wanted: &str, found: &str) -> String {
    let mut text = String::new();
    for line in wanted.lines().filter(|line| !found.lines().any(|other| other == *line)) {
        writeln!(text, "- {line}").unwrap();
    }
    for line in found.lines().filter(|line| !wanted.lines().any(|other| other == *line)) {
        writeln!(text, "+ {line}").unwrap();
    }
    text
}
