//! What the TC programs shall do with a packet: a second judge, to be compared with the programs themselves.
//!
//! Written from the specification and not from the programs, and built the other way round: a frame is first taken
//! apart as a whole ([`frame`], [`upper`], [`flow`]), then the [`Rules`] say what each part means, and [`decide`] only
//! puts their answers in order. It shares the types of the maps with the programs and no code. It lives in this crate
//! because the compiler then holds it to `no_std` and to the very types of the map ABI.
//!
//! Each rule is a method of a trait, [`Specified`] being the specification. A test that asks whether a comparison
//! with this model would notice a bug overrides one of them.

use core::net::IpAddr;

mod egress;
pub mod flow;
pub mod frame;
mod ingress;
pub mod ipv4;
pub mod ipv6;
mod outcome;
mod rules;
pub mod upper;

use self::{
    flow::Packet,
    frame::{Frame, Payload},
    upper::{Icmpv6, protocol},
};
pub use self::{
    outcome::{Marks, Outcome, Verdict},
    rules::{Rules, Scope, Source, Specified},
};
use crate::{Eni, PodRoute, StackFlow};

/// Which program sees the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Ingress of the node's end of a pod's veth.
    FromPod,
    /// Ingress of an ENI.
    FromEni,
    /// Egress of the node's end of a pod's veth.
    ToPod,
    /// Egress of an ENI.
    ToEni,
}

/// How a packet comes by.
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
    /// It was sent here by one of the programs, and not by the stack.
    pub redirected: bool,
    /// Bytes of payload in each segment that the packet will be cut into; 0: it stays whole.
    pub gso_size: u32,
}

/// The contents of the maps. No key occurs twice in a list.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// `POD_ROUTES_V4` and `POD_ROUTES_V6`. Every address here has counters.
    pub routes: &'a [(IpAddr, PodRoute)],
    /// The slots of `ENIS` that are not empty.
    pub enis: &'a [(u32, Eni)],
    /// `STACK_CIDRS` and `STACK_CIDRS_V6`: network address and prefix length in bits.
    pub stack_cidrs: &'a [(IpAddr, u32)],
    /// `NODE_ADDRS` and `NODE_ADDRS_V6`: the node's own addresses and the slots of their ENIs.
    pub node_addrs: &'a [(IpAddr, u32)],
    /// `STACK_FLOWS`.
    pub flows: &'a [StackFlow],
}

impl<'a> Maps<'a> {
    fn route(&self, addr: IpAddr) -> Option<&'a PodRoute> {
        self.routes.iter().find(|(key, _)| *key == addr).map(|(_, route)| route)
    }

    fn eni(&self, slot: u32) -> Option<&'a Eni> {
        self.enis.iter().find(|(key, _)| *key == slot).map(|(_, eni)| eni)
    }

    fn node_slot(&self, addr: IpAddr) -> Option<u32> {
        self.node_addrs.iter().find(|(key, _)| *key == addr).map(|(_, slot)| *slot)
    }
}

/// Judges a packet as the program of its hook shall, and leaves `bytes`, the frame from its Ethernet header, as the
/// program shall leave it.
pub fn decide(rules: &dyn Rules, maps: &Maps<'_>, arrival: &Arrival, bytes: &mut [u8]) -> Outcome {
    let case = Case { rules, maps, arrival };
    let frame = Frame::parse(bytes);
    let ruling = match arrival.hook {
        Hook::FromPod => case.pod_ingress(frame.as_ref()),
        Hook::FromEni => case.eni_ingress(frame.as_ref()),
        Hook::ToPod => case.pod_egress(frame.as_ref()),
        Hook::ToEni => case.eni_egress(frame.as_ref()),
    };
    if let Some(macs) = ruling.macs {
        bytes[..12].copy_from_slice(macs.as_flattened());
    }
    Outcome { bytes: rules.counted_bytes(bytes.len()), ..ruling.outcome }
}

/// An [`Outcome`], and what becomes of the frame's MACs.
struct Ruling {
    outcome: Outcome,
    /// Destination and source, if they change.
    macs: Option<[[u8; 6]; 2]>,
}

impl From<Outcome> for Ruling {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, macs: None }
    }
}

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Self {
        Outcome::of(verdict).into()
    }
}

/// A packet before its judge.
struct Case<'a> {
    rules: &'a dyn Rules,
    maps: &'a Maps<'a>,
    arrival: &'a Arrival,
}

impl Case<'_> {
    /// The IP packet in a frame, if its header is there.
    fn packet<'f>(&self, frame: Option<&Frame<'f>>) -> Option<Packet<'f>> {
        let frame = frame?;
        match &frame.payload {
            Payload::Ipv4(header) => header.as_ref().map(|header| Packet::v4(header, frame.body)),
            Payload::Ipv6(header) => header.as_ref().map(|header| Packet::v6(header, self.rules, frame.body)),
            Payload::Arp(_) | Payload::Other => None,
        }
    }

    /// The packet's message of ICMPv6, if it has one.
    fn icmpv6(&self, packet: &Packet<'_>) -> Option<Icmpv6> {
        let packet = Some(packet).filter(|packet| packet.source.is_ipv6())?;
        packet.upper.message(protocol::ICMPV6, packet.bytes).and_then(Icmpv6::parse)
    }

    fn is_neighbour_discovery(&self, packet: &Packet<'_>) -> bool {
        self.icmpv6(packet).is_some_and(|message| self.rules.is_neighbour_discovery(message.kind))
    }

    /// The ENI of a slot, if it can send packets of the family of `addr`, and the MACs of what it sends.
    fn ready_eni(&self, slot: u32, addr: IpAddr) -> Option<(&Eni, [[u8; 6]; 2])> {
        let eni = self.maps.eni(slot)?;
        let gateway = self.rules.gateway(eni, addr.is_ipv6());
        let macs = self.rules.macs_on_the_wire(eni, gateway).map(|mac| mac.octets);
        self.rules.eni_is_ready(eni, gateway).then_some((eni, macs))
    }
}

#[cfg(test)]
mod tests;
