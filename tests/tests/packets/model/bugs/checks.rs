//! The checks of what a pod sends, where it goes, and the counters: rules of both families, and of IPv4 and ARP.

use super::{v4, v6};
use ipam_common::model::frame::{Arp, Frame};
use ipam_common::model::ipv4::Ipv4;
use ipam_common::model::{Arrival, Rules, Scope, Specified, Verdict};
use ipam_common::{DropReason, Eni, Ipv4Octets, Mac, PodRoute};
use std::net::IpAddr;

bugs! {
    TagMissed {
        fn refused_ether_type(&self, ether_type: u16) -> DropReason {
            if ether_type == 0x8100 { DropReason::UnsupportedEtherType } else { Specified.refused_ether_type(ether_type) }
        }
    }
    ServiceTagMissed {
        fn refused_ether_type(&self, ether_type: u16) -> DropReason {
            if ether_type == 0x88a8 { DropReason::UnsupportedEtherType } else { Specified.refused_ether_type(ether_type) }
        }
    }
    EveryTypeATag {
        fn refused_ether_type(&self, _: u16) -> DropReason { DropReason::VlanTagged }
    }
    VersionIgnored {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(&Ipv4 { version: 4, ..*header }, room)
        }
    }
    ShortHeaderAccepted {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(&Ipv4 { ihl: header.ihl.max(5), ..*header }, room)
        }
    }
    PacketShorterThanHeaderAccepted {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            header.version == 4 && header.ihl >= 5 && usize::from(header.total_len) <= room
        }
    }
    BareHeaderRefused {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(header, room) && usize::from(header.total_len) > header.header_len()
        }
    }
    PacketLongerThanFrameAccepted {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(header, room.max(header.total_len.into()))
        }
    }
    RoomWrongByOne {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(header, room + 1)
        }
    }
    PaddingRefused {
        fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
            Specified.ipv4_is_sound(header, room) && usize::from(header.total_len) == room
        }
    }
    UnknownSourceAccepted {
        fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
            owner.and_then(|owner| Specified.source_fault(Some(owner), ifindex, mac))
        }
    }
    InterfaceIgnored {
        fn source_fault(&self, owner: Option<&PodRoute>, _: u32, mac: Mac) -> Option<DropReason> {
            Specified.source_fault(owner, owner.map_or(0, |owner| owner.ifindex), mac)
        }
    }
    MacIgnored {
        fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
            Specified.source_fault(owner, ifindex, owner.map_or(mac, |owner| owner.mac))
        }
    }
    FrontOfMacOnly {
        fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
            let owners = owner.map_or(mac, |owner| owner.mac).octets;
            let [a, b, c, d, _, _] = mac.octets;
            Specified.source_fault(owner, ifindex, Mac { octets: [a, b, c, d, owners[4], owners[5]] })
        }
    }
    BackOfMacOnly {
        fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
            let owners = owner.map_or(mac, |owner| owner.mac).octets;
            let [_, _, _, _, e, f] = mac.octets;
            Specified.source_fault(owner, ifindex, Mac { octets: [owners[0], owners[1], owners[2], owners[3], e, f] })
        }
    }
    MacBeforeInterface {
        fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
            match owner {
                Some(owner) if owner.mac != mac => Some(DropReason::WrongSourceMac),
                _ => Specified.source_fault(owner, ifindex, mac),
            }
        }
    }
    ArpHardwareIgnored {
        fn arp_is_of_ipv4_over_ethernet(&self, message: &Arp) -> bool {
            Specified.arp_is_of_ipv4_over_ethernet(&Arp { hardware_type: 1, ..*message })
        }
    }
    ArpProtocolIgnored {
        fn arp_is_of_ipv4_over_ethernet(&self, message: &Arp) -> bool {
            Specified.arp_is_of_ipv4_over_ethernet(&Arp { protocol_type: 0x0800, ..*message })
        }
    }
    ArpHardwareLenIgnored {
        fn arp_is_of_ipv4_over_ethernet(&self, message: &Arp) -> bool {
            Specified.arp_is_of_ipv4_over_ethernet(&Arp { hardware_len: 6, ..*message })
        }
    }
    ArpProtocolLenIgnored {
        fn arp_is_of_ipv4_over_ethernet(&self, message: &Arp) -> bool {
            Specified.arp_is_of_ipv4_over_ethernet(&Arp { protocol_len: 4, ..*message })
        }
    }
    ProbesForgotten {
        fn arp_claim(&self, message: &Arp) -> Ipv4Octets { message.sender }
    }
    TargetTakenForSender {
        fn arp_claim(&self, message: &Arp) -> Ipv4Octets { message.target }
    }
    ArpSenderMacIgnored {
        fn arp_names_frames_mac(&self, _: &Arp, _: &Frame<'_>) -> bool { true }
    }
    LoopbackReachable {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v4(destination), Some([127, ..])) { Scope::Node } else { Specified.scope(destination) }
        }
    }
    OnlyZeroItselfIsNowhere {
        fn scope(&self, destination: IpAddr) -> Scope {
            match v4(destination) {
                Some([0, a, b, c]) if (a, b, c) != (0, 0, 0) => Scope::Unicast,
                _ => Specified.scope(destination),
            }
        }
    }
    LinkLocalLeaves {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v4(destination), Some([169, 254, ..])) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    LinkLocalTooWide {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v4(destination), Some([169, ..])) { Scope::Node } else { Specified.scope(destination) }
        }
    }
    MulticastStartsLate {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v4(destination), Some([224, ..])) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    ReservedLeaves {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v4(destination), Some([240..=255, ..])) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    LoopbackV6Reachable {
        fn scope(&self, destination: IpAddr) -> Scope {
            if v6(destination) == Some([0, 0, 0, 0, 0, 0, 0, 1]) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    UnspecifiedV6Reachable {
        fn scope(&self, destination: IpAddr) -> Scope {
            if v6(destination) == Some([0; 8]) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    MappedReachable {
        fn scope(&self, destination: IpAddr) -> Scope {
            match v6(destination) {
                Some([0, 0, 0, 0, 0, 0xffff, ..]) => Scope::Unicast,
                _ => Specified.scope(destination),
            }
        }
    }
    MappedByOneGroupOnly {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v6(destination), Some([.., 0xffff, _, _])) { Scope::Nowhere } else { Specified.scope(destination) }
        }
    }
    LinkLocalV6Leaves {
        fn scope(&self, destination: IpAddr) -> Scope {
            match v6(destination) {
                Some([0xfe80..=0xfebf, ..]) => Scope::Unicast,
                _ => Specified.scope(destination),
            }
        }
    }
    MulticastV6Leaves {
        fn scope(&self, destination: IpAddr) -> Scope {
            if matches!(v6(destination), Some([0xff00..=0xffff, ..])) { Scope::Unicast } else { Specified.scope(destination) }
        }
    }
    LinkLocalV6OfSixteenBits {
        fn scope(&self, destination: IpAddr) -> Scope {
            match v6(destination) {
                Some([0xfe81..=0xfebf, ..]) => Scope::Unicast,
                _ => Specified.scope(destination),
            }
        }
    }
    StackBeforePod {
        fn prefers_pod_to_stack(&self) -> bool { false }
    }
    QuestionsPastTheStack {
        fn stack_hears_questions(&self) -> bool { false }
    }
    PrefixOneBitLonger {
        fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
            Specified.covers(network, (prefix_len + 1).min(if addr.is_ipv4() { 32 } else { 128 }), addr)
        }
    }
    PrefixOneBitShorter {
        fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
            Specified.covers(network, prefix_len.saturating_sub(1), addr)
        }
    }
    PrefixInWholeOctets {
        fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
            Specified.covers(network, prefix_len / 8 * 8, addr)
        }
    }
    HostPrefixesIgnored {
        fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
            prefix_len < (if addr.is_ipv4() { 32 } else { 128 }) && Specified.covers(network, prefix_len, addr)
        }
    }
    DefaultPrefixIgnored {
        fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
            prefix_len > 0 && Specified.covers(network, prefix_len, addr)
        }
    }
    NextSlot {
        fn eni_slot(&self, route: &PodRoute) -> u16 { route.eni.wrapping_add(1) }
    }
    SlotsWrapAround {
        fn eni_slot(&self, route: &PodRoute) -> u16 { route.eni % 64 }
    }
    GatewayNeverAwaited {
        fn eni_is_ready(&self, eni: &Eni, _: Mac) -> bool { eni.ifindex > 0 }
    }
    InterfaceNeverAwaited {
        fn eni_is_ready(&self, _: &Eni, gateway: Mac) -> bool { gateway != Mac::ZERO }
    }
    FrontOfGatewayOnly {
        fn eni_is_ready(&self, eni: &Eni, gateway: Mac) -> bool { eni.ifindex > 0 && gateway.octets[..4] != [0; 4] }
    }
    BackOfGatewayOnly {
        fn eni_is_ready(&self, eni: &Eni, gateway: Mac) -> bool { eni.ifindex > 0 && gateway.octets[4..] != [0; 2] }
    }
    OneGatewayForBoth {
        fn gateway(&self, eni: &Eni, _: bool) -> Mac { eni.gateway_mac }
    }
    SegmentsIgnored {
        fn longest_piece(&self, len: usize, _: u32, _: usize) -> usize { len }
    }
    SegmentWithoutIpHeader {
        fn longest_piece(&self, len: usize, gso_size: u32, _: usize) -> usize {
            Specified.longest_piece(len, gso_size, 0)
        }
    }
    SegmentWithoutOptions {
        fn longest_piece(&self, len: usize, gso_size: u32, _: usize) -> usize {
            Specified.longest_piece(len, gso_size, 20)
        }
    }
    SegmentWithoutTransport {
        fn longest_piece(&self, len: usize, gso_size: u32, ip_header_len: usize) -> usize {
            if gso_size > 0 { gso_size as usize + ip_header_len } else { len }
        }
    }
    MtuIgnored {
        fn fits(&self, _: usize, _: u32) -> bool { true }
    }
    MtuWrongByOne {
        fn fits(&self, len: usize, mtu: u32) -> bool { len < mtu as usize }
    }
    MtuWithEthernetHeader {
        fn fits(&self, len: usize, mtu: u32) -> bool { len + 14 <= mtu as usize }
    }
    MacsSwapped {
        fn macs_on_the_wire(&self, eni: &Eni, gateway: Mac) -> [Mac; 2] { [eni.mac, gateway] }
    }
    GatewayTwice {
        fn macs_on_the_wire(&self, _: &Eni, gateway: Mac) -> [Mac; 2] { [gateway, gateway] }
    }
    ForeignMacsDelivered {
        fn eni_may_deliver(&self, arrival: &Arrival) -> bool { !arrival.tag_beside }
    }
    SentOnlyWhenRedirected {
        fn counts_sent(&self, verdict: Verdict) -> bool { verdict != Verdict::Stack }
    }
    SentOnlyWhenNotDropped {
        fn counts_sent(&self, verdict: Verdict) -> bool { !matches!(verdict, Verdict::Drop(_)) }
    }
    ReceivedNotCounted {
        fn counts_received(&self) -> bool { false }
    }
    BytesWithoutEthernetHeader {
        fn counted_bytes(&self, len: usize) -> u64 { len as u64 - 14 }
    }
}
