//! Every counter there is.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipam_agent::dataplane::Dataplane;
use ipam_common::{DropCount, DropReason, PodStats, model::Outcome};

use super::world::World;

/// Counters, or what was added to them.
#[derive(Clone, PartialEq, Eq)]
pub struct Counters {
    drops: Vec<(DropReason, DropCount)>,
    pods: BTreeMap<IpAddr, PodStats>,
    /// `FLOW_STATS.inserted`.
    inserted: u64,
}

impl Counters {
    /// What the maps hold.
    pub fn read(dataplane: &Dataplane, world: &World) -> Self {
        let stats = |addr: IpAddr| dataplane.pod_stats(addr).unwrap().expect("counters of every pod");
        Self {
            drops: dataplane.drops().unwrap(),
            pods: world.routes.iter().map(|(addr, _)| (*addr, stats(*addr))).collect(),
            inserted: dataplane.flow_stats().unwrap().inserted,
        }
    }

    /// What a packet adds.
    pub fn of(outcome: &Outcome, world: &World) -> Self {
        let pods = world.routes.iter().map(|(addr, _)| (*addr, outcome.pod_delta(*addr)));
        Self {
            drops: DropReason::ALL.map(|reason| (reason, outcome.drop_delta(reason))).into(),
            pods: pods.collect(),
            inserted: outcome.marks.iter().count().try_into().unwrap(),
        }
    }

    /// Adds what a packet adds.
    pub fn add(&mut self, delta: &Self) {
        for ((_, count), (_, more)) in self.drops.iter_mut().zip(&delta.drops) {
            *count = [*count, *more].into_iter().sum();
        }
        for (addr, stats) in &mut self.pods {
            *stats = [*stats, delta.pods[addr]].into_iter().sum();
        }
        self.inserted += delta.inserted;
    }

    /// What was added since then, of the same pods.
    pub fn since(&self, then: &Self) -> Self {
        let drops = self.drops.iter().zip(&then.drops).map(|((reason, now), (_, then))| {
            let (packets, bytes) = (now.packets - then.packets, now.bytes - then.bytes);
            (*reason, DropCount { packets, bytes })
        });
        let pods = self.pods.iter().map(|(addr, now)| {
            let then = then.pods[addr];
            let delta = PodStats {
                rx_packets: now.rx_packets - then.rx_packets,
                rx_bytes: now.rx_bytes - then.rx_bytes,
                tx_packets: now.tx_packets - then.tx_packets,
                tx_bytes: now.tx_bytes - then.tx_bytes,
            };
            (*addr, delta)
        });
        Self { drops: drops.collect(), pods: pods.collect(), inserted: self.inserted - then.inserted }
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drops, pods, inserted } = self;
        for (reason, count) in drops.iter().filter(|(_, count)| *count != DropCount::default()) {
            writeln!(f, "  {}: {count:?}", reason.name())?;
        }
        for (pod, stats) in pods.iter().filter(|(_, stats)| **stats != PodStats::default()) {
            writeln!(f, "  {pod}: {stats:?}")?;
        }
        if *inserted > 0 { writeln!(f, "  flows inserted: {inserted}") } else { Ok(()) }
    }
}
