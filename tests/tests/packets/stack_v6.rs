//! `to_pod`, `to_eni` and `from_eni` on IPv6, and the flows between them and `from_pod`.

use std::{collections::BTreeMap, net::Ipv6Addr};

use ipam_agent::dataplane::Program::{FromEni, FromPod, ToEni, ToPod};
use ipam_common::Mac;
use ipam_lab::packets::{
    VLAN, ethernet,
    ipv6::{DESTINATION_OPTIONS, HOP_BY_HOP, Ipv6Frame, ROUTING, fragment, neighbour, padding},
};

use crate::{
    fixture::{
        Expect, GATEWAY_1, GATEWAY_1_V6, HOST, LINK_LOCAL_A, LINK_LOCAL_GATEWAY, MAC_A, MAC_B, Node, POD_A6,
        POD_B6, POD_NO_ENI6, POD_NO_GATEWAY6, VPC_HOST6,
    },
    stack::{check_flows, flow},
};

const UDP: u8 = 17;
/// The ports of [`Ipv6Frame::udp`].
const FROM: [u8; 2] = [0x1f, 0x90];
const TO: [u8; 2] = [0x1f, 0x91];
const NONE: [u8; 2] = [0; 2];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What the stack delivers to pod A.
fn delivered() -> Ipv6Frame {
    Ipv6Frame::udp(HOST, MAC_A, VPC_HOST6, POD_A6)
}

fn incoming(node: &Node) -> Ipv6Frame {
    Ipv6Frame { from_mac: GATEWAY_1, to_mac: node.eni_1_mac, ..delivered() }
}

fn answer() -> Ipv6Frame {
    let mut answer = Ipv6Frame::udp(MAC_A, HOST, POD_A6, VPC_HOST6);
    answer.payload[..4].copy_from_slice(&[TO, FROM].concat());
    answer
}

fn leaves(node: &Node) -> Expect {
    Expect::redirect().tx(POD_A6).macs(GATEWAY_1_V6, node.eni_1_mac)
}

#[test]
fn a_packet_for_a_local_pod_is_redirected_unchanged() {
    let mut node = Node::new();
    let frame = incoming(&node);
    for extensions in [
        vec![],
        vec![padding(HOP_BY_HOP, 4), padding(ROUTING, 1)],
        vec![padding(DESTINATION_OPTIONS, 1); 9],
        vec![fragment(0, true)],
        vec![fragment(100, false)],
    ] {
        let frame = Ipv6Frame { extensions, ..frame.clone() };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::redirect().rx(POD_A6));
    }
    let to_another = Ipv6Frame { destination: POD_NO_ENI6, ..frame };
    node.check(FromEni, node.eni_1, &to_another.build(), Expect::redirect().rx(POD_NO_ENI6));
}

#[test]
fn everything_else_goes_to_the_stack_untouched() {
    let mut node = Node::new();
    let frame = incoming(&node);
    for destination in [VPC_HOST6, ALL_NODES, LINK_LOCAL_GATEWAY, "fd00::63".parse().unwrap()] {
        let frame = Ipv6Frame { destination, ..frame.clone() };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::stack());
    }
    for to_mac in [Mac { octets: [0x33, 0x33, 0, 0, 0, 1] }, GATEWAY_1] {
        let frame = Ipv6Frame { to_mac, ..frame.clone() };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::stack());
    }
    let tagged = ethernet(node.eni_1_mac, GATEWAY_1, VLAN, &[&[0, 5], &frame.build()[12..]].concat());
    node.check(FromEni, node.eni_1, &tagged, Expect::stack());
}

#[test]
fn what_the_stack_delivers_marks_the_flow_both_ways() {
    let mut node = Node::new();
    let incoming = incoming(&node);
    node.check(FromEni, node.eni_1, &incoming.build(), Expect::redirect().rx(POD_A6));
    node.check(ToPod, node.pod_a, &delivered().build(), Expect::pass().rx(POD_A6).marks(2));
    let pair = flow(POD_A6, VPC_HOST6, NONE, NONE, UDP);
    check_flows(&node, vec![flow(POD_A6, VPC_HOST6, TO, FROM, UDP), pair]);
    node.check(ToPod, node.pod_a, &delivered().build(), Expect::pass().rx(POD_A6));

    node.check(FromEni, node.eni_1, &incoming.build(), Expect::stack());
    node.check(FromPod, node.pod_a, &answer().build(), Expect::stack().tx(POD_A6));
    // Extension headers make no other flow of it.
    let extensions = vec![padding(HOP_BY_HOP, 1), padding(DESTINATION_OPTIONS, 3)];
    let behind = Ipv6Frame { extensions, ..incoming.clone() };
    node.check(FromEni, node.eni_1, &behind.build(), Expect::stack());
    // Other ports, another protocol.
    let expect = leaves(&node);
    let other = Ipv6Frame::udp(MAC_A, HOST, POD_A6, VPC_HOST6);
    node.check(FromPod, node.pod_a, &other.build(), expect.clone());
    node.check(FromPod, node.pod_a, &Ipv6Frame { protocol: 6, ..answer() }.build(), expect);
    // Fragments go by the pair, the first too.
    for extension in [fragment(0, true), fragment(0, false), fragment(9, false)] {
        let fragment = Ipv6Frame { extensions: vec![extension], payload: vec![0; 8], ..incoming.clone() };
        node.check(FromEni, node.eni_1, &fragment.build(), Expect::stack());
        let tcp = Ipv6Frame { protocol: 6, ..fragment };
        node.check(FromEni, node.eni_1, &tcp.build(), Expect::redirect().rx(POD_A6));
    }
}

