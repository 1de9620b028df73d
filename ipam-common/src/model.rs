//! What the TC programs shall do with a packet: a second judge, to be compared with the programs themselves.
//!
//! Written from the specification and not from the programs, and built the other way round: a frame is first taken
//! apart as a whole ([`frame`]), then the [`Rules`] say what each part means, and [`decide`] only puts their answers
//! in order. It shares the types of the maps with the programs and no code. It lives in this crate because the
//! compiler then holds it to `no_std` and to the very types of the map ABI.
//!
//! Each rule is a method of a trait, [`Specified`] being the specification. A test that asks whether a comparison
//! with this model would notice a bug overrides one of them.

pub mod frame;
mod rules;

use self::frame::{Arp, Frame, Ipv4, Payload};
pub use self::rules::{Rules, Scope, Specified};
use crate::{DropCount, DropReason, Eni, Ipv4Octets, PodRoute, PodStats};

/// Which program sees the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Ingress of the node's end of a pod's veth.
    FromPod,
    /// Ingress of an ENI.
    FromEni,
}

/// How a packet comes in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Where.
    pub hook: Hook,
    /// Index of the interface.
    pub ifindex: u32,
    /// The kernel calls it `PACKET_HOST`: its destination is the interface's own MAC.
    pub to_host: bool,
    /// A VLAN tag was taken off the frame and is kept beside it.
    pub tag_beside: bool,
    /// Bytes of payload in each segment that the packet will be cut into; 0: it stays whole.
    pub gso_size: u32,
}

/// The contents of the maps. No key occurs twice in a list.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// `POD_ROUTES_V4`. Every address here has counters in `POD_STATS`.
    pub routes: &'a [(Ipv4Octets, PodRoute)],
    /// The slots of `ENIS` that are not empty.
    pub enis: &'a [(u32, Eni)],
    /// `STACK_CIDRS`: network address and prefix length in bits.
    pub stack_cidrs: &'a [(Ipv4Octets, u32)],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The host's stack gets it (`TC_ACT_OK`).
    Stack,
    /// It is dropped and counted by its reason (`TC_ACT_SHOT`).
    Drop(DropReason),
    /// It leaves by the interface of this index (`bpf_redirect`).
    Out(u32),
    /// It enters the namespace of the peer of the interface of this index (`bpf_redirect_peer`).
    IntoPod(u32),
}

/// A verdict, and whom the packet is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The pod for which it counts as sent.
    pub sent_by: Option<Ipv4Octets>,
    /// The pod for which it counts as received.
    pub received_by: Option<Ipv4Octets>,
    /// Bytes it counts for, wherever it is counted.
    pub bytes: u64,
}

impl Outcome {
    /// What the packet adds to the counters of the pod of this address.
    #[must_use]
    pub fn pod_delta(&self, pod: Ipv4Octets) -> PodStats {
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

impl<'a> Maps<'a> {
    fn route(&self, addr: Ipv4Octets) -> Option<&'a PodRoute> {
        self.routes.iter().find(|(key, _)| *key == addr).map(|(_, route)| route)
    }

    fn eni(&self, slot: u16) -> Option<&'a Eni> {
        self.enis.iter().find(|(key, _)| *key == u32::from(slot)).map(|(_, eni)| eni)
    }
}

/// Judges a packet as the program of its hook shall, and leaves `bytes`, the frame from its Ethernet header, as the
/// program shall leave it.
pub fn decide(rules: &dyn Rules, maps: &Maps<'_>, arrival: &Arrival, bytes: &mut [u8]) -> Outcome {
    let frame = Frame::parse(bytes);
    let counted = rules.counted_bytes(bytes.len());
    let case = Case { rules, maps, arrival, len: bytes.len() };
    match arrival.hook {
        Hook::FromEni => case.at_eni(frame.as_ref()),
        Hook::FromPod => case.at_pod(frame.as_ref(), bytes),
    }
    .counting(counted)
}

/// A verdict on its way to become an [`Outcome`].
struct Draft {
    verdict: Verdict,
    sent_by: Option<Ipv4Octets>,
    received_by: Option<Ipv4Octets>,
}

impl Draft {
    fn nobody(verdict: Verdict) -> Self {
        Self { verdict, sent_by: None, received_by: None }
    }

    fn counting(self, bytes: u64) -> Outcome {
        let Self { verdict, sent_by, received_by } = self;
        Outcome { verdict, sent_by, received_by, bytes }
    }
}

struct Case<'a> {
    rules: &'a dyn Rules,
    maps: &'a Maps<'a>,
    arrival: &'a Arrival,
    /// Of the frame, in bytes.
    len: usize,
}

