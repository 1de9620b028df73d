//! What the ingress programs shall do: check what pods send, and take the short way where the stack is not needed.

use core::net::IpAddr;

use super::{
    Case, Outcome, Ruling, Scope, Source, Verdict,
    flow::{Belongs, Packet, Pod},
    frame::{Arp, Frame, Payload},
    ipv6::Ipv6,
    upper::{Icmpv6, protocol},
};
use crate::{DropReason, PodRoute};

impl Case<'_> {
    pub(super) fn eni_ingress(&self, frame: Option<&Frame<'_>>) -> Ruling {
        let packet = self.packet(frame).filter(|_| self.rules.eni_may_deliver(self.arrival));
        let packet = packet.filter(|packet| {
            !self.is_neighbour_discovery(packet)
                && !self.is_on_stack(packet, Pod::Destination)
                && !self.is_question_to_stack(packet)
        });
        let pod = packet.and_then(|packet| Some((packet.destination, self.maps.route(packet.destination)?)));
        match pod {
            Some((addr, route)) => Outcome {
                received_by: self.rules.counts_received().then_some(addr),
                ..Outcome::of(Verdict::IntoPod(self.rules.delivery_ifindex(route)))
            }
            .into(),
            None => Verdict::Stack.into(),
        }
    }

    pub(super) fn pod_ingress(&self, frame: Option<&Frame<'_>>) -> Ruling {
        let frame = match frame {
            _ if self.rules.tag_beside_is_refused(self.arrival) => {
                return Verdict::Drop(DropReason::VlanTagged).into();
            }
            None => return Verdict::Drop(DropReason::Malformed).into(),
            Some(frame) => frame,
        };
        match (&frame.payload, self.packet(Some(frame))) {
            (Payload::Ipv4(Some(header)), Some(packet))
                if self.rules.ipv4_is_sound(header, frame.body.len()) =>
            {
                self.addressed_from_pod(frame, &packet)
            }
            (Payload::Ipv6(Some(header)), Some(packet))
                if self.rules.ipv6_is_sound(header, frame.body.len()) =>
            {
                self.ipv6_from_pod(frame, header, &packet)
            }
            (Payload::Arp(Some(message)), _) => self.arp_from_pod(frame, message).into(),
            (Payload::Other, _) => Verdict::Drop(self.rules.refused_ether_type(frame.ether_type)).into(),
            _ => Verdict::Drop(DropReason::Malformed).into(),
        }
    }

    /// All reasons for which a claim is not the sender's own are one and the same here: a spoof.
    fn arp_from_pod(&self, frame: &Frame<'_>, message: &Arp) -> Verdict {
        if !self.rules.arp_is_of_ipv4_over_ethernet(message) {
            return Verdict::Drop(DropReason::Malformed);
        }
        let claim = IpAddr::V4(self.rules.arp_claim(message).into());
        let fault = self.rules.source_fault(self.maps.route(claim), self.arrival.ifindex, frame.source);
        let honest = fault.is_none() && self.rules.arp_names_frames_mac(message, frame);
        if honest { Verdict::Stack } else { Verdict::Drop(DropReason::ArpSpoof) }
    }

    fn ipv6_from_pod(&self, frame: &Frame<'_>, header: &Ipv6, packet: &Packet<'_>) -> Ruling {
        match self.rules.source_kind(header.source) {
            Source::Unspecified => self.without_address(self.icmpv6(packet).as_ref()).into(),
            Source::LinkLocal if !self.rules.is_on_link(packet.destination) => {
                Verdict::Drop(DropReason::UnknownSource).into()
            }
            Source::LinkLocal => self.claim_fault(packet).map_or(Verdict::Stack, Verdict::Drop).into(),
            Source::Ordinary => self.addressed_from_pod(frame, packet),
        }
    }

    /// From `::`.
    fn without_address(&self, message: Option<&Icmpv6>) -> Verdict {
        match message {
            Some(message) if self.rules.may_be_sent_without_address(message.kind) => Verdict::Stack,
            Some(message) if self.rules.is_solicitation(message.kind) => {
                if self.claims_its_own(message) {
                    Verdict::Stack
                } else {
                    Verdict::Drop(DropReason::NdSpoof)
                }
            }
            _ => Verdict::Drop(DropReason::UnknownSource),
        }
    }

    /// The target of a neighbour message is an address that this interface may speak for, and so is its MAC.
    fn claims_its_own(&self, message: &Icmpv6) -> bool {
        message.target.is_some_and(|target| {
            let owner = self.maps.route(target.into());
            self.rules.may_claim(target, owner, self.arrival.ifindex)
                && self.rules.may_claim_mac(message, owner)
        })
    }

    /// What a pod may not say of itself, whatever its source: to be its neighbours' neighbour, router or DHCP server.
    fn claim_fault(&self, packet: &Packet<'_>) -> Option<DropReason> {
        let ipv6 = packet.source.is_ipv6();
        if ipv6 && packet.upper.protocol.is_none() && self.rules.opaque_is_refused(packet.destination) {
            return Some(DropReason::Malformed);
        }
        if let Some(message) = self.icmpv6(packet) {
            if self.rules.is_of_router(message.kind) {
                return Some(DropReason::RouterAdvertisement);
            }
            if self.rules.is_advertisement(message.kind) {
                return (!self.claims_its_own(&message)).then_some(DropReason::NdSpoof);
            }
        }
        let datagram = packet.upper.message(protocol::UDP, packet.bytes)?;
        let &[a, b, c, d, ..] = datagram.get(..8)? else { return None };
        let ports = [[a, b], [c, d]].map(u16::from_be_bytes);
        self.rules.is_of_dhcp_server(ipv6, ports[0], ports[1]).then_some(DropReason::DhcpServer)
    }

    /// From an address that must be the pod's.
    fn addressed_from_pod(&self, frame: &Frame<'_>, packet: &Packet<'_>) -> Ruling {
        let route = self.maps.route(packet.source);
        let fault = self.rules.source_fault(route, self.arrival.ifindex, frame.source);
        let route = match (route, fault) {
            (Some(route), None) => route,
            // A planted bug may find no fault with a source that is nobody's: there is no ENI for it.
            (_, fault) => return Verdict::Drop(fault.unwrap_or(DropReason::EniNotReady)).into(),
        };
        let mut ruling = match self.claim_fault(packet) {
            Some(reason) => Verdict::Drop(reason).into(),
            None => self.towards(packet, route),
        };
        let sent = self.rules.counts_sent(ruling.outcome.verdict);
        ruling.outcome.sent_by = sent.then_some(packet.source);
        ruling
    }

    /// On to its destination.
    fn towards(&self, packet: &Packet<'_>, route: &PodRoute) -> Ruling {
        let destination = packet.destination;
        match self.rules.scope(destination) {
            Scope::Nowhere => return Verdict::Drop(DropReason::InvalidDestination).into(),
            Scope::Node => return Verdict::Stack.into(),
            Scope::Unicast if self.is_neighbour_discovery(packet) => return Verdict::Stack.into(),
            Scope::Unicast => {}
        }
        let of_stack = self.is_of_stack(destination);
        let on_stack = self.is_on_stack(packet, Pod::Source);
        let local_pod = self.maps.route(destination);
        let local_pod = local_pod.filter(|_| self.rules.prefers_pod_to_stack() || !of_stack);
        let local_pod = local_pod.filter(|_| !(on_stack && self.rules.prefers_flow_to_pod()));
        match local_pod {
            Some(pod) => Outcome {
                received_by: self.rules.counts_received().then_some(destination),
                ..Outcome::of(Verdict::IntoPod(self.rules.delivery_ifindex(pod)))
            }
            .into(),
            None if on_stack || of_stack => Verdict::Stack.into(),
            None => self.out_of_eni(packet, route),
        }
    }

    fn out_of_eni(&self, packet: &Packet<'_>, route: &PodRoute) -> Ruling {
        let slot = self.rules.eni_slot(route).into();
        let Some((eni, macs)) = self.ready_eni(slot, packet.source) else {
            return Verdict::Drop(DropReason::EniNotReady).into();
        };
        let longest = self.rules.longest_piece(packet.bytes.len(), self.arrival.gso_size, packet.upper.at);
        if !self.rules.fits(longest, eni.mtu) {
            return Verdict::Stack.into();
        }
        let outcome = Outcome::of(Verdict::Out(self.rules.exit_ifindex(eni)));
        Ruling { outcome, macs: Some(macs) }
    }

    /// A CIDR of the stack holds the address.
    fn is_of_stack(&self, addr: IpAddr) -> bool {
        let mut cidrs = self.maps.stack_cidrs.iter();
        cidrs.any(|&(network, len)| self.rules.covers(network, len, addr))
    }

    /// A pod would answer it by the stack. Errors are answered by nobody.
    fn is_question_to_stack(&self, packet: &Packet<'_>) -> bool {
        let by_stack = self.rules.scope(packet.source) == Scope::Node || self.is_of_stack(packet.source);
        by_stack && self.rules.stack_hears_questions() && packet.error(self.rules).is_none()
    }

    /// The stack has touched the flow that the packet belongs to. What an error quotes went the other way.
    fn is_on_stack(&self, packet: &Packet<'_>, pod: Pod) -> bool {
        match packet.belongs(self.rules) {
            Belongs::Nowhere => false,
            Belongs::Of(ends) => self.maps.flows.contains(&ends.flow(pod)),
            Belongs::Reports(ends) => {
                self.rules.errors_follow_flow() && self.maps.flows.contains(&ends.flow(pod.reversed()))
            }
        }
    }
}
