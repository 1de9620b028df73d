//! What a scrape reads from the node's parts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tracing::warn;

use crate::{
    metrics::{
        Kind::{Counter, Gauge},
        Sample, encode,
    },
    node::{
        context::Node,
        drift::Count,
        journal::State,
        metrics::dataplane::{self, FlowTotals},
    },
};

/// Reads journal, ENIs and maps of a node, which it does not keep alive.
#[derive(Debug)]
pub struct NodeCollector {
    node: Weak<Node>,
    flows: FlowTotals,
}

impl NodeCollector {
    /// For one node.
    pub fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::downgrade(node), flows: FlowTotals::default() }
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node) = self.node.upgrade() else { return Ok(()) };
        let attachments = (
            "attachments",
            "Attachments (pods' interfaces) of this node by the state that the journal has them in",
        );
        encode(&mut encoder, Gauge, attachments, by_state(&node))?;
        let enis = ("enis", "ENIs of this node by whether they can carry pods");
        encode(&mut encoder, Gauge, enis, by_readiness(&node))?;
        let synced = (
            "api_synced",
            "Whether the API has told this agent the addresses of its node (1) or not yet (0)",
        );
        encode(&mut encoder, Gauge, synced, [([], node.bindings.synced().into())])?;
        let reachable = (
            "api_reachable",
            "Whether the last attempt of this agent to reach the API was answered (1) or not (0)",
        );
        encode(&mut encoder, Gauge, reachable, [([], (!node.contact.is_away()).into())])?;
        let repairs = ("repairs", "Things that were other than they should be and were put right, by kind");
        encode(&mut encoder, Counter, repairs, repairs_by_kind(&node, |count| count.repaired))?;
        let failed = ("repair_failures", "Attempts to put something right that failed, by kind");
        encode(&mut encoder, Counter, failed, repairs_by_kind(&node, |count| count.failed))?;

        // What the kernel does not give is left out of this scrape; the rest is worth having.
        let counters = dataplane::Counters::read(&node, &self.flows).inspect_err(|error| {
            warn!(%error, "a scrape could not read the dataplane");
        });
        let readable = ("dataplane_readable", "Whether this scrape could read the eBPF maps (1) or not (0)");
        encode(&mut encoder, Gauge, readable, [([], counters.is_ok().into())])?;
        counters.map_or(Ok(()), |counters| counters.encode(&mut encoder))
    }
}

fn repairs_by_kind(node: &Node, value: fn(&Count) -> u64) -> impl Iterator<Item = Sample<1>> {
    let counts = node.repairs.counts();
    counts.into_iter().map(move |(kind, count)| ([("kind", kind.name().to_owned())], value(&count)))
}

fn by_state(node: &Node) -> impl Iterator<Item = Sample<1>> {
    let mut counts = BTreeMap::from([("intent", 0), ("committed", 0), ("detaching", 0)]);
    for record in node.journal.book().attachments.values() {
        let state = match record.state {
            State::Intent => "intent",
            State::Committed => "committed",
            State::Detaching => "detaching",
        };
        *counts.entry(state).or_default() += 1;
    }
    counts.into_iter().map(|(state, count)| ([("state", state.to_owned())], count))
}

fn by_readiness(node: &Node) -> impl Iterator<Item = Sample<1>> {
    let mut counts = BTreeMap::from([("true", 0), ("false", 0)]);
    for eni in node.enis.borrow().iter() {
        *counts.entry(if eni.waits_for.is_none() { "true" } else { "false" }).or_default() += 1;
    }
    counts.into_iter().map(|(ready, count)| ([("ready", ready.to_owned())], count))
}
