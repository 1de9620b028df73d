//! Verdicts of `from_pod` on IPv6.

use std::net::Ipv6Addr;

use ipam_agent::dataplane::Program::FromPod;
use ipam_common::DropReason;
use ipam_lab::packets::ipv6::{
    DESTINATION_OPTIONS, HOP_BY_HOP, ICMPV6, Ipv6Frame, ROUTING, fragment, neighbour, padding,
};

use crate::fixture::{
    Expect, GATEWAY_1_V6, HOST, LINK_LOCAL_A, LINK_LOCAL_GATEWAY, MAC_A, MAC_B, Node, POD_A6, POD_B6,
    POD_NO_ENI6, POD_NO_GATEWAY6, SMALL_MTU, VPC_HOST6,
};

/// Every node of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn from_a(destination: Ipv6Addr) -> Ipv6Frame {
    Ipv6Frame::udp(MAC_A, HOST, POD_A6, destination)
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

impl Node {
    /// What becomes of a good IPv6 packet of pod A to a VPC host.
    fn v6_out_of_eni_1(&self) -> Expect {
        Expect::redirect().tx(POD_A6).macs(GATEWAY_1_V6, self.eni_1_mac)
    }
}

#[test]
fn a_packet_to_the_vpc_leaves_by_the_pods_eni_to_the_next_hop_of_ipv6() {
    let mut node = Node::new();
    let expect = node.v6_out_of_eni_1();
    node.check(FromPod, node.pod_a, &from_a(VPC_HOST6).build(), expect);
}

#[test]
fn extension_headers_and_fragments_are_treated_like_any_packet() {
    let mut node = Node::new();
    let expect = node.v6_out_of_eni_1();
    let chains = [
        vec![padding(HOP_BY_HOP, 1)],
        vec![padding(HOP_BY_HOP, 32), padding(DESTINATION_OPTIONS, 2), padding(ROUTING, 3)],
        vec![fragment(0, true)],
        vec![padding(HOP_BY_HOP, 1), fragment(7, false)],
        // Too long a chain, and one that goes on behind a fragment header.
        vec![padding(DESTINATION_OPTIONS, 1); 9],
        vec![fragment(0, true), padding(DESTINATION_OPTIONS, 1)],
    ];
    for extensions in chains {
        let frame = Ipv6Frame { extensions, ..from_a(VPC_HOST6) };
        node.check(FromPod, node.pod_a, &frame.build(), expect.clone());
        let local = Ipv6Frame { destination: POD_B6, ..frame };
        node.check(FromPod, node.pod_a, &local.build(), Expect::redirect().tx(POD_A6).rx(POD_B6));
    }
}

#[test]
fn a_local_pod_gets_the_packet_unchanged() {
    let mut node = Node::new();
    node.check(FromPod, node.pod_a, &from_a(POD_B6).build(), Expect::redirect().tx(POD_A6).rx(POD_B6));
    let back = Ipv6Frame::udp(MAC_B, HOST, POD_B6, POD_A6);
    node.check(FromPod, node.pod_b, &back.build(), Expect::redirect().tx(POD_B6).rx(POD_A6));
    node.check(FromPod, node.pod_a, &from_a(POD_A6).build(), Expect::redirect().tx(POD_A6).rx(POD_A6));
}

#[test]
fn the_stack_gets_what_is_its_own() {
    let mut node = Node::new();
    for destination in [
        "fd96::",
        "fd96::fff:ffff:1",
        "fd96::f:ffff",
        "fd09::1",
        "fe80::1",
        "febf:ffff::1",
        "ff02::1",
        "ff0e::1",
        "ffff::",
    ] {
        let expect = if destination == "fd96::fff:ffff:1" {
            node.v6_out_of_eni_1()
        } else {
            Expect::stack().tx(POD_A6)
        };
        node.check(FromPod, node.pod_a, &from_a(ip(destination)).build(), expect);
    }
    let expect = node.v6_out_of_eni_1();
    for outside in
        ["fd96::10:0:0", "fd95:ffff::1", "fd09::2", "fe7f:ffff::1", "fec0::1", "feff::1", "2001:db8::1"]
    {
        node.check(FromPod, node.pod_a, &from_a(ip(outside)).build(), expect.clone());
    }
}

