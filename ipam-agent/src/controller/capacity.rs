//! Tells the scheduler where pods can have addresses: the extended resource, the taint and the condition of each node.
//!
//! One pass over all nodes after something changed, at most one a second: numbers that depend on what all nodes share
//! are counted once for all. A pass looks at the subnets again when this controller has changed something in them since,
//! calls the cloud for nothing else, and writes only what is different. Of a node's lists it changes its own entry; every
//! write carries the resourceVersion of the lists it was made from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use tracing::{info, warn};

use super::context::Context;
use crate::api::scheduling::{FOREIGN, NODE_LABEL, ZONE_LABEL};
use crate::ipam::capacity::standing::{Agent, Seen, Standing, serves, standing};
use crate::ipam::capacity::{Capacity, SubnetRoom, capacity};

mod node;
mod pods;

use node::{Write, said};
use pods::PodsOfNodes;

/// The shortest time between two passes.
const PASS: Duration = Duration::from_secs(1);
/// The longest.
const LOOK: Duration = Duration::from_secs(60);
/// The shortest time between two numbers of a node, but for the first and those to and from none.
const NUMBER: Duration = Duration::from_secs(10);

/// How the node agents' pods are found.
#[derive(Clone, Debug)]
pub struct Scheduling {
    /// Their namespace.
    pub namespace: String,
    /// A label that they have.
    pub label: (String, String),
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            namespace: "kube-system".into(),
            label: ("app.kubernetes.io/name".into(), "eni-ipam-node".into()),
        }
    }
}

/// Keeps all nodes up to date. `news` says that a pod, a node or an address has changed.
pub async fn keep(context: Arc<Context>, agents: Scheduling, mut news: BoxStream<'static, ()>) {
    if context.ready().await.is_err() {
        return;
    }
    let mut keeper = Keeper { context: context.clone(), agents, nodes: HashMap::new(), told: HashMap::new() };
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            _ = news.next() => {}
            () = context.sights.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        tokio::time::sleep(PASS).await;
        while let Some(Some(())) = news.next().now_or_never() {}
        wait = keeper.pass().await;
    }
}

/// What this process remembers of a node.
struct Memory {
    serves: bool,
    since: Instant,
    /// The number that was last written, and when.
    number: Option<(u64, Instant)>,
}

struct Keeper {
    context: Arc<Context>,
    agents: Scheduling,
    nodes: HashMap<String, Memory>,
    /// Pods that were told why no node takes them, and in which words.
    told: HashMap<String, String>,
}

impl Keeper {
    /// Looks at all nodes, and says when to look again at the latest.
    async fn pass(&mut self) -> Duration {
        let stores = self.context.stores.clone();
        let (nodes, ips, all_pods) = (stores.nodes.state(), stores.ips.state(), stores.pods.state());
        let mut taken: BTreeSet<IpAddr> = ips.iter().filter_map(|ip| ip.spec.ip.parse().ok()).collect();
        taken.extend(self.context.sights.addresses());
        let (subnets, stale) = self.context.pools.counted_subnets(&self.context).await;
        let rooms: Vec<SubnetRoom> = subnets.iter().map(|subnet| SubnetRoom::of(subnet, &taken)).collect();
        let pods = PodsOfNodes::of(&all_pods, &ips, &self.agents);
        self.nodes.retain(|name, _| nodes.iter().any(|node| node.name_any() == *name));
        let (mut again, mut capacities) = (stale.unwrap_or(LOOK), BTreeMap::new());
        for node in nodes {
            let name = node.name_any();
            if is_foreign(&node) {
                self.write(Write::foreign(&node)).await;
                continue;
            }
            let capacity = self.context.sights.node(&name).map(|(view, refused)| {
                capacity(&view, &rooms, &taken, &self.context.config.families, refused.as_deref())
            });
            // A controller that has just started knows nothing yet, which is no reason to say something else.
            if capacity.is_none() && said(&node).is_some() && pods.agent(&name) == Agent::Ready {
                continue;
            }
            let seen = Seen { agent: pods.agent(&name), capacity: capacity.as_ref(), said: said(&node) };
            let (standing, number) =
                self.judge(&name, seen, pods.without_request(&name) + pods.kept_for_none(&name));
            again = again.min(standing.again.unwrap_or(LOOK));
            if let Some(capacity) = capacity {
                let zone = node.labels().get(ZONE_LABEL).cloned().unwrap_or_default();
                capacities.entry(zone).or_insert_with(Vec::new).push((name.clone(), capacity));
            }
            if !self.write(Write::of(&node, &standing, number)).await {
                again = PASS;
            }
        }
        self.tell(&all_pods, &capacities).await;
        again
    }

