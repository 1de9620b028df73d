//! Verdicts of `from_pod` on neighbour discovery and the rest of ICMPv6, and of `from_eni` on neighbour discovery.

use std::net::Ipv6Addr;

use ipam_agent::dataplane::Program::{FromEni, FromPod};
use ipam_common::{DropReason, Mac};
use ipam_lab::packets::ipv6::{
    DESTINATION_OPTIONS, FRAGMENT, ICMPV6, Ipv6Frame, fragment, neighbour, padding,
};

use crate::fixture::{
    Expect, GATEWAY_1, HOST, LINK_LOCAL_A, LINK_LOCAL_GATEWAY, MAC_A, MAC_B, Node, POD_A6, POD_B6,
    POD_NO_ENI6, VPC_HOST6,
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn from_a(source: Ipv6Addr, destination: Ipv6Addr, message: Vec<u8>) -> Ipv6Frame {
    Ipv6Frame::icmp(MAC_A, HOST, source, destination, message)
}

/// A message of 32 bytes that is nothing but its type.
fn message(icmp_type: u8) -> Vec<u8> {
    let mut message = vec![0; 32];
    message[0] = icmp_type;
    message
}

#[test]
fn a_pod_may_ask_for_any_neighbour() {
    let mut node = Node::new();
    for target in [LINK_LOCAL_GATEWAY, POD_A6, POD_B6, VPC_HOST6] {
        for (source, expect) in [(POD_A6, Expect::stack().tx(POD_A6)), (LINK_LOCAL_A, Expect::stack())] {
            for destination in [ALL_NODES, LINK_LOCAL_GATEWAY] {
                let ask = neighbour(SOLICITATION, target, Some((SOURCE_MAC, MAC_A)));
                node.check(FromPod, node.pod_a, &from_a(source, destination, ask).build(), expect.clone());
            }
        }
    }
}

#[test]
fn a_pod_may_answer_for_its_own_addresses_with_its_own_mac_only() {
    let mut node = Node::new();
    for (source, tx) in [(POD_A6, Some(POD_A6)), (LINK_LOCAL_A, None)] {
        let counted = |expect: Expect| tx.map_or(expect.clone(), |pod| expect.tx(pod));
        for (target, option, honest) in [
            (POD_A6, None, true),
            (POD_A6, Some((TARGET_MAC, MAC_A)), true),
            // Not the option that names the target's MAC.
            (POD_A6, Some((SOURCE_MAC, MAC_B)), true),
            (POD_NO_ENI6, Some((TARGET_MAC, MAC_A)), true),
            (LINK_LOCAL_A, Some((TARGET_MAC, MAC_A)), true),
            (LINK_LOCAL_A, None, true),
            (POD_A6, Some((TARGET_MAC, MAC_B)), false),
            (POD_B6, None, false),
            (POD_B6, Some((TARGET_MAC, MAC_A)), false),
            (VPC_HOST6, None, false),
            (Ipv6Addr::UNSPECIFIED, None, false),
        ] {
            let answer = from_a(source, LINK_LOCAL_GATEWAY, neighbour(ADVERTISEMENT, target, option));
            let expect = if honest { Expect::stack() } else { Expect::drop(DropReason::NdSpoof) };
            node.check(FromPod, node.pod_a, &answer.build(), counted(expect.clone()));
            // Behind an extension header, in a first fragment, with another hop limit: all the same.
            for extensions in [vec![padding(DESTINATION_OPTIONS, 1)], vec![fragment(0, true)]] {
                let answer = Ipv6Frame { extensions, hop_limit: 64, ..answer.clone() };
                node.check(FromPod, node.pod_a, &answer.build(), counted(expect.clone()));
            }
        }
    }
    for octet in 0..6 {
        let mut mac = MAC_A;
        mac.octets[octet] ^= 1;
        let answer = neighbour(ADVERTISEMENT, POD_A6, Some((TARGET_MAC, mac)));
        let expect = Expect::drop(DropReason::NdSpoof).tx(POD_A6);
        node.check(FromPod, node.pod_a, &from_a(POD_A6, ALL_NODES, answer).build(), expect);
    }
}

#[test]
fn an_answer_that_ends_early_is_a_spoof_or_nothing() {
    let mut node = Node::new();
    let whole = neighbour(ADVERTISEMENT, POD_A6, Some((TARGET_MAC, MAC_B)));
    for len in 0..=32 {
        let answer = from_a(POD_A6, ALL_NODES, whole[..len].to_vec());
        let expect = match len {
            // No type to read, and none for a receiver.
            0..8 => Expect::stack(),
            8..24 => Expect::drop(DropReason::NdSpoof),
            24..32 => Expect::stack(),
            _ => Expect::drop(DropReason::NdSpoof),
        };
        node.check(FromPod, node.pod_a, &answer.build(), expect.tx(POD_A6));
    }
}

#[test]
fn a_pod_without_an_address_may_look_for_one_of_its_own() {
    let mut node = Node::new();
    let unspecified = |message| from_a(Ipv6Addr::UNSPECIFIED, ALL_NODES, message);
    for target in [POD_A6, POD_NO_ENI6, LINK_LOCAL_A] {
        let probe = unspecified(neighbour(SOLICITATION, target, None));
        node.check(FromPod, node.pod_a, &probe.build(), Expect::stack());
    }
    for target in [POD_B6, VPC_HOST6, Ipv6Addr::UNSPECIFIED] {
        let probe = unspecified(neighbour(SOLICITATION, target, None));
        node.check(FromPod, node.pod_a, &probe.build(), Expect::drop(DropReason::NdSpoof));
    }
    let cut = unspecified(neighbour(SOLICITATION, POD_A6, None)[..23].to_vec());
    node.check(FromPod, node.pod_a, &cut.build(), Expect::drop(DropReason::NdSpoof));
    for icmp_type in 0..=255 {
        let expect = match icmp_type {
            131 | 132 | 133 | 143 => Expect::stack(),
            135 => Expect::drop(DropReason::NdSpoof),
            _ => Expect::drop(DropReason::UnknownSource),
        };
        node.check(FromPod, node.pod_a, &unspecified(message(icmp_type)).build(), expect);
    }
    // Reports stand behind a router alert.
    let report = Ipv6Frame { extensions: vec![padding(0, 1)], ..unspecified(message(143)) };
    node.check(FromPod, node.pod_a, &report.build(), Expect::stack());
    let later = Ipv6Frame { extensions: vec![fragment(1, false)], ..report };
    node.check(FromPod, node.pod_a, &later.build(), Expect::drop(DropReason::UnknownSource));
    let udp = Ipv6Frame::udp(MAC_A, HOST, Ipv6Addr::UNSPECIFIED, ALL_NODES);
    node.check(FromPod, node.pod_a, &udp.build(), Expect::drop(DropReason::UnknownSource));
}

#[test]
fn a_pod_is_no_router() {
    let mut node = Node::new();
    for icmp_type in [134, 137] {
        for destination in [ALL_NODES, LINK_LOCAL_GATEWAY, POD_B6, VPC_HOST6] {
            let frame = from_a(POD_A6, destination, message(icmp_type));
            let expect = Expect::drop(DropReason::RouterAdvertisement);
            node.check(FromPod, node.pod_a, &frame.build(), expect.clone().tx(POD_A6));
            let hidden = Ipv6Frame { extensions: vec![padding(DESTINATION_OPTIONS, 1); 6], ..frame.clone() };
            node.check(FromPod, node.pod_a, &hidden.build(), expect.tx(POD_A6));
        }
        let frame = from_a(LINK_LOCAL_A, ALL_NODES, message(icmp_type));
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::RouterAdvertisement));
    }
}

