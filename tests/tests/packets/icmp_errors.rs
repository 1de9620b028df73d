//! ICMP errors of both families: they follow the flow of the packet that they quote.

use ipam_agent::dataplane::Program::{FromEni, FromPod, ToPod};
use ipam_lab::packets::{
    Ipv4Frame,
    ipv6::{DESTINATION_OPTIONS, Ipv6Frame, fragment, padding},
};

use crate::fixture::{
    Expect, GATEWAY_1, GATEWAY_1_V6, HOST, MAC_A, Node, POD_A, POD_A6, POD_B, POD_B6, VPC_HOST, VPC_HOST6,
};

/// A router on the way, whose errors these are.
const ROUTER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 200, 0, 1);
const ROUTER6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1);

/// An ICMP message of either family that quotes `packet`.
fn error(icmp_type: u8, packet: &[u8]) -> Vec<u8> {
    [&[icmp_type, 0, 0, 0, 0, 0, 0, 0], packet].concat()
}

/// What pod A sent: ports 8080 to 8081.
fn sent() -> Ipv4Frame {
    Ipv4Frame::udp(MAC_A, HOST, POD_A, VPC_HOST)
}

fn sent6() -> Ipv6Frame {
    Ipv6Frame::udp(MAC_A, HOST, POD_A6, VPC_HOST6)
}

/// What pod A received: ports 8081 to 8080.
fn received() -> Ipv4Frame {
    let mut frame = Ipv4Frame { source: VPC_HOST, destination: POD_A, ..sent() };
    frame.payload[..4].copy_from_slice(&[0x1f, 0x91, 0x1f, 0x90]);
    frame
}

fn received6() -> Ipv6Frame {
    let mut frame = Ipv6Frame { source: VPC_HOST6, destination: POD_A6, ..sent6() };
    frame.payload[..4].copy_from_slice(&[0x1f, 0x91, 0x1f, 0x90]);
    frame
}

/// An error that reaches pod A, and one that it sends.
fn inbound(node: &Node, message: Vec<u8>) -> Vec<u8> {
    let udp = Ipv4Frame::udp(GATEWAY_1, node.eni_1_mac, ROUTER, POD_A);
    Ipv4Frame { protocol: 1, payload: message, ..udp }.build()
}

fn inbound6(node: &Node, message: Vec<u8>) -> Vec<u8> {
    Ipv6Frame::icmp(GATEWAY_1, node.eni_1_mac, ROUTER6, POD_A6, message).build()
}

fn outbound(message: Vec<u8>) -> Vec<u8> {
    Ipv4Frame { protocol: 1, payload: message, ..sent() }.build()
}

fn outbound6(message: Vec<u8>) -> Vec<u8> {
    Ipv6Frame { protocol: 58, payload: message, ..sent6() }.build()
}

/// A node whose stack has delivered to pod A what it received.
fn with_marked_flows() -> Node {
    let mut node = Node::new();
    node.check(ToPod, node.pod_a, &received().build(), Expect::pass().rx(POD_A).marks(2));
    node.check(ToPod, node.pod_a, &received6().build(), Expect::pass().rx(POD_A6).marks(2));
    node
}

#[test]
fn errors_about_a_flow_of_the_stack_go_to_the_stack() {
    let mut node = with_marked_flows();
    let delivered = Expect::redirect().rx(POD_A);
    let delivered6 = Expect::redirect().rx(POD_A6);
    let left = Expect::redirect().tx(POD_A).macs(GATEWAY_1, node.eni_1_mac);
    let left6 = Expect::redirect().tx(POD_A6).macs(GATEWAY_1_V6, node.eni_1_mac);
    let choose = |is_error, other: &Expect| if is_error { Expect::stack() } else { other.clone() };
    for icmp_type in 0..=255 {
        // Echo has an identifier that is not marked.
        let is_error = [3, 11, 12].contains(&icmp_type);
        let about_sent = inbound(&node, error(icmp_type, &sent().packet()));
        node.check(FromEni, node.eni_1, &about_sent, choose(is_error, &delivered));
        let about_received = outbound(error(icmp_type, &received().packet()));
        node.check(FromPod, node.pod_a, &about_received, choose(is_error, &left).tx(POD_A));

        let is_error = (1..=4).contains(&icmp_type);
        // Neighbour discovery has tests of its own.
        if !(133..=137).contains(&icmp_type) {
            let about_sent = inbound6(&node, error(icmp_type, &sent6().packet()));
            node.check(FromEni, node.eni_1, &about_sent, choose(is_error, &delivered6));
            let about_received = outbound6(error(icmp_type, &received6().packet()));
            node.check(FromPod, node.pod_a, &about_received, choose(is_error, &left6).tx(POD_A6));
        }
    }
}

