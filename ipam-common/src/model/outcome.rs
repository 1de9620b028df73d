//! What becomes of a packet, and what it leaves in the maps.

use core::net::IpAddr;

use crate::{DropCount, DropReason, PodStats, StackFlow};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The host's stack gets it (`TC_ACT_OK`).
    Stack,
    /// It goes on as if the program were not there (`TC_ACT_UNSPEC`).
    Pass,
    /// It is dropped and counted by its reason (`TC_ACT_SHOT`).
    Drop(DropReason),
    /// It leaves by the interface of this index (`bpf_redirect`).
    Out(u32),
    /// It enters the namespace of the peer of the interface of this index (`bpf_redirect_peer`).
    IntoPod(u32),
}

/// A verdict, whom the packet is counted for, and which flows it marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The pod for which it counts as sent.
    pub sent_by: Option<IpAddr>,
    /// The pod for which it counts as received.
    pub received_by: Option<IpAddr>,
    /// The flows that are marked afterwards and were not before.
    pub marks: Marks,
    /// Bytes it counts for, wherever it is counted.
    pub bytes: u64,
}

impl Outcome {
    /// A verdict without any effect.
    pub(super) fn of(verdict: Verdict) -> Self {
        Self { verdict, sent_by: None, received_by: None, marks: Marks::default(), bytes: 0 }
    }

    /// What the packet adds to the counters of the pod of this address.
    #[must_use]
    pub fn pod_delta(&self, pod: IpAddr) -> PodStats {
        let (sent, received) = (self.sent_by == Some(pod), self.received_by == Some(pod));
        PodStats {
            rx_packets: received.into(),
            rx_bytes: if received { self.bytes } else { 0 },
            tx_packets: sent.into(),
            tx_bytes: if sent { self.bytes } else { 0 },
        }
    }

    /// What the packet adds to the counter of this reason.
    #[must_use]
    pub fn drop_delta(&self, reason: DropReason) -> DropCount {
        if self.verdict == Verdict::Drop(reason) {
            DropCount { packets: 1, bytes: self.bytes }
        } else {
            DropCount::default()
        }
    }
}

/// Flows newly marked by one packet: at most one and its pair of addresses, for each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks([Option<StackFlow>; 4]);

impl Marks {
    /// Each of them, once.
    pub fn iter(&self) -> impl Iterator<Item = &StackFlow> {
        self.0.iter().flatten()
    }

    /// Adds a flow, unless it is there or was `before`.
    pub(super) fn add(&mut self, flow: StackFlow, before: &[StackFlow]) {
        let known = before.contains(&flow) || self.iter().any(|it| *it == flow);
        if let Some(free) = self.0.iter_mut().find(|it| it.is_none()).filter(|_| !known) {
            *free = Some(flow);
        }
    }
}