#[test]
fn no_packet_goes_to_loopback_or_to_nowhere() {
    let mut node = Node::new();
    for destination in ["::", "::1", "::ffff:10.0.0.6", "::ffff:0.0.0.0", "::ffff:255.255.255.255"] {
        let expect = Expect::drop(DropReason::InvalidDestination).tx(POD_A6);
        node.check(FromPod, node.pod_a, &from_a(ip(destination)).build(), expect);
    }
    let expect = node.v6_out_of_eni_1();
    for other in ["::2", "::fffe:a00:6", "::1:0:0:1", "0:0:0:1::1", "64:ff9b::a00:6", "::1:ffff:a00:6"] {
        node.check(FromPod, node.pod_a, &from_a(ip(other)).build(), expect.clone());
    }
}

#[test]
fn a_spoofed_source_is_dropped_by_its_reason() {
    let mut node = Node::new();
    let frame = from_a(VPC_HOST6);
    for source in ["fd00::63", "::1", "::ffff:10.0.0.5", "ff02::1", "fec0::1", "fd00::105", "fd00:1::5"] {
        let frame = Ipv6Frame { source: ip(source), ..frame.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::UnknownSource));
    }
    node.check(FromPod, node.pod_b, &frame.build(), Expect::drop(DropReason::WrongInterface));
    let as_b = Ipv6Frame { source: POD_B6, ..frame.clone() };
    node.check(FromPod, node.pod_a, &as_b.build(), Expect::drop(DropReason::WrongInterface));
    for octet in 0..6 {
        let mut from_mac = MAC_A;
        from_mac.octets[octet] ^= 0x10;
        let frame = Ipv6Frame { from_mac, ..frame.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::WrongSourceMac));
    }
}

#[test]
fn a_source_check_comes_before_anything_else() {
    let mut node = Node::new();
    let advertisement = neighbour(136, LINK_LOCAL_A, None);
    for destination in [POD_B6, ip("fd96::1"), ALL_NODES, ip("::1")] {
        let stranger = Ipv6Frame { source: ip("fd00::63"), ..from_a(destination) };
        node.check(FromPod, node.pod_a, &stranger.build(), Expect::drop(DropReason::UnknownSource));
        let stranger = Ipv6Frame { protocol: ICMPV6, payload: advertisement.clone(), ..stranger };
        node.check(FromPod, node.pod_a, &stranger.build(), Expect::drop(DropReason::UnknownSource));
    }
}

#[test]
fn a_link_local_source_speaks_on_its_link_only() {
    let mut node = Node::new();
    for destination in [LINK_LOCAL_GATEWAY, ip("febf::1"), ALL_NODES, ip("ff0e::1")] {
        let frame = Ipv6Frame { source: LINK_LOCAL_A, ..from_a(destination) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::stack());
    }
    for destination in [POD_B6, VPC_HOST6, ip("fd96::1"), ip("::1"), ip("::")] {
        let frame = Ipv6Frame { source: LINK_LOCAL_A, ..from_a(destination) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::UnknownSource));
    }
}

#[test]
fn a_header_that_contradicts_the_packet_is_malformed() {
    let mut node = Node::new();
    let good = from_a(VPC_HOST6);
    let malformed = Expect::drop(DropReason::Malformed);
    for version in [0, 4, 5, 7, 15] {
        let frame = Ipv6Frame { version, ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), malformed.clone());
    }
    // There are 20 bytes behind the header.
    for payload_len in [21, 100, 0xffff] {
        let frame = Ipv6Frame { payload_len: Some(payload_len), ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), malformed.clone());
    }
    // Padding behind the packet is allowed.
    let expect = node.v6_out_of_eni_1();
    for payload_len in [0, 1, 19, 20] {
        let frame = Ipv6Frame { payload_len: Some(payload_len), ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), expect.clone());
    }
}

/// Below 54 bytes the kernel makes no test frame of IPv6: those are sent for real in `delivery`.
#[test]
fn runts_of_every_length() {
    let mut node = Node::new();
    let good = node.v6_out_of_eni_1();
    for len in 0..=20 {
        let honest = Ipv6Frame { payload: vec![0; len], ..from_a(VPC_HOST6) };
        node.check(FromPod, node.pod_a, &honest.build(), good.clone());
        let lying = Ipv6Frame { payload_len: Some(u16::try_from(len).unwrap() + 1), ..honest };
        node.check(FromPod, node.pod_a, &lying.build(), Expect::drop(DropReason::Malformed));
    }
}