/// What is quoted, and whether its flow is marked.
fn quotes() -> Vec<(Ipv4Frame, bool)> {
    let other_ports = Ipv4Frame { payload: vec![9; 20], ..sent() };
    vec![
        (sent(), true),
        (Ipv4Frame { options: vec![1; 40], ..sent() }, true),
        (Ipv4Frame { payload: sent().payload[..8].to_vec(), ..sent() }, true),
        // By the pair of addresses.
        (Ipv4Frame { fragment: 0x2000, ..other_ports.clone() }, true),
        (Ipv4Frame { fragment: 0x0010, ..other_ports.clone() }, true),
        (other_ports, false),
        (Ipv4Frame { protocol: 6, ..sent() }, false),
        (Ipv4Frame { protocol: 99, ..sent() }, false),
        (Ipv4Frame { destination: ROUTER, ..sent() }, false),
        (Ipv4Frame { source: POD_B, ..sent() }, false),
        // The wrong way round.
        (received(), false),
        // No header to read.
        (Ipv4Frame { version: 6, ..sent() }, false),
        (Ipv4Frame { ihl: Some(4), ..sent() }, false),
        (Ipv4Frame { payload: sent().payload[..7].to_vec(), ..sent() }, false),
        // An error about an error.
        (Ipv4Frame { protocol: 1, payload: error(3, &received().packet()), ..sent() }, false),
    ]
}

fn quotes6() -> Vec<(Ipv6Frame, bool)> {
    let other_ports = Ipv6Frame { payload: vec![9; 20], ..sent6() };
    let with = |extensions, frame: &Ipv6Frame| Ipv6Frame { extensions, ..frame.clone() };
    vec![
        (sent6(), true),
        (with(vec![padding(DESTINATION_OPTIONS, 2); 6], &sent6()), true),
        (Ipv6Frame { payload: sent6().payload[..8].to_vec(), ..sent6() }, true),
        (with(vec![fragment(0, true)], &other_ports), true),
        (with(vec![fragment(8, false)], &other_ports), true),
        (other_ports, false),
        (with(vec![padding(DESTINATION_OPTIONS, 1); 7], &sent6()), false),
        (Ipv6Frame { protocol: 6, ..sent6() }, false),
        (Ipv6Frame { protocol: 99, ..sent6() }, false),
        (Ipv6Frame { destination: ROUTER6, ..sent6() }, false),
        (Ipv6Frame { source: POD_B6, ..sent6() }, false),
        (received6(), false),
        (Ipv6Frame { version: 4, ..sent6() }, false),
        (Ipv6Frame { payload: sent6().payload[..7].to_vec(), ..sent6() }, false),
        (Ipv6Frame { protocol: 58, payload: error(1, &received6().packet()), ..sent6() }, false),
    ]
}

#[test]
fn the_quoted_header_decides() {
    let mut node = with_marked_flows();
    for (quoted, marked) in quotes() {
        let expect = if marked { Expect::stack() } else { Expect::redirect().rx(POD_A) };
        node.check(FromEni, node.eni_1, &inbound(&node, error(3, &quoted.packet())), expect);
    }
    for (quoted, marked) in quotes6() {
        let expect = if marked { Expect::stack() } else { Expect::redirect().rx(POD_A6) };
        node.check(FromEni, node.eni_1, &inbound6(&node, error(2, &quoted.packet())), expect);
    }
    // However little of it is there.
    let (packet, packet6) = (sent().packet(), sent6().packet());
    for len in 0..40 {
        let expect = if len >= 28 { Expect::stack() } else { Expect::redirect().rx(POD_A) };
        node.check(FromEni, node.eni_1, &inbound(&node, error(3, &packet[..len])), expect);
    }
    for len in 0..60 {
        let expect = if len >= 48 { Expect::stack() } else { Expect::redirect().rx(POD_A6) };
        node.check(FromEni, node.eni_1, &inbound6(&node, error(3, &packet6[..len])), expect);
    }
}

#[test]
fn an_echo_is_quoted_by_its_identifier() {
    let mut node = Node::new();
    let id = [0xab, 0xcd];
    let echo = |icmp_type| vec![icmp_type, 0, 0, 0, id[0], id[1], 0, 1];
    let request = Ipv4Frame { protocol: 1, payload: echo(8), ..sent() };
    let request6 = Ipv6Frame { protocol: 58, payload: echo(128), ..sent6() };
    for (before, after) in [(Expect::redirect(), true), (Expect::stack(), false)] {
        let (mut expect, mut expect6) = (before.clone(), before);
        if after {
            (expect, expect6) = (expect.rx(POD_A), expect6.rx(POD_A6));
        }
        node.check(FromEni, node.eni_1, &inbound(&node, error(11, &request.packet())), expect);
        node.check(FromEni, node.eni_1, &inbound6(&node, error(3, &request6.packet())), expect6);
        if after {
            let reply =
                Ipv4Frame { source: VPC_HOST, destination: POD_A, payload: echo(0), ..request.clone() };
            node.check(ToPod, node.pod_a, &reply.build(), Expect::pass().rx(POD_A).marks(2));
            let reply =
                Ipv6Frame { source: VPC_HOST6, destination: POD_A6, payload: echo(129), ..request6.clone() };
            node.check(ToPod, node.pod_a, &reply.build(), Expect::pass().rx(POD_A6).marks(2));
        }
    }
}

#[test]
fn an_error_marks_nothing() {
    let mut node = Node::new();
    let (message, message6) = (error(3, &sent().packet()), error(1, &sent6().packet()));
    node.check(ToPod, node.pod_a, &inbound(&node, message), Expect::pass().rx(POD_A));
    node.check(ToPod, node.pod_a, &inbound6(&node, message6), Expect::pass().rx(POD_A6));
    assert_eq!(node.dataplane.stack_flows().unwrap(), []);
}
