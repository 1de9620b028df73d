//! `to_pod` and `to_eni` on IPv4, and what the ingress programs make of the flows that they mark.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipam_agent::dataplane::Program::{FromEni, FromPod, ToEni, ToPod};
use ipam_common::StackFlow;
use ipam_lab::packets::Ipv4Frame;

use crate::fixture::{Expect, GATEWAY_1, HOST, MAC_A, MAC_B, Node, POD_A, POD_B, VPC_HOST};

/// The ports of [`Ipv4Frame::udp`].
const FROM: [u8; 2] = [0x1f, 0x90];
const TO: [u8; 2] = [0x1f, 0x91];

/// A flow of either family.
pub fn flow(
    pod: impl Into<IpAddr>,
    peer: impl Into<IpAddr>,
    pod_port: [u8; 2],
    peer_port: [u8; 2],
    protocol: u8,
) -> StackFlow {
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            (octets, 4)
        }
        IpAddr::V6(ip) => (ip.octets(), 6),
    };
    let ((pod, family), (peer, _)) = (wide(pod.into()), wide(peer.into()));
    StackFlow { pod, peer, pod_port, peer_port, protocol, family, reserved: [0; 2] }
}

/// The node has marked exactly these flows.
#[track_caller]
pub fn check_flows(node: &Node, mut wanted: Vec<StackFlow>) {
    let key =
        |flow: &StackFlow| (flow.family, flow.pod, flow.peer, flow.pod_port, flow.peer_port, flow.protocol);
    let mut found = node.dataplane.stack_flows().unwrap();
    found.sort_by_key(key);
    wanted.sort_by_key(key);
    assert_eq!(found, wanted);
}

#[test]
fn what_the_stack_delivers_marks_the_flow_both_ways() {
    let mut node = Node::new();
    let incoming = Ipv4Frame::udp(GATEWAY_1, node.eni_1_mac, VPC_HOST, POD_A);
    node.check(FromEni, node.eni_1, &incoming.build(), Expect::redirect().rx(POD_A));
    let delivered = Ipv4Frame::udp(HOST, MAC_A, VPC_HOST, POD_A);
    node.check(ToPod, node.pod_a, &delivered.build(), Expect::pass().rx(POD_A).marks(2));
    let pair = flow(POD_A, VPC_HOST, [0; 2], [0; 2], 17);
    check_flows(&node, vec![flow(POD_A, VPC_HOST, TO, FROM, 17), pair]);

    node.check(FromEni, node.eni_1, &incoming.build(), Expect::stack());
    // A flow is new once.
    node.check(ToPod, node.pod_a, &delivered.build(), Expect::pass().rx(POD_A));
    let mut answer = Ipv4Frame::udp(MAC_A, HOST, POD_A, VPC_HOST);
    let away = Expect::redirect().tx(POD_A).macs(GATEWAY_1, node.eni_1_mac);
    node.check(FromPod, node.pod_a, &answer.build(), away.clone());
    answer.payload[..4].copy_from_slice(&[TO, FROM].concat());
    node.check(FromPod, node.pod_a, &answer.build(), Expect::stack().tx(POD_A));
    // Another protocol is another flow.
    let tcp = Ipv4Frame { protocol: 6, ..answer.clone() };
    node.check(FromPod, node.pod_a, &tcp.build(), away);
    // Fragments go by the pair.
    for fragment in [0x2000, 0x00b9] {
        let fragment = Ipv4Frame { fragment, payload: vec![0; 8], ..incoming.clone() };
        node.check(FromEni, node.eni_1, &fragment.build(), Expect::stack());
    }
}

#[test]
fn between_local_pods_both_ends_are_marked() {
    let mut node = Node::new();
    let delivered = Ipv4Frame::udp(HOST, MAC_B, POD_A, POD_B).build();
    node.check(ToPod, node.pod_b, &delivered, Expect::pass().rx(POD_B).marks(4));
    let wanted = [(POD_A, POD_B, FROM, TO), (POD_B, POD_A, TO, FROM)];
    let flows = wanted.into_iter().flat_map(|(pod, peer, pod_port, peer_port)| {
        [flow(pod, peer, pod_port, peer_port, 17), flow(pod, peer, [0; 2], [0; 2], 17)]
    });
    check_flows(&node, flows.collect());
    let direct = Ipv4Frame::udp(MAC_A, HOST, POD_A, POD_B).build();
    node.check(FromPod, node.pod_a, &direct, Expect::stack().tx(POD_A));
}

#[test]
fn echo_is_a_flow_by_its_identifier_and_errors_are_none() {
    let mut node = Node::new();
    let icmp = |kind: u8| {
        let payload = vec![kind, 0, 0, 0, 0xab, 0xcd, 0, 1];
        Ipv4Frame { protocol: 1, payload, ..Ipv4Frame::udp(HOST, MAC_A, VPC_HOST, POD_A) }.build()
    };
    node.check(ToPod, node.pod_a, &icmp(3), Expect::pass().rx(POD_A));
    check_flows(&node, vec![]);
    node.check(ToPod, node.pod_a, &icmp(8), Expect::pass().rx(POD_A).marks(2));
    let id = [0xab, 0xcd];
    let pair = flow(POD_A, VPC_HOST, [0; 2], [0; 2], 1);
    check_flows(&node, vec![flow(POD_A, VPC_HOST, id, [0; 2], 1), pair]);
}

#[test]
fn the_nodes_own_packets_to_pods_mark_nothing() {
    let mut node = Node::new();
    let own = Ipv4Addr::new(10, 9, 0, 1);
    node.dataplane.set_node_addrs(&BTreeMap::from([(own.into(), 0)])).unwrap();
    let probe = Ipv4Frame::udp(HOST, MAC_A, own, POD_A).build();
    node.check(ToPod, node.pod_a, &probe, Expect::pass().rx(POD_A));
    check_flows(&node, vec![]);
}

#[test]
fn what_the_stack_sends_leaves_by_the_eni_that_owns_its_source() {
    let mut node = Node::new();
    let (primary, secondary) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    node.dataplane.set_node_addrs(&BTreeMap::from([(primary.into(), 0), (secondary.into(), 1)])).unwrap();
    let sent = |source| Ipv4Frame::udp(HOST, GATEWAY_1, source, VPC_HOST).build();
    let moved = Expect::redirect().macs(GATEWAY_1, node.eni_1_mac);
    // pod-b stands for the primary ENI here: any interface but the owner.
    for (ifindex, source, expect) in [
        (node.pod_b, primary, Expect::pass()),
        (node.pod_b, VPC_HOST, Expect::pass()),
        (node.pod_b, secondary, moved.clone()),
        (node.eni_1, secondary, Expect::pass()),
    ] {
        node.check(ToEni, ifindex, &sent(source), expect);
        check_flows(&node, vec![]);
    }
    node.check(ToEni, node.pod_b, &sent(POD_A), moved.marks(2));
    node.check(ToEni, node.eni_1, &sent(POD_A), Expect::pass());
    check_flows(&node, vec![flow(POD_A, VPC_HOST, FROM, TO, 17), flow(POD_A, VPC_HOST, [0; 2], [0; 2], 17)]);
}