    /// What to say of a node, and its number; none: as it was last written.
    fn judge(&mut self, name: &str, seen: Seen<'_>, spoken_for: u64) -> (Standing, Option<u64>) {
        let serves = serves(seen);
        let now = Instant::now();
        let memory = self.nodes.entry(name.to_owned()).or_insert(Memory { serves, since: now, number: None });
        if memory.serves != serves {
            (memory.serves, memory.since) = (serves, now);
        }
        let mut standing = standing(seen, memory.since.elapsed());
        let wanted = seen.capacity.map(|capacity| capacity.pods.saturating_sub(spoken_for));
        let Some(wanted) = wanted else { return (standing, None) };
        match memory.number {
            Some((old, when)) if old != wanted && old != 0 && wanted != 0 && when.elapsed() < NUMBER => {
                let left = NUMBER.saturating_sub(when.elapsed());
                standing.again = Some(standing.again.map_or(left, |again| again.min(left)));
                (standing, Some(old))
            }
            Some((old, _)) if old == wanted => (standing, Some(wanted)),
            _ => {
                memory.number = Some((wanted, now));
                (standing, Some(wanted))
            }
        }
    }

    /// Whether the node is now as it should be.
    async fn write(&self, write: Write) -> bool {
        let nodes = kube::Api::all(self.context.client.clone());
        let name = write.name.clone();
        match write.send(&nodes).await {
            Ok(Some(change)) => {
                info!(node = name, change, "node");
                true
            }
            Ok(None) => true,
            // The cache brings what somebody else has written.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => false,
            Err(error) => {
                warn!(node = name, %error, "node not written");
                false
            }
        }
    }

    /// Tells pods that no node takes for want of addresses where there are none, and why.
    async fn tell(&mut self, pods: &[Arc<Pod>], zones: &BTreeMap<String, Vec<(String, Capacity)>>) {
        let waiting: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::lacks_address(pod)).collect();
        self.told.retain(|uid, _| waiting.iter().any(|pod| pod.uid().as_ref() == Some(uid)));
        for pod in waiting {
            let wanted = pods::zones(pod);
            let words: Vec<String> = zones
                .iter()
                .filter(|(zone, _)| wanted.is_empty() || wanted.contains(zone))
                .map(|(zone, nodes)| of_zone(zone, nodes))
                .collect();
            let note = format!("no node has an address left for this pod: {}", words.join("; "));
            let uid = pod.uid().unwrap_or_default();
            if self.told.get(&uid) != Some(&note) {
                let about = kube::Resource::object_ref(&**pod, &());
                self.context.warn(about, NO_ADDRESS_LEFT, "Schedule", &note).await;
                self.told.insert(uid, note);
            }
        }
    }
}

/// Reason of the event of a pod that no node takes.
const NO_ADDRESS_LEFT: &str = "NoAddressLeft";

fn of_zone(zone: &str, nodes: &[(String, Capacity)]) -> String {
    /// Nodes that are named each; of more, how many there are.
    const NAMED: usize = 3;
    let zone = if zone.is_empty() { "nodes without a zone" } else { zone };
    let named: Vec<String> =
        nodes.iter().take(NAMED).map(|(name, capacity)| format!("{name}: {capacity}")).collect();
    let more = nodes.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} nodes more") } else { String::new() };
    format!("{zone} ({}{more})", named.join(", "))
}

/// Whether no agent is to be expected on a node.
fn is_foreign(node: &Node) -> bool {
    let label = |key: &str| node.labels().get(key).map(String::as_str);
    label(NODE_LABEL) == Some(FOREIGN) || label("kubernetes.io/os").is_some_and(|os| os != "linux")
}
