//! What a scrape reads from the eBPF maps. The dataplane's lock is taken for one look-up at a time: an ADD never waits
//! for a scrape.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use ipam_common::{
    DropCount, DropReason, PodStats,
    maps::{MAX_PODS, MAX_STACK_FLOWS},
};
use prometheus_client::encoding::DescriptorEncoder;

use crate::{
    dataplane::{DataplaneError, Program},
    metrics::{
        Kind::{self, Counter, Gauge},
        Sample, encode,
    },
    node::{context::Node, journal::State},
};

/// The labels `namespace`, `pod` and `family` of a pod's counters.
type PodLabels = (String, String, &'static str);

/// The highest count of evictions so far, since a counter must not fall when flows end between two looks.
#[derive(Debug, Default)]
pub struct FlowTotals {
    evicted: AtomicU64,
}

/// The counters of the dataplane at one scrape.
pub struct Counters {
    pods: BTreeMap<PodLabels, PodStats>,
    drops: Vec<(DropReason, DropCount)>,
    flows: u64,
    flows_inserted: u64,
    flows_evicted: u64,
    routes: [(&'static str, u64); 2],
    programs: BTreeMap<Program, u64>,
}

impl Counters {
    /// Reads them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read(node: &Node, totals: &FlowTotals) -> Result<Self, DataplaneError> {
        let table = node.dataplane().flow_table()?;
        // Those present first: a flow that comes meanwhile must not look like one that was given up.
        let flows = table.len()?;
        let flows_inserted = node.dataplane().flow_stats()?.inserted;
        let evicted = flows_inserted.saturating_sub(flows);
        let flows_evicted = totals.evicted.fetch_max(evicted, Ordering::Relaxed).max(evicted);
        let drops = node.dataplane().drops()?;
        let routes = node.dataplane().routes()?;
        let of_family = |wanted| routes.iter().filter(|(ip, _)| family(*ip) == wanted).count() as u64;
        let mut programs: BTreeMap<Program, u64> = Program::ALL.map(|program| (program, 0)).into();
        for pin in node.dataplane().links()? {
            *programs.entry(pin.program).or_default() += 1;
        }
        Ok(Self {
            pods: pods(node)?,
            drops,
            flows,
            flows_inserted,
            flows_evicted,
            routes: ["ipv4", "ipv6"].map(|name| (name, of_family(name))),
            programs,
        })
    }

    /// Writes them.
    ///
    /// # Errors
    /// As the encoder's.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_pods(encoder)?;
        let by_reason = |value: fn(&DropCount) -> u64| {
            self.drops
                .iter()
                .map(move |(reason, count)| ([("reason", reason.name().to_owned())], value(count)))
        };
        let packets = ("drop_packets", "Packets that the programs dropped, by reason");
        encode(encoder, Counter, packets, by_reason(|count| count.packets))?;
        let bytes = (
            "drop_bytes",
            "Bytes of the packets that the programs dropped, Ethernet header included, by reason",
        );
        encode(encoder, Counter, bytes, by_reason(|count| count.bytes))?;
        self.encode_flows(encoder)?;
        let routes = ("pod_routes", "Entries of the pod-IP-to-ENI map, by address family");
        let samples = self.routes.iter().map(|(name, count)| ([("family", (*name).to_owned())], *count));
        encode(encoder, Gauge, routes, samples)?;
        let limit =
            ("pod_routes_limit", "Entries that the pod-IP-to-ENI map of each address family can hold");
        encode(encoder, Gauge, limit, [([], MAX_PODS as u64)])?;
        let programs = ("programs_attached", "Pinned attachments of each program to an interface");
        let samples =
            self.programs.iter().map(|(program, count)| ([("program", program.name().to_owned())], *count));
        encode(encoder, Gauge, programs, samples)
    }

    fn encode_pods(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Value = fn(&PodStats) -> u64;
        let families: [(&str, &str, Value); 4] = [
            (
                "pod_receive_packets",
                "Packets delivered to a pod of this node, those that never enter the host stack included",
                |stats| stats.rx_packets,
            ),
            (
                "pod_receive_bytes",
                "Bytes delivered to a pod of this node, Ethernet header included",
                |stats| stats.rx_bytes,
            ),
            (
                "pod_transmit_packets",
                "Packets of a pod of this node that passed its source check, wherever they went",
                |stats| stats.tx_packets,
            ),
            (
                "pod_transmit_bytes",
                "Bytes of a pod of this node that passed its source check, Ethernet header included",
                |stats| stats.tx_bytes,
            ),
        ];
        for (name, help, value) in families {
            let samples = self.pods.iter().map(|((namespace, pod, family), stats)| {
                let labels = [
                    ("namespace", namespace.clone()),
                    ("pod", pod.clone()),
                    ("family", (*family).to_owned()),
                ];
                (labels, value(stats))
            });
            encode(encoder, Counter, (name, help), samples)?;
        }
        Ok(())
    }

    fn encode_flows(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let families: [(Kind, &str, &str, u64); 4] = [
            (Gauge, "stack_flows", "Entries of the table of flows that stay on the host stack", self.flows),
            (
                Gauge,
                "stack_flows_limit",
                "Entries that the table of flows that stay on the host stack can hold; a full table gives up the least \
                 recently used",
                MAX_STACK_FLOWS as u64,
            ),
            (
                Counter,
                "stack_flow_insertions",
                "Entries made in the table of flows that stay on the host stack",
                self.flows_inserted,
            ),
            (
                Counter,
                "stack_flow_evictions",
                "Entries that the table of flows that stay on the host stack has given up: computed as those made less \
                 those present",
                self.flows_evicted,
            ),
        ];
        for (kind, name, help, value) in families {
            let sample: Sample<0> = ([], value);
            encode(encoder, kind, (name, help), [sample])?;
        }
        Ok(())
    }
}

/// The counters of each pod. An address counts for the attachment that has it, which is the last of a pod's sandboxes.
fn pods(node: &Node) -> Result<BTreeMap<PodLabels, PodStats>, DataplaneError> {
    let book = node.journal.book();
    let mut pods = BTreeMap::new();
    for record in book.attachments.values().filter(|record| record.state == State::Committed) {
        for ip in record.ips() {
            if book.owner_of(ip).is_none_or(|owner| owner.key != record.key) {
                continue;
            }
            let Some(stats) = node.dataplane().pod_stats(ip)? else { continue };
            let labels = (record.pod_namespace.clone(), record.pod_name.clone(), family(ip));
            // Two addresses of one family can be a pod's by two of its interfaces.
            let total = pods.entry(labels).or_insert_with(PodStats::default);
            *total = [*total, stats].into_iter().sum();
        }
    }
    Ok(pods)
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ipv4" } else { "ipv6" }
}
