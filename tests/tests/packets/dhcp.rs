//! DHCP of both families: pods may ask and not answer.

use ipam_agent::dataplane::Program::FromPod;
use ipam_common::DropReason;
use ipam_lab::packets::{
    Ipv4Frame,
    ipv6::{DESTINATION_OPTIONS, Ipv6Frame, fragment, padding},
};

use crate::fixture::{Expect, HOST, LINK_LOCAL_A, MAC_A, Node, POD_A, POD_A6, POD_B, POD_B6};

/// A datagram of 20 bytes from one port to another.
fn datagram(source: u16, destination: u16) -> Vec<u8> {
    let mut datagram = vec![0; 20];
    datagram[..2].copy_from_slice(&source.to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.to_be_bytes());
    datagram
}

fn v4(payload: Vec<u8>) -> Ipv4Frame {
    Ipv4Frame { payload, ..Ipv4Frame::udp(MAC_A, HOST, POD_A, POD_B) }
}

fn v6(payload: Vec<u8>) -> Ipv6Frame {
    Ipv6Frame { payload, ..Ipv6Frame::udp(MAC_A, HOST, POD_A6, POD_B6) }
}

#[test]
fn a_server_s_answer_is_dropped() {
    let mut node = Node::new();
    let dropped = || Expect::drop(DropReason::DhcpServer);
    let good = v4(datagram(67, 68));
    for frame in [
        good.clone(),
        Ipv4Frame { options: vec![1; 12], ..good.clone() },
        Ipv4Frame { fragment: 0x2000, ..good.clone() },
        Ipv4Frame { payload: datagram(67, 68)[..8].to_vec(), ..good.clone() },
        // Wherever it goes.
        Ipv4Frame { destination: [255; 4].into(), ..good.clone() },
        Ipv4Frame { destination: [127, 0, 0, 1].into(), ..good.clone() },
    ] {
        node.check(FromPod, node.pod_a, &frame.build(), dropped().tx(POD_A));
    }
    let good = v6(datagram(547, 546));
    for frame in [
        good.clone(),
        Ipv6Frame { extensions: vec![padding(DESTINATION_OPTIONS, 1); 6], ..good.clone() },
        Ipv6Frame { extensions: vec![fragment(0, true)], ..good.clone() },
        Ipv6Frame { destination: LINK_LOCAL_A, ..good.clone() },
        Ipv6Frame { destination: std::net::Ipv6Addr::LOCALHOST, ..good.clone() },
    ] {
        node.check(FromPod, node.pod_a, &frame.build(), dropped().tx(POD_A6));
    }
    let link_local = Ipv6Frame { source: LINK_LOCAL_A, destination: LINK_LOCAL_A, ..good };
    node.check(FromPod, node.pod_a, &link_local.build(), dropped());
}

#[test]
fn what_is_no_answer_passes() {
    let mut node = Node::new();
    let passes = Expect::redirect().tx(POD_A).rx(POD_B);
    let answer = datagram(67, 68);
    for frame in [
        v4(datagram(68, 67)),
        v4(datagram(67, 67)),
        v4(datagram(68, 68)),
        v4(datagram(547, 546)),
        v4(datagram(67 << 8, 68 << 8)),
        Ipv4Frame { protocol: 6, ..v4(answer.clone()) },
        Ipv4Frame { protocol: 132, ..v4(answer.clone()) },
        Ipv4Frame { fragment: 0x0001, ..v4(answer.clone()) },
        v4(answer[..7].to_vec()),
    ] {
        node.check(FromPod, node.pod_a, &frame.build(), passes.clone());
    }
    let passes = Expect::redirect().tx(POD_A6).rx(POD_B6);
    let answer = datagram(547, 546);
    for frame in [
        v6(datagram(546, 547)),
        v6(datagram(547, 547)),
        v6(datagram(67, 68)),
        Ipv6Frame { protocol: 6, ..v6(answer.clone()) },
        Ipv6Frame { extensions: vec![fragment(1, false)], ..v6(answer.clone()) },
        Ipv6Frame { extensions: vec![padding(DESTINATION_OPTIONS, 1); 7], ..v6(answer.clone()) },
        v6(answer[..7].to_vec()),
    ] {
        node.check(FromPod, node.pod_a, &frame.build(), passes.clone());
    }
}
