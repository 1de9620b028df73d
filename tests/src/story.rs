//! The demo's story: two nodes, told in steps, each checked before it is told. The demo prints it; a test runs
//! it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::caller::Door;
use crate::cluster::Cluster;

mod connect;
mod look;
mod retain;
mod tools;

/// Makes a pod static.
pub const STATIC: (&str, &str) = ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Never");

/// A step that was told.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// What the step shows.
    pub title: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was seen; the last line is the error of a step that did not hold.
    pub lines: Vec<String>,
}

/// The stage: the cluster, a plain machine of the VPC, and the pods.
pub struct Stage {
    /// The product on the lab.
    pub cluster: Cluster,
    host: crate::lab::host::VpcHost,
    pods: tools::Pods,
}

/// What a step saw.
type Seen = anyhow::Result<Vec<String>>;

/// Tells the story from the beginning, in the cloud that has this door. `tell` is called at the beginning of each step with its title and at its
/// end with what was seen. Ends at the first step that does not hold.
///
/// # Errors
/// The stage could not be built. A step that does not hold is no error: it is told.
pub async fn tell(
    door: Door,
    test: &str,
    mut tell: impl FnMut(&'static str, Option<&Told>),
) -> anyhow::Result<(Stage, Vec<Told>)> {
    let mut all = Vec::new();
    let title = "A VPC with two nodes: fabric, cloud, controller with its API, two agents";
    tell(title, None);
    let start = Instant::now();
    let cluster = Cluster::two_nodes_of(door, test).await?;
    let host = cluster.lab.host("vpc-host", "zone-1")?;
    cluster.cloud.take_address(host.ip());
    let mut stage = Stage { cluster, host, pods: tools::Pods::default() };
    let lines =
        vec![format!("subnet 10.0.1.0/24, node-a, node-b and a plain VPC host at {}", stage.host.ip())];
    let told = Told { title, ok: true, seconds: start.elapsed().as_secs_f64(), lines };
    tell(title, Some(&told));
    all.push(told);

    macro_rules! step {
        ($title:literal, $step:path) => {
            tell($title, None);
            let start = Instant::now();
            let seen = $step(&mut stage).await;
            let seconds = start.elapsed().as_secs_f64();
            let told = match seen {
                Ok(lines) => Told { title: $title, ok: true, seconds, lines },
                Err(error) => Told { title: $title, ok: false, seconds, lines: vec![format!("{error:#}")] },
            };
            tell($title, Some(&told));
            all.push(told);
            if !all.last().is_some_and(|told| told.ok) {
                return Ok((stage, all));
            }
        };
    }
    step!("Pods come up: web-0 and web-1 static, job-0 and job-1 not", connect::pods_come_up);
    step!("Pods of one node talk, and the packets never leave it", connect::same_node);
    step!("Pods of two nodes talk, each through the ENI that owns its address", connect::across_nodes);
    step!("Pods and a VPC host talk, without NAT", connect::vpc_host);
    step!("A pod that lies about its address is not heard", connect::spoofing);
    step!("kubectl shows the addresses, the claims and the nodes' ENIs", look::objects);
    step!("The pod-IP-to-ENI map, as bpftool shows it", look::map);
    step!("The static pod web-0 dies on node-a, comes back on node-b and keeps its address", retain::moves);
    step!("The address of job-0 goes back to the subnet with its pod", retain::goes_back);
    step!("kubectl delete vipc of the live pod web-1 waits for the pod", retain::delete_waits);
    step!("kill -9 of node-b's agent under 5 000 packets/s loses none", look::agent_killed);
    Ok((stage, all))
}

/// How long one ping may take.
const PING: Duration = Duration::from_secs(2);

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

impl Stage {
    /// An address of a pod on the stage.
    fn ip(&self, pod: &str) -> Ipv4Addr {
        self.pods.get(pod).ip()
    }

    /// The commands that show a stage left standing.
    #[must_use]
    pub fn how_to_look_around(&self) -> String {
        let lab = &self.cluster.lab;
        let ctl = lab.ctl().ns().how_to_enter();
        let mut lines = vec![
            "The lab stands. Look around:".to_owned(),
            format!(
                "  {ctl} env KUBECONFIG={} kubectl get vip,vipc,nec",
                self.cluster.kubeconfig().display()
            ),
        ];
        for name in ["node-a", "node-b"] {
            let node = self.cluster.node(name).machine();
            lines.push(format!("  {}   # {name}: ip link, tcpdump, ...", node.ns().how_to_enter()));
            lines.push(format!("  bpftool map dump pinned {}/POD_ROUTES_V4", node.bpffs_dir().display()));
        }
        for (name, pod) in self.pods.iter() {
            lines.push(format!("  {}   # pod {name}, {}", pod.sandbox.ns().how_to_enter(), pod.ip()));
        }
        lines.push(format!("  fabric: {}", lab.fabric().ns().how_to_enter()));
        lines.push("The cloud ended with this process, agents and controller run on. Remove all of it: cargo xtask demo --clean".to_owned());
        lines.join("\n")
    }

    /// What controller and agents have logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let lab = &self.cluster.lab;
        let mut dirs = vec![lab.ctl().dir()];
        dirs.extend(["node-a", "node-b"].map(|name| self.cluster.node(name).machine().dir()));
        let mut text = String::new();
        for file in dirs.iter().flat_map(std::fs::read_dir).flatten().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                let log = std::fs::read_to_string(file.path()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(40).collect();
                text.push_str(&format!("--- {}\n", file.path().display()));
                last.iter().rev().for_each(|line| text.push_str(&format!("{line}\n")));
            }
        }
        text
    }
}
