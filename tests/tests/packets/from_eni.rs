//! Verdicts of `from_eni`.

use std::net::Ipv4Addr;

use ipam_agent::dataplane::Program::FromEni;
use ipam_common::Mac;
use ipam_lab::packets::{ArpFrame, IPV6, Ipv4Frame, VLAN, ethernet, ipv6::Ipv6Frame};

use crate::fixture::{Expect, GATEWAY_1, Node, POD_A, POD_A6, POD_NO_ENI, VPC_HOST};

fn to_a(node: &Node) -> Ipv4Frame {
    Ipv4Frame::udp(GATEWAY_1, node.eni_1_mac, VPC_HOST, POD_A)
}

#[test]
fn a_packet_for_a_local_pod_is_redirected_unchanged() {
    let mut node = Node::new();
    let frame = to_a(&node);
    for frame in [
        frame.clone(),
        Ipv4Frame { options: vec![1; 40], ..frame.clone() },
        Ipv4Frame { fragment: 0x2000, ..frame.clone() },
        Ipv4Frame { fragment: 0x00b9, payload: vec![0; 8], ..frame.clone() },
    ] {
        node.check(FromEni, node.eni_1, &frame.build(), Expect::redirect().rx(POD_A));
    }
    let to_another = Ipv4Frame { destination: POD_NO_ENI, ..frame };
    node.check(FromEni, node.eni_1, &to_another.build(), Expect::redirect().rx(POD_NO_ENI));
}

#[test]
fn what_the_stack_answers_comes_by_the_stack() {
    let mut node = Node::new();
    let frame = to_a(&node);
    // Link-local, and in the fixture's CIDR of the stack.
    for source in [Ipv4Addr::new(169, 254, 128, 7), Ipv4Addr::new(10, 97, 0, 1)] {
        let question = Ipv4Frame { source, ..frame.clone() };
        node.check(FromEni, node.eni_1, &question.build(), Expect::stack());
        let fragment = Ipv4Frame { fragment: 0x00b9, ..question.clone() };
        node.check(FromEni, node.eni_1, &fragment.build(), Expect::stack());
        // An error is no question: it belongs to the flow that it quotes, which here is none of the stack.
        for icmp_type in [3, 11, 12] {
            let quoted = Ipv4Frame::udp(GATEWAY_1, node.eni_1_mac, POD_A, VPC_HOST).build();
            let payload = [&[icmp_type, 0, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat();
            let error = Ipv4Frame { protocol: 1, payload, ..question.clone() };
            node.check(FromEni, node.eni_1, &error.build(), Expect::redirect().rx(POD_A));
        }
    }
    let link_local = "fe80::7".parse().unwrap();
    let question = Ipv6Frame::udp(GATEWAY_1, node.eni_1_mac, link_local, POD_A6).build();
    node.check(FromEni, node.eni_1, &question, Expect::stack());
}

#[test]
fn everything_else_goes_to_the_stack_untouched() {
    let mut node = Node::new();
    let frame = to_a(&node);
    for destination in
        [Ipv4Addr::new(10, 0, 0, 99), VPC_HOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)]
    {
        let frame = Ipv4Frame { destination, ..frame.clone() };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::stack());
    }
    for to_mac in [Mac { octets: [0xff; 6] }, Mac { octets: [1, 0, 0x5e, 0, 0, 1] }, GATEWAY_1] {
        let frame = Ipv4Frame { to_mac, ..frame.clone() };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::stack());
    }
    let packet = frame.build();
    let tagged = ethernet(node.eni_1_mac, GATEWAY_1, VLAN, &[&[0, 5], &packet[12..]].concat());
    let ipv6 = ethernet(node.eni_1_mac, GATEWAY_1, IPV6, &packet[14..]);
    let arp = ArpFrame { to_mac: node.eni_1_mac, ..ArpFrame::request(GATEWAY_1, VPC_HOST, POD_A) }.build();
    for frame in [tagged, ipv6, arp] {
        node.check(FromEni, node.eni_1, &frame, Expect::stack());
    }
}

/// Shorter ones, which the kernel makes no test frame of, are sent for real in `delivery`.
#[test]
fn runts_with_a_readable_header_are_the_pods_to_judge() {
    let mut node = Node::new();
    let whole = Ipv4Frame { payload: vec![0; 26], ..to_a(&node) }.build();
    for len in 34..=60 {
        node.check(FromEni, node.eni_1, &whole[..len], Expect::redirect().rx(POD_A));
    }
}