#[test]
fn fragments_and_opaque_packets_mark_pairs() {
    let mut node = Node::new();
    let expect = || Expect::pass().rx(POD_A6);
    let fragments = [fragment(0, true), fragment(4, false)];
    for (extension, marks) in fragments.into_iter().zip([1, 0]) {
        let frame = Ipv6Frame { extensions: vec![extension], ..delivered() };
        node.check(ToPod, node.pod_a, &frame.build(), expect().marks(marks));
        check_flows(&node, vec![flow(POD_A6, VPC_HOST6, NONE, NONE, UDP)]);
    }
    let opaque = [
        vec![padding(DESTINATION_OPTIONS, 1); 7],
        vec![fragment(0, true), padding(DESTINATION_OPTIONS, 1)],
        vec![fragment(1, true), padding(DESTINATION_OPTIONS, 1)],
    ];
    let expect_in = Expect::redirect().rx(POD_A6);
    for extensions in &opaque {
        let frame = Ipv6Frame { extensions: extensions.clone(), ..incoming(&node) };
        node.check(FromEni, node.eni_1, &frame.build(), expect_in.clone());
    }
    for (extensions, marks) in opaque.iter().zip([1, 0, 0]) {
        let frame = Ipv6Frame { extensions: extensions.clone(), ..delivered() };
        node.check(ToPod, node.pod_a, &frame.build(), expect().marks(marks));
        let frame = Ipv6Frame { extensions: extensions.clone(), ..incoming(&node) };
        node.check(FromEni, node.eni_1, &frame.build(), Expect::stack());
        let frame = Ipv6Frame { extensions: extensions.clone(), ..answer() };
        node.check(FromPod, node.pod_a, &frame.build(), Expect::stack().tx(POD_A6));
    }
    let pairs = [UDP, 0].map(|protocol| flow(POD_A6, VPC_HOST6, NONE, NONE, protocol));
    check_flows(&node, pairs.to_vec());
    // Six headers can be walked: this one has ports, and they are not marked.
    let long = Ipv6Frame { extensions: vec![padding(DESTINATION_OPTIONS, 1); 6], ..incoming(&node) };
    node.check(FromEni, node.eni_1, &long.build(), expect_in);
}

#[test]
fn without_a_flow_nothing_is_marked() {
    let mut node = Node::new();
    let icmp = |message: Vec<u8>| Ipv6Frame { protocol: 58, payload: message, ..delivered() };
    let frames = [
        // ICMP of IPv4, no next header, ESP.
        Ipv6Frame { protocol: 1, ..delivered() },
        Ipv6Frame { protocol: 59, ..delivered() },
        Ipv6Frame { protocol: 50, ..delivered() },
        Ipv6Frame { payload: vec![0x1f, 0x90, 0x1f, 0x91, 0, 8, 0], ..delivered() },
        icmp(neighbour(135, POD_A6, None)),
        icmp(neighbour(136, LINK_LOCAL_GATEWAY, None)),
        icmp(vec![130; 24]),
    ];
    for frame in frames {
        node.check(ToPod, node.pod_a, &frame.build(), Expect::pass().rx(POD_A6));
        check_flows(&node, vec![]);
    }
    // Of no pod: not even counted.
    let multicast = Ipv6Frame { destination: ALL_NODES, protocol: 58, payload: vec![134; 16], ..delivered() };
    node.check(ToPod, node.pod_a, &multicast.build(), Expect::pass());
    let own: Ipv6Addr = "fd09::1".parse().unwrap();
    node.dataplane.set_node_addrs(&BTreeMap::from([(own.into(), 0)])).unwrap();
    let probe = Ipv6Frame { source: own, ..delivered() };
    node.check(ToPod, node.pod_a, &probe.build(), Expect::pass().rx(POD_A6));
    check_flows(&node, vec![]);
}

