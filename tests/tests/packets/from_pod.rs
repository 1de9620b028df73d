//! Verdicts of `from_pod` on IPv4 and on what is neither IP nor ARP.

use std::net::Ipv4Addr;

use ipam_agent::dataplane::{Program::FromPod, TestFrame};
use ipam_common::DropReason;
use ipam_lab::packets::{Ipv4Frame, SERVICE_VLAN, VLAN, ethernet};

use crate::fixture::{
    Expect, GATEWAY_1, HOST, MAC_A, MAC_B, Node, POD_A, POD_B, POD_NO_ENI, POD_NO_GATEWAY, SMALL_MTU,
    VPC_HOST,
};

fn from_a(destination: Ipv4Addr) -> Ipv4Frame {
    Ipv4Frame::udp(MAC_A, HOST, POD_A, destination)
}

impl Node {
    /// What becomes of a good packet of pod A to a VPC host.
    fn out_of_eni_1(&self) -> Expect {
        Expect::redirect().tx(POD_A).macs(GATEWAY_1, self.eni_1_mac)
    }
}

#[test]
fn a_packet_to_the_vpc_leaves_by_the_pods_eni_with_the_macs_of_the_map() {
    let mut node = Node::new();
    let expect = node.out_of_eni_1();
    node.check(FromPod, node.pod_a, &from_a(VPC_HOST).build(), expect);
}

#[test]
fn options_and_fragments_are_treated_like_any_packet() {
    let mut node = Node::new();
    let expect = node.out_of_eni_1();
    for options in [4, 20, 40] {
        let frame = Ipv4Frame { options: vec![1; options], ..from_a(VPC_HOST) };
        node.check(FromPod, node.pod_a, &frame.build(), expect.clone());
    }
    // More fragments, offset 0; then a later fragment, and the last one: no ports to look at.
    for fragment in [0x2000, 0x2001, 0x00b9] {
        let frame = Ipv4Frame { fragment, payload: vec![0xee; 8], ..from_a(VPC_HOST) };
        node.check(FromPod, node.pod_a, &frame.build(), expect.clone());
        let local = Ipv4Frame { destination: POD_B, ..frame };
        node.check(FromPod, node.pod_a, &local.build(), Expect::redirect().tx(POD_A).rx(POD_B));
    }
}

#[test]
fn a_local_pod_gets_the_packet_unchanged() {
    let mut node = Node::new();
    node.check(FromPod, node.pod_a, &from_a(POD_B).build(), Expect::redirect().tx(POD_A).rx(POD_B));
    let back = Ipv4Frame::udp(MAC_B, HOST, POD_B, POD_A);
    node.check(FromPod, node.pod_b, &back.build(), Expect::redirect().tx(POD_B).rx(POD_A));
    node.check(FromPod, node.pod_a, &from_a(POD_A).build(), Expect::redirect().tx(POD_A).rx(POD_A));
}

#[test]
fn the_stack_gets_what_is_its_own() {
    let mut node = Node::new();
    for destination in [
        [10, 96, 0, 1],
        [10, 111, 255, 255],
        [10, 9, 0, 1], // configured
        [169, 254, 1, 1],
        [169, 254, 169, 254],
        [224, 0, 0, 1],
        [239, 1, 1, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        node.check(FromPod, node.pod_a, &from_a(destination.into()).build(), Expect::stack().tx(POD_A));
    }
    let expect = node.out_of_eni_1();
    for outside in
        [[10, 95, 255, 255], [10, 112, 0, 0], [10, 9, 0, 2], [169, 253, 1, 1], [223, 255, 255, 255]]
    {
        node.check(FromPod, node.pod_a, &from_a(outside.into()).build(), expect.clone());
    }
}

#[test]
fn no_packet_goes_to_loopback_or_to_nowhere() {
    let mut node = Node::new();
    for destination in [[127, 0, 0, 1], [127, 255, 255, 255], [0, 0, 0, 0], [0, 1, 2, 3]] {
        let expect = Expect::drop(DropReason::InvalidDestination).tx(POD_A);
        node.check(FromPod, node.pod_a, &from_a(destination.into()).build(), expect);
    }
}

#[test]
fn a_spoofed_source_is_dropped_by_its_reason() {
    let mut node = Node::new();
    let frame = from_a(VPC_HOST);
    for source in [[10, 0, 0, 99], [127, 0, 0, 1], [0, 0, 0, 0], [169, 254, 1, 1], [255, 255, 255, 255]] {
        let frame = Ipv4Frame { source: source.into(), ..frame.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::UnknownSource));
    }
    node.check(FromPod, node.pod_b, &frame.build(), Expect::drop(DropReason::WrongInterface));
    let as_b = Ipv4Frame { source: POD_B, ..frame.clone() };
    node.check(FromPod, node.pod_a, &as_b.build(), Expect::drop(DropReason::WrongInterface));
    for octet in 0..6 {
        let mut from_mac = MAC_A;
        from_mac.octets[octet] ^= 0x10;
        let frame = Ipv4Frame { from_mac, ..frame.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::WrongSourceMac));
    }
}

