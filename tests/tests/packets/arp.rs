//! Verdicts of `from_pod` on ARP.

use std::net::Ipv4Addr;

use ipam_agent::dataplane::Program::FromPod;
use ipam_common::DropReason;
use ipam_lab::packets::ArpFrame;

use crate::fixture::{Expect, MAC_A, MAC_B, Node, POD_A, POD_B};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

#[test]
fn a_pod_may_ask_and_answer_for_its_own_address() {
    let mut node = Node::new();
    let request = ArpFrame::request(MAC_A, POD_A, GATEWAY);
    node.check(FromPod, node.pod_a, &request.build(), Expect::stack());
    node.check(FromPod, node.pod_a, &ArpFrame { operation: 2, ..request }.build(), Expect::stack());
    let announcement = ArpFrame::request(MAC_A, POD_A, POD_A);
    node.check(FromPod, node.pod_a, &announcement.build(), Expect::stack());
}

#[test]
fn a_pod_may_probe_for_its_own_address_only() {
    let mut node = Node::new();
    let probe = |target| ArpFrame::request(MAC_A, Ipv4Addr::UNSPECIFIED, target).build();
    node.check(FromPod, node.pod_a, &probe(POD_A), Expect::stack());
    for target in [POD_B, GATEWAY, Ipv4Addr::UNSPECIFIED] {
        node.check(FromPod, node.pod_a, &probe(target), Expect::drop(DropReason::ArpSpoof));
    }
}

#[test]
fn spoofed_arp_is_dropped() {
    let mut node = Node::new();
    let good = ArpFrame::request(MAC_A, POD_A, GATEWAY);
    let spoof = Expect::drop(DropReason::ArpSpoof);
    for frame in [
        ArpFrame { sender: POD_B, ..good },
        ArpFrame { sender: GATEWAY, operation: 2, ..good },
        ArpFrame { sender_mac: MAC_B, ..good },
        ArpFrame { from_mac: MAC_B, ..good },
        ArpFrame { from_mac: MAC_B, sender_mac: MAC_B, ..good },
    ] {
        node.check(FromPod, node.pod_a, &frame.build(), spoof.clone());
    }
    node.check(FromPod, node.pod_b, &good.build(), spoof);
}

#[test]
fn malformed_arp_is_dropped() {
    let mut node = Node::new();
    let good = ArpFrame::request(MAC_A, POD_A, GATEWAY);
    let malformed = Expect::drop(DropReason::Malformed);
    node.check(FromPod, node.pod_a, &ArpFrame { hardware_type: 6, ..good }.build(), malformed.clone());
    let bytes = good.build();
    // Protocol type, hardware length, protocol length.
    for offset in [16, 17, 18, 19] {
        let mut wrong = bytes.clone();
        wrong[offset] ^= 1;
        node.check(FromPod, node.pod_a, &wrong, malformed.clone());
    }
    for len in 14..42 {
        node.check(FromPod, node.pod_a, &bytes[..len], malformed.clone());
    }
    let padded = [&bytes[..], &[0; 18]].concat();
    node.check(FromPod, node.pod_a, &padded, Expect::stack());
}