impl Case<'_> {
    fn at_eni(&self, frame: Option<&Frame>) -> Draft {
        let addressed_to = match frame.map(|frame| &frame.payload) {
            Some(Payload::Ipv4(Some(header))) if self.rules.eni_may_deliver(self.arrival) => {
                Some(header.destination)
            }
            _ => None,
        };
        match addressed_to.and_then(|addr| Some((addr, self.maps.route(addr)?))) {
            Some((addr, route)) => Draft {
                verdict: Verdict::IntoPod(self.rules.delivery_ifindex(route)),
                sent_by: None,
                received_by: self.rules.counts_received().then_some(addr),
            },
            None => Draft::nobody(Verdict::Stack),
        }
    }

    fn at_pod(&self, frame: Option<&Frame>, bytes: &mut [u8]) -> Draft {
        let verdict = match frame {
            _ if self.rules.tag_beside_is_refused(self.arrival) => Verdict::Drop(DropReason::VlanTagged),
            None => Verdict::Drop(DropReason::Malformed),
            Some(frame) => match &frame.payload {
                Payload::Ipv4(Some(header)) => return self.ipv4_from_pod(frame, header, bytes),
                Payload::Arp(Some(message)) => self.arp_from_pod(frame, message),
                Payload::Ipv4(None) | Payload::Arp(None) => Verdict::Drop(DropReason::Malformed),
                Payload::Other => Verdict::Drop(self.rules.refused_ether_type(frame.ether_type)),
            },
        };
        Draft::nobody(verdict)
    }

    /// All reasons for which a claim is not the sender's own are one and the same here: a spoof.
    fn arp_from_pod(&self, frame: &Frame, message: &Arp) -> Verdict {
        if !self.rules.arp_is_of_ipv4_over_ethernet(message) {
            return Verdict::Drop(DropReason::Malformed);
        }
        let route = self.maps.route(self.rules.arp_claim(message));
        let honest = self.rules.source_fault(route, self.arrival.ifindex, frame.source).is_none()
            && self.rules.arp_names_frames_mac(message, frame);
        if honest { Verdict::Stack } else { Verdict::Drop(DropReason::ArpSpoof) }
    }

    fn ipv4_from_pod(&self, frame: &Frame, header: &Ipv4, bytes: &mut [u8]) -> Draft {
        if !self.rules.ipv4_is_sound(header, self.len - frame::ETHERNET_LEN) {
            return Draft::nobody(Verdict::Drop(DropReason::Malformed));
        }
        let route = self.maps.route(header.source);
        if let Some(reason) = self.rules.source_fault(route, self.arrival.ifindex, frame.source) {
            return Draft::nobody(Verdict::Drop(reason));
        }
        let scope = self.rules.scope(header.destination);
        let to_stack = self
            .maps
            .stack_cidrs
            .iter()
            .any(|&(network, prefix_len)| self.rules.covers(network, prefix_len, header.destination));
        let local_pod = match scope {
            Scope::Unicast if self.rules.prefers_pod_to_stack() || !to_stack => {
                self.maps.route(header.destination)
            }
            _ => None,
        };
        let verdict = match (scope, local_pod) {
            (Scope::Nowhere, _) => Verdict::Drop(DropReason::Malformed),
            (Scope::Node, _) => Verdict::Stack,
            (Scope::Unicast, Some(pod)) => Verdict::IntoPod(self.rules.delivery_ifindex(pod)),
            (Scope::Unicast, None) if to_stack => Verdict::Stack,
            (Scope::Unicast, None) => self.out_of_eni(route, header, bytes),
        };
        let sent = self.rules.counts_sent(verdict);
        let received = local_pod.is_some() && self.rules.counts_received();
        Draft {
            verdict,
            sent_by: sent.then_some(header.source),
            received_by: received.then_some(header.destination),
        }
    }

    fn out_of_eni(&self, route: Option<&PodRoute>, header: &Ipv4, bytes: &mut [u8]) -> Verdict {
        let eni = route.and_then(|route| self.maps.eni(self.rules.eni_slot(route)));
        let Some(eni) = eni.filter(|eni| self.rules.eni_is_ready(eni)) else {
            return Verdict::Drop(DropReason::EniNotReady);
        };
        let longest = self.rules.longest_piece(
            self.len - frame::ETHERNET_LEN,
            self.arrival.gso_size,
            header.header_len(),
        );
        if !self.rules.fits(longest, eni.mtu) {
            return Verdict::Stack;
        }
        let [destination, source] = self.rules.macs_on_the_wire(eni);
        bytes[..6].copy_from_slice(&destination.octets);
        bytes[6..12].copy_from_slice(&source.octets);
        Verdict::Out(self.rules.exit_ifindex(eni))
    }
}

#[cfg(test)]
mod tests;
