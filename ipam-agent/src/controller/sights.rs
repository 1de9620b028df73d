//! What the rounds of the nodes last saw of them: kept for those who count, so that counting calls no cloud.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::ipam::pool::NodeView;

/// How long a refusal of another ENI is believed after asking again would have been worth it. A pod that waits for one asks
/// all the time; where none waits, one is let in after this time, and finds out.
const BELIEVED: Duration = Duration::from_secs(300);

/// Until when it makes no sense to ask for another ENI, and why, in the cloud's words.
pub type Refusal = (Instant, String);

/// What was last seen.
#[derive(Default)]
pub struct Sights {
    seen: Mutex<Seen>,
    changed: Notify,
}

/// See [`Sights`].
#[derive(Default)]
struct Seen {
    nodes: HashMap<String, NodeView>,
    refusals: HashMap<String, Refusal>,
}

impl Sights {
    /// A round has looked at a node.
    pub fn saw(&self, node: &str, view: NodeView, refusal: Option<Refusal>) {
        let mut seen = self.seen();
        seen.nodes.insert(node.to_owned(), view);
        match refusal {
            Some(refusal) => drop(seen.refusals.insert(node.to_owned(), refusal)),
            None => drop(seen.refusals.remove(node)),
        }
        drop(seen);
        self.changed.notify_one();
    }

    /// The node is gone.
    pub fn forget(&self, node: &str) {
        let mut seen = self.seen();
        seen.nodes.remove(node);
        seen.refusals.remove(node);
    }

    /// Resolves when something was seen since it last did.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All addresses on the ENIs of all nodes, those that nobody owns included.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.seen()
            .nodes
            .values()
            .flat_map(|node| &node.enis)
            .flat_map(|eni| eni.ips.iter().copied())
            .collect()
    }

    /// A node, and why it can have no further ENI, if it was refused one lately.
    pub fn node(&self, name: &str) -> Option<(NodeView, Option<String>)> {
        let seen = self.seen();
        let refusal = seen.refusals.get(name).filter(|(until, _)| until.elapsed() < BELIEVED);
        Some((seen.nodes.get(name)?.clone(), refusal.map(|(_, words)| words.clone())))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