#[test]
fn a_source_check_comes_before_any_delivery() {
    let mut node = Node::new();
    for destination in [POD_B, Ipv4Addr::new(10, 96, 0, 1), Ipv4Addr::new(169, 254, 1, 1)] {
        let frame = Ipv4Frame { source: Ipv4Addr::new(10, 0, 0, 99), ..from_a(destination) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::UnknownSource));
    }
}

#[test]
fn a_header_that_contradicts_itself_is_malformed() {
    let mut node = Node::new();
    let good = from_a(VPC_HOST);
    let malformed = Expect::drop(DropReason::Malformed);
    for version in [0, 3, 5, 6, 15] {
        let frame = Ipv4Frame { version, ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), malformed.clone());
    }
    for ihl in 0..5 {
        let frame = Ipv4Frame { ihl: Some(ihl), ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), malformed.clone());
    }
    // The packet has 40 bytes behind its Ethernet header.
    for total_len in [0, 1, 19, 41, 1500, 0xffff] {
        let frame = Ipv4Frame { total_len: Some(total_len), ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), malformed.clone());
    }
    let longer_than_the_packet = Ipv4Frame { ihl: Some(11), ..good.clone() };
    node.check(FromPod, node.pod_a, &longer_than_the_packet.build(), malformed);

    // Padding behind the packet is allowed: Ethernet frames have at least 60 bytes.
    let expect = node.out_of_eni_1();
    for total_len in [20, 39, 40] {
        let frame = Ipv4Frame { total_len: Some(total_len), ..good.clone() };
        node.check(FromPod, node.pod_a, &frame.build(), expect.clone());
    }
}

/// Below 34 bytes the kernel makes no test frame of IPv4: those are sent for real in `delivery`.
#[test]
fn runts_of_every_length() {
    let mut node = Node::new();
    let whole = Ipv4Frame { payload: vec![0; 26], ..from_a(VPC_HOST) }.build();
    assert_eq!(whole.len(), 60);
    let good = node.out_of_eni_1();
    for len in 34..=60 {
        let expect = if len < 60 { Expect::drop(DropReason::Malformed) } else { good.clone() };
        node.check(FromPod, node.pod_a, &whole[..len], expect);
        let total_len = Some(u16::try_from(len).unwrap() - 14);
        let honest = Ipv4Frame { total_len, payload: vec![0; len - 34], ..from_a(VPC_HOST) };
        node.check(FromPod, node.pod_a, &honest.build(), good.clone());
    }
    for len in 0..34 {
        let frame = TestFrame { bytes: &whole[..len], ifindex: node.pod_a, gso_size: 0, repeat: 1 };
        assert!(node.in_netns(|dataplane| dataplane.test_run(FromPod, &frame)).is_err(), "{len}");
    }
}

#[test]
fn tags_and_other_ether_types_are_dropped() {
    let mut node = Node::new();
    let packet = from_a(VPC_HOST).build();
    for tag in [VLAN, SERVICE_VLAN] {
        let tagged = ethernet(HOST, MAC_A, tag, &[&[0, 5], &packet[12..]].concat());
        node.check(FromPod, node.pod_a, &tagged, Expect::drop(DropReason::VlanTagged));
        node.check(FromPod, node.pod_a, &tagged[..14], Expect::drop(DropReason::VlanTagged));
    }
    for ether_type in [0, 46, 0x0801, 0x0900, 0x8101, 0x88a9, 0x88cc, 0x8864, 0xffff] {
        let frame = ethernet(HOST, MAC_A, ether_type, &packet[14..]);
        node.check(FromPod, node.pod_a, &frame, Expect::drop(DropReason::UnsupportedEtherType));
    }
}

#[test]
fn without_a_ready_eni_nothing_leaves_but_local_pods_are_reached() {
    let mut node = Node::new();
    for source in [POD_NO_ENI, POD_NO_GATEWAY] {
        let frame = Ipv4Frame { source, ..from_a(VPC_HOST) };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::drop(DropReason::EniNotReady).tx(source));
        let local = Ipv4Frame { destination: POD_B, ..frame };
        node.check(FromPod, node.pod_a, &local.build(), Expect::redirect().tx(source).rx(POD_B));
    }
}

#[test]
fn what_is_too_long_for_the_eni_goes_to_the_stack() {
    let mut node = Node::new();
    let eni_2 = node.dataplane.enis().unwrap()[1].1;
    let leaves = Expect::redirect().tx(POD_B).macs(eni_2.gateway_mac, eni_2.mac);
    let stack = Expect::stack().tx(POD_B);
    let of_len = |len: u32| {
        let payload = vec![0; usize::try_from(len).unwrap() - 20];
        Ipv4Frame { payload, ..Ipv4Frame::udp(MAC_B, HOST, POD_B, VPC_HOST) }.build()
    };
    node.check(FromPod, node.pod_b, &of_len(SMALL_MTU), leaves.clone());
    node.check(FromPod, node.pod_b, &of_len(SMALL_MTU + 1), stack.clone());
    // To be cut into segments: what counts is a segment with its headers (here 20 and at least 8).
    node.check_gso(FromPod, node.pod_b, &of_len(1000), SMALL_MTU - 28, leaves);
    node.check_gso(FromPod, node.pod_b, &of_len(1000), SMALL_MTU - 27, stack);
}