#[test]
fn nothing_opaque_stays_on_the_link() {
    let mut node = Node::new();
    let headers = |count| vec![padding(DESTINATION_OPTIONS, 1); count];
    let opaque = [
        Ipv6Frame { extensions: headers(7), ..from_a(ALL_NODES) },
        Ipv6Frame {
            extensions: vec![fragment(0, true), padding(DESTINATION_OPTIONS, 1)],
            ..from_a(ALL_NODES)
        },
        Ipv6Frame { extensions: vec![fragment(0, true), fragment(0, false)], ..from_a(ALL_NODES) },
        // The last header's number is that of an extension header, of which nothing or too little is there.
        Ipv6Frame { protocol: ROUTING, payload: vec![], ..from_a(ALL_NODES) },
        Ipv6Frame { protocol: DESTINATION_OPTIONS, payload: vec![17, 0, 0, 0, 0, 0, 0], ..from_a(ALL_NODES) },
        Ipv6Frame { protocol: HOP_BY_HOP, payload: vec![17, 1, 0, 0, 0, 0, 0, 0], ..from_a(ALL_NODES) },
    ];
    let leaves = node.v6_out_of_eni_1();
    for frame in opaque {
        for destination in [ALL_NODES, LINK_LOCAL_GATEWAY] {
            let frame = Ipv6Frame { destination, ..frame.clone() };
            let malformed = Expect::drop(DropReason::Malformed);
            node.check(FromPod, node.pod_a, &frame.build(), malformed.clone().tx(POD_A6));
            let link_local = Ipv6Frame { source: LINK_LOCAL_A, ..frame.clone() };
            node.check(FromPod, node.pod_a, &link_local.build(), malformed);
            let unspecified = Ipv6Frame { source: Ipv6Addr::UNSPECIFIED, ..frame };
            node.check(FromPod, node.pod_a, &unspecified.build(), Expect::drop(DropReason::UnknownSource));
        }
        let routed = Ipv6Frame { destination: VPC_HOST6, ..frame };
        node.check(FromPod, node.pod_a, &routed.build(), leaves.clone());
    }
    for extensions in [headers(6), vec![fragment(0, true)], vec![fragment(3, true)]] {
        let frame = Ipv6Frame { extensions, ..from_a(ALL_NODES) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::stack().tx(POD_A6));
    }
}

#[test]
fn without_a_ready_eni_nothing_leaves_but_local_pods_are_reached() {
    let mut node = Node::new();
    for source in [POD_NO_ENI6, POD_NO_GATEWAY6] {
        let frame = Ipv6Frame { source, ..from_a(VPC_HOST6) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::EniNotReady).tx(source));
        let local = Ipv6Frame { destination: POD_B6, ..frame };
        node.check(FromPod, node.pod_a, &local.build(), Expect::redirect().tx(source).rx(POD_B6));
    }
}

#[test]
fn what_is_too_long_for_the_eni_goes_to_the_stack() {
    let mut node = Node::new();
    let eni_2 = node.dataplane.enis().unwrap()[1].1;
    let leaves = Expect::redirect().tx(POD_B6).macs(eni_2.gateway_mac_v6, eni_2.mac);
    let stack = Expect::stack().tx(POD_B6);
    let of_len = |len: u32, extensions: Vec<_>| {
        let payload = vec![0; usize::try_from(len).unwrap() - 40 - 8 * extensions.len()];
        Ipv6Frame { payload, extensions, ..Ipv6Frame::udp(MAC_B, HOST, POD_B6, VPC_HOST6) }.build()
    };
    node.check(FromPod, node.pod_b, &of_len(SMALL_MTU, vec![]), leaves.clone());
    node.check(FromPod, node.pod_b, &of_len(SMALL_MTU + 1, vec![]), stack.clone());
    // To be cut into segments: what counts is a segment with its headers (here 40, or 48, and at least 8).
    node.check_gso(FromPod, node.pod_b, &of_len(1000, vec![]), SMALL_MTU - 48, leaves.clone());
    node.check_gso(FromPod, node.pod_b, &of_len(1000, vec![]), SMALL_MTU - 47, stack.clone());
    let options = || vec![padding(DESTINATION_OPTIONS, 1)];
    node.check_gso(FromPod, node.pod_b, &of_len(1000, options()), SMALL_MTU - 56, leaves);
    node.check_gso(FromPod, node.pod_b, &of_len(1000, options()), SMALL_MTU - 55, stack);
}
