//! The rules of IPv6 only: headers, neighbours, routers, DHCP.

use super::v6;
use ipam_common::PodRoute;
use ipam_common::model::ipv6::{Extension, Ipv6};
use ipam_common::model::upper::{Icmpv6, Piece};
use ipam_common::model::{Rules, Source, Specified};
use std::net::{IpAddr, Ipv6Addr};

bugs! {
    VersionIgnoredV6 {
        fn ipv6_is_sound(&self, header: &Ipv6, room: usize) -> bool {
            Specified.ipv6_is_sound(&Ipv6 { version: 6, ..*header }, room)
        }
    }
    LengthIgnoredV6 {
        fn ipv6_is_sound(&self, header: &Ipv6, _: usize) -> bool { header.version == 6 }
    }
    RoomWrongByOneV6 {
        fn ipv6_is_sound(&self, header: &Ipv6, room: usize) -> bool { Specified.ipv6_is_sound(header, room + 1) }
    }
    PaddingRefusedV6 {
        fn ipv6_is_sound(&self, header: &Ipv6, room: usize) -> bool {
            Specified.ipv6_is_sound(header, room) && usize::from(header.payload_len) + 40 == room
        }
    }
    ExtensionsIgnored {
        fn extension(&self, _: u8) -> Option<Extension> { None }
    }
    RoutingHeaderForgotten {
        fn extension(&self, number: u8) -> Option<Extension> { Specified.extension(number).filter(|_| number != 43) }
    }
    HopByHopForgotten {
        fn extension(&self, number: u8) -> Option<Extension> { Specified.extension(number).filter(|_| number != 0) }
    }
    DestinationOptionsForgotten {
        fn extension(&self, number: u8) -> Option<Extension> { Specified.extension(number).filter(|_| number != 60) }
    }
    FragmentHeaderForgotten {
        fn extension(&self, number: u8) -> Option<Extension> { Specified.extension(number).filter(|_| number != 44) }
    }
    AuthenticationWalkedOver {
        fn extension(&self, number: u8) -> Option<Extension> {
            if number == 51 { Some(Extension::Options) } else { Specified.extension(number) }
        }
    }
    FiveExtensions {
        fn most_extensions(&self) -> usize { 5 }
    }
    SevenExtensions {
        fn most_extensions(&self) -> usize { 7 }
    }
    EveryFragmentTheFirst {
        fn fragment_piece(&self, _: u16) -> Piece { Piece::First }
    }
    AtomicFragmentsWhole {
        fn fragment_piece(&self, offset_and_flags: u16) -> Piece {
            if offset_and_flags & 0xfff9 == 0 { Piece::Whole } else { Specified.fragment_piece(offset_and_flags) }
        }
    }
    FlagsTakenForOffset {
        fn fragment_piece(&self, offset_and_flags: u16) -> Piece {
            if offset_and_flags == 0 { Piece::First } else { Piece::Later }
        }
    }
    UnspecifiedNeedsAPod {
        fn source_kind(&self, source: Ipv6Addr) -> Source {
            if source.is_unspecified() { Source::Ordinary } else { Specified.source_kind(source) }
        }
    }
    LinkLocalNeedsAPod {
        fn source_kind(&self, source: Ipv6Addr) -> Source {
            if source.is_unspecified() { Source::Unspecified } else { Source::Ordinary }
        }
    }
    LinkLocalSpeaksToAll {
        fn is_on_link(&self, destination: IpAddr) -> bool { destination.is_ipv6() }
    }
    LinkLocalSpeaksNotToMulticast {
        fn is_on_link(&self, destination: IpAddr) -> bool { matches!(v6(destination), Some([0xfe80..=0xfebf, ..])) }
    }
    NoListenersWithoutAddress {
        fn may_be_sent_without_address(&self, kind: u8) -> bool { kind == 133 }
    }
    NoRouterWithoutAddress {
        fn may_be_sent_without_address(&self, kind: u8) -> bool { matches!(kind, 131 | 132 | 143) }
    }
    QueriesWithoutAddress {
        fn may_be_sent_without_address(&self, kind: u8) -> bool {
            kind == 130 || Specified.may_be_sent_without_address(kind)
        }
    }
    NothingAskedWithoutAddress {
        fn is_solicitation(&self, _: u8) -> bool { false }
    }
    EverythingAskedWithoutAddress {
        fn may_be_sent_without_address(&self, kind: u8) -> bool {
            kind == 135 || Specified.may_be_sent_without_address(kind)
        }
    }
    AdvertisementsUnchecked {
        fn is_advertisement(&self, _: u8) -> bool { false }
    }
    SolicitationsChecked {
        fn is_advertisement(&self, kind: u8) -> bool { matches!(kind, 135 | 136) }
    }
    RouterUnchecked {
        fn is_of_router(&self, kind: u8) -> bool { kind == 137 }
    }
    RedirectUnchecked {
        fn is_of_router(&self, kind: u8) -> bool { kind == 134 }
    }
    NeighboursSentAway {
        fn is_neighbour_discovery(&self, _: u8) -> bool { false }
    }
    RouterSolicitationsSentAway {
        fn is_neighbour_discovery(&self, kind: u8) -> bool { (134..=137).contains(&kind) }
    }
    AnyPodMayBeClaimed {
        fn may_claim(&self, target: Ipv6Addr, owner: Option<&PodRoute>, _: u32) -> bool {
            target.is_unicast_link_local() || owner.is_some()
        }
    }
    LinkLocalNotClaimed {
        fn may_claim(&self, _: Ipv6Addr, owner: Option<&PodRoute>, ifindex: u32) -> bool {
            owner.is_some_and(|owner| owner.ifindex == ifindex)
        }
    }
    AnyMacClaimed {
        fn may_claim_mac(&self, _: &Icmpv6, _: Option<&PodRoute>) -> bool { true }
    }
    FrontOfClaimedMacOnly {
        fn may_claim_mac(&self, message: &Icmpv6, owner: Option<&PodRoute>) -> bool {
            message.target_mac.is_none_or(|mac| owner.is_none_or(|owner| owner.mac.octets[..5] == mac.octets[..5]))
        }
    }
    MacMustBeSaid {
        fn may_claim_mac(&self, message: &Icmpv6, owner: Option<&PodRoute>) -> bool {
            message.target_mac.is_some() && Specified.may_claim_mac(message, owner)
        }
    }
    OpaqueMayGoAnywhere {
        fn opaque_is_refused(&self, _: IpAddr) -> bool { false }
    }
    OpaqueMayGoNowhere {
        fn opaque_is_refused(&self, _: IpAddr) -> bool { true }
    }
    DhcpServersOfV4Only {
        fn is_of_dhcp_server(&self, ipv6: bool, source_port: u16, destination_port: u16) -> bool {
            !ipv6 && Specified.is_of_dhcp_server(ipv6, source_port, destination_port)
        }
    }
    DhcpServersOfV6Only {
        fn is_of_dhcp_server(&self, ipv6: bool, source_port: u16, destination_port: u16) -> bool {
            ipv6 && Specified.is_of_dhcp_server(ipv6, source_port, destination_port)
        }
    }
    DhcpClientsToo {
        fn is_of_dhcp_server(&self, ipv6: bool, source_port: u16, destination_port: u16) -> bool {
            Specified.is_of_dhcp_server(ipv6, source_port, destination_port)
                || Specified.is_of_dhcp_server(ipv6, destination_port, source_port)
        }
    }
    DhcpRelaysToo {
        fn is_of_dhcp_server(&self, ipv6: bool, source_port: u16, _: u16) -> bool {
            source_port == if ipv6 { 547 } else { 67 }
        }
    }
    DhcpPortsOfTheOtherFamily {
        fn is_of_dhcp_server(&self, _: bool, source_port: u16, destination_port: u16) -> bool {
            matches!((source_port, destination_port), (67, 68) | (547, 546))
        }
    }
}