#[test]
fn between_local_pods_both_ends_are_marked() {
    let mut node = Node::new();
    let frame = Ipv6Frame::udp(HOST, MAC_B, POD_A6, POD_B6).build();
    node.check(ToPod, node.pod_b, &frame, Expect::pass().rx(POD_B6).marks(4));
    let ends = [(POD_A6, POD_B6, FROM, TO), (POD_B6, POD_A6, TO, FROM)];
    let flows = ends.into_iter().flat_map(|(pod, peer, pod_port, peer_port)| {
        [flow(pod, peer, pod_port, peer_port, UDP), flow(pod, peer, NONE, NONE, UDP)]
    });
    check_flows(&node, flows.collect());
    let direct = Ipv6Frame::udp(MAC_A, HOST, POD_A6, POD_B6);
    node.check(FromPod, node.pod_a, &direct.build(), Expect::stack().tx(POD_A6));
}

#[test]
fn echo_is_a_flow_by_its_identifier() {
    let mut node = Node::new();
    let echo = |icmp_type: u8, id: [u8; 2]| vec![icmp_type, 0, 0, 0, id[0], id[1], 0, 1];
    let id = [0xab, 0xcd];
    let request = Ipv6Frame { protocol: 58, payload: echo(128, id), ..delivered() };
    node.check(ToPod, node.pod_a, &request.build(), Expect::pass().rx(POD_A6).marks(2));
    let pair = flow(POD_A6, VPC_HOST6, NONE, NONE, 58);
    check_flows(&node, vec![flow(POD_A6, VPC_HOST6, id, NONE, 58), pair]);
    for (icmp_type, id, marked) in
        [(129, id, true), (128, id, true), (129, [0xab, 0xce], false), (127, id, false)]
    {
        let reply = Ipv6Frame { protocol: 58, payload: echo(icmp_type, id), ..answer() };
        let expect = if marked { Expect::stack().tx(POD_A6) } else { leaves(&node) };
        node.check(FromPod, node.pod_a, &reply.build(), expect);
    }
}

#[test]
fn what_the_stack_sends_leaves_by_the_eni_that_owns_its_source() {
    let mut node = Node::new();
    let (primary, secondary): (Ipv6Addr, Ipv6Addr) = ("fd09::1".parse().unwrap(), "fd09::2".parse().unwrap());
    let addrs = [(primary.into(), 0), (secondary.into(), 1)];
    node.dataplane.set_node_addrs(&BTreeMap::from(addrs)).unwrap();
    let sent = |source| Ipv6Frame::udp(HOST, GATEWAY_1, source, VPC_HOST6);
    let moved = Expect::redirect().macs(GATEWAY_1_V6, node.eni_1_mac);
    // pod-b stands for the primary ENI here: any interface but the owner.
    for (ifindex, source, expect) in [
        (node.pod_b, primary, Expect::pass()),
        (node.pod_b, VPC_HOST6, Expect::pass()),
        (node.pod_b, LINK_LOCAL_A, Expect::pass()),
        (node.pod_b, secondary, moved.clone()),
        (node.eni_1, secondary, Expect::pass()),
    ] {
        node.check(ToEni, ifindex, &sent(source).build(), expect);
        check_flows(&node, vec![]);
    }
    // What is about the link stays on it.
    let solicitation =
        Ipv6Frame::icmp(HOST, GATEWAY_1, secondary, VPC_HOST6, neighbour(135, VPC_HOST6, None));
    node.check(ToEni, node.pod_b, &solicitation.build(), Expect::pass());
    for source in [secondary, POD_A6] {
        for destination in [LINK_LOCAL_GATEWAY, ALL_NODES] {
            let frame = Ipv6Frame { destination, ..sent(source) };
            node.check(ToEni, node.pod_b, &frame.build(), Expect::pass());
        }
    }
    check_flows(&node, vec![]);

    node.check(ToEni, node.pod_b, &sent(POD_A6).build(), moved.marks(2));
    node.check(ToEni, node.eni_1, &sent(POD_A6).build(), Expect::pass());
    let flows = [flow(POD_A6, VPC_HOST6, FROM, TO, UDP), flow(POD_A6, VPC_HOST6, NONE, NONE, UDP)].to_vec();
    check_flows(&node, flows);
    // Without a next hop there is nowhere to send it.
    for source in [POD_NO_ENI6, POD_NO_GATEWAY6] {
        node.check(ToEni, node.pod_b, &sent(source).build(), Expect::pass().marks(2));
    }
}