#[test]
fn neighbour_discovery_goes_no_further_than_the_node() {
    let mut node = Node::new();
    let leaves = Expect::redirect().macs(crate::fixture::GATEWAY_1_V6, node.eni_1_mac);
    for icmp_type in (0..=255).filter(|icmp_type| ![134, 137].contains(icmp_type)) {
        let message =
            if icmp_type == ADVERTISEMENT { neighbour(136, POD_A6, None) } else { message(icmp_type) };
        let is_discovery = (133..=137).contains(&icmp_type);
        for (destination, expect) in [(POD_B6, Expect::redirect().rx(POD_B6)), (VPC_HOST6, leaves.clone())] {
            let frame = from_a(POD_A6, destination, message.clone());
            let expect = if is_discovery { Expect::stack() } else { expect };
            node.check(FromPod, node.pod_a, &frame.build(), expect.tx(POD_A6));
        }
    }
    let ask = neighbour(SOLICITATION, VPC_HOST6, None);
    let nowhere = from_a(POD_A6, Ipv6Addr::LOCALHOST, ask);
    let expect = Expect::drop(DropReason::InvalidDestination).tx(POD_A6);
    node.check(FromPod, node.pod_a, &nowhere.build(), expect);
    for icmp_type in 0..=255 {
        let frame = Ipv6Frame::icmp(GATEWAY_1, node.eni_1_mac, VPC_HOST6, POD_A6, message(icmp_type));
        let is_discovery = (133..=137).contains(&icmp_type);
        let expect = if is_discovery { Expect::stack() } else { Expect::redirect().rx(POD_A6) };
        node.check(FromEni, node.eni_1, &frame.build(), expect);
    }
}

#[test]
fn what_only_looks_like_discovery_is_a_packet() {
    let mut node = Node::new();
    let stack = Expect::stack().tx(POD_A6);
    let claim = neighbour(ADVERTISEMENT, POD_B6, None);
    // ICMP of IPv4, UDP, an unknown protocol.
    for protocol in [1, 17, 99, 59] {
        let frame = Ipv6Frame { protocol, ..from_a(POD_A6, ALL_NODES, claim.clone()) };
        node.check(FromPod, node.pod_a, &frame.build(), stack.clone());
    }
    // In a later fragment the type is somewhere else.
    let later = Ipv6Frame { extensions: vec![fragment(1, false)], ..from_a(POD_A6, ALL_NODES, claim) };
    assert_eq!((later.protocol, later.extensions[0].0), (ICMPV6, FRAGMENT));
    node.check(FromPod, node.pod_a, &later.build(), stack);
}

#[test]
fn macs_are_those_of_the_targets_pod() {
    let mut node = Node::new();
    let other = Mac { octets: [2, 0, 0, 0, 0, 0xc] };
    node.dataplane.set_route(POD_NO_ENI6, &crate::fixture::route(node.pod_a, other, 3)).unwrap();
    for (mac, honest) in [(other, true), (MAC_A, false)] {
        let answer =
            from_a(POD_A6, ALL_NODES, neighbour(ADVERTISEMENT, POD_NO_ENI6, Some((TARGET_MAC, mac))));
        let expect = if honest { Expect::stack() } else { Expect::drop(DropReason::NdSpoof) };
        node.check(FromPod, node.pod_a, &answer.build(), expect.tx(POD_A6));
    }
}
