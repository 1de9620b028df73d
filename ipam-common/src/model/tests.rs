//! The model by itself, on packets whose fate can be said without it.

extern crate std;

use core::net::{Ipv4Addr, Ipv6Addr};
use std::{vec, vec::Vec};

use super::*;
use crate::{DropCount, DropReason, Mac, PodStats};

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
const OTHER_POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 6));
const VPC_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const POD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5));
const VPC_HOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9));
const ROUTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const POD_MAC: Mac = Mac { octets: [2, 0, 0, 0, 0, 5] };
const ENI_MAC: Mac = Mac { octets: [2, 0, 0, 0, 1, 0] };
const GATEWAY_MAC: Mac = Mac { octets: [2, 0, 0, 0, 1, 1] };
const GATEWAY_MAC_V6: Mac = Mac { octets: [2, 0, 0, 0, 1, 6] };
const POD_PORT: u16 = 1000;
const PEER_PORT: u16 = 53;

/// An IP packet without the Ethernet header.
fn packet(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (20 + len).to_be_bytes();
            let header = [0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
            [&header, &source.octets()[..], &destination.octets(), payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = len.to_be_bytes();
            let header = [0x60, 0, 0, 0, high, low, protocol, 255];
            [&header, &source.octets()[..], &destination.octets(), payload].concat()
        }
        _ => panic!("one family"),
    }
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet[0] / 16 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 1], &POD_MAC.octets[..], &ether_type, packet].concat()
}

fn udp(source: IpAddr, destination: IpAddr, source_port: u16, destination_port: u16) -> Vec<u8> {
    let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    packet(17, source, destination, &[&ports[..], &[0, 8, 0, 0]].concat())
}

fn ipv4(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    frame(&packet(17, source, destination, &[]))
}

fn icmpv6(source: IpAddr, destination: IpAddr, kind: u8, body: &[u8]) -> Vec<u8> {
    frame(&packet(58, source, destination, &[&[kind, 0, 0, 0], body].concat()))
}

fn judge_with(flows: &[StackFlow], hook: Hook, ifindex: u32, bytes: &mut [u8]) -> Outcome {
    let route = PodRoute { ifindex: 7, epoch: 1, eni: 1, flags: 0, mac: POD_MAC, reserved: [0; 2] };
    let eni = Eni {
        ifindex: 3,
        mtu: 1500,
        mac: ENI_MAC,
        gateway_mac: GATEWAY_MAC,
        gateway_mac_v6: GATEWAY_MAC_V6,
        ..Eni::EMPTY
    };
    let maps = Maps {
        routes: &[(POD, route), (OTHER_POD, PodRoute { ifindex: 8, ..route }), (POD_V6, route)],
        enis: &[(1, eni)],
        stack_cidrs: &[(Ipv4Addr::new(10, 96, 0, 0).into(), 12)],
        node_addrs: &[(NODE, 1)],
        flows,
    };
    let arrival = Arrival { hook, ifindex, to_host: true, tag_beside: false, redirected: false, gso_size: 0 };
    decide(&Specified, &maps, &arrival, bytes)
}

fn judge(hook: Hook, ifindex: u32, bytes: &mut [u8]) -> Outcome {
    judge_with(&[], hook, ifindex, bytes)
}

fn marks(outcome: &Outcome) -> Vec<StackFlow> {
    outcome.marks.iter().copied().collect()
}

#[test]
fn to_the_vpc_by_the_eni_with_its_macs() {
    let mut bytes = ipv4(POD, VPC_HOST);
    let outcome = judge(Hook::FromPod, 7, &mut bytes);
    assert_eq!(outcome.verdict, Verdict::Out(3));
    assert_eq!(bytes[..12], [GATEWAY_MAC.octets, ENI_MAC.octets].concat());
    assert_eq!(bytes[12..], ipv4(POD, VPC_HOST)[12..]);
    assert_eq!(outcome.pod_delta(POD), PodStats { tx_packets: 1, tx_bytes: 34, ..PodStats::default() });
    assert_eq!(outcome.pod_delta(OTHER_POD), PodStats::default());

    let mut bytes = frame(&udp(POD_V6, VPC_HOST_V6, POD_PORT, PEER_PORT));
    assert_eq!(judge(Hook::FromPod, 7, &mut bytes).verdict, Verdict::Out(3));
    assert_eq!(bytes[..12], [GATEWAY_MAC_V6.octets, ENI_MAC.octets].concat());
}

#[test]
fn to_a_local_pod_from_either_side() {
    let mut bytes = ipv4(POD, OTHER_POD);
    let outcome = judge(Hook::FromPod, 7, &mut bytes);
    assert_eq!((outcome.verdict, outcome.sent_by), (Verdict::IntoPod(8), Some(POD)));
    assert_eq!(outcome.received_by, Some(OTHER_POD));
    let outcome = judge(Hook::FromEni, 3, &mut bytes);
    assert_eq!((outcome.verdict, outcome.sent_by), (Verdict::IntoPod(8), None));
    assert_eq!(bytes, ipv4(POD, OTHER_POD));
    let mut bytes = frame(&udp(VPC_HOST_V6, POD_V6, PEER_PORT, POD_PORT));
    assert_eq!(judge(Hook::FromEni, 3, &mut bytes).verdict, Verdict::IntoPod(7));
}

#[test]
fn the_stack_keeps_its_own() {
    for destination in [[10, 96, 0, 1], [10, 111, 255, 255], [169, 254, 1, 1], [224, 0, 0, 1], [255; 4]] {
        let outcome = judge(Hook::FromPod, 7, &mut ipv4(POD, destination.into()));
        assert_eq!((outcome.verdict, outcome.sent_by), (Verdict::Stack, Some(POD)), "{destination:?}");
    }
    for destination in [[10, 95, 255, 255], [10, 112, 0, 0], [223, 255, 255, 255], [169, 253, 0, 0]] {
        let outcome = judge(Hook::FromPod, 7, &mut ipv4(POD, destination.into()));
        assert_eq!(outcome.verdict, Verdict::Out(3), "{destination:?}");
    }
}

#[test]
fn a_spoof_has_its_reason_and_counts_for_no_pod() {
    let stranger = Ipv4Addr::new(10, 0, 0, 9).into();
    for (source, ifindex, reason) in [
        (stranger, 7, DropReason::UnknownSource),
        (OTHER_POD, 7, DropReason::WrongInterface),
        (POD, 9, DropReason::WrongInterface),
    ] {
        let outcome = judge(Hook::FromPod, ifindex, &mut ipv4(source, VPC_HOST));
        assert_eq!((outcome.verdict, outcome.sent_by), (Verdict::Drop(reason), None));
        assert_eq!(outcome.drop_delta(reason), DropCount { packets: 1, bytes: 34 });
    }
}

#[test]
fn every_length_is_judged_without_a_panic() {
    let whole = ipv4(POD, VPC_HOST);
    for len in 0..whole.len() {
        let outcome = judge(Hook::FromPod, 7, &mut whole[..len].to_vec());
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::Malformed), "{len}");
        assert_eq!(judge(Hook::FromEni, 3, &mut whole[..len].to_vec()).verdict, Verdict::Stack, "{len}");
        for hook in [Hook::ToPod, Hook::ToEni] {
            assert_eq!(judge(hook, 3, &mut whole[..len].to_vec()).verdict, Verdict::Pass, "{len}");
        }
    }
}

#[test]
fn what_the_stack_delivers_stays_with_it_in_both_directions() {
    for (pod, peer) in [(POD, VPC_HOST), (POD_V6, VPC_HOST_V6)] {
        let to_pod = udp(peer, pod, PEER_PORT, POD_PORT);
        let delivered = judge(Hook::ToPod, 7, &mut frame(&to_pod));
        assert_eq!((delivered.verdict, delivered.received_by), (Verdict::Pass, Some(pod)));
        let flows = marks(&delivered);
        assert_eq!(flows.len(), 2);
        assert_eq!(
            (flows[0].pod_port, flows[0].peer_port),
            (POD_PORT.to_be_bytes(), PEER_PORT.to_be_bytes())
        );
        assert_eq!(marks(&judge_with(&flows, Hook::ToPod, 7, &mut frame(&to_pod))), []);

        let answer = udp(pod, peer, POD_PORT, PEER_PORT);
        assert_eq!(judge_with(&flows, Hook::FromPod, 7, &mut frame(&answer)).verdict, Verdict::Stack);
        assert_eq!(judge_with(&flows, Hook::FromEni, 3, &mut frame(&to_pod)).verdict, Verdict::Stack);
        let other = frame(&udp(pod, peer, POD_PORT, PEER_PORT + 1));
        assert_eq!(judge_with(&flows, Hook::FromPod, 7, &mut other.clone()).verdict, Verdict::Out(3));

        // Errors of the flow: of what the pod received, and of what it sent.
        let (number, kind) = if pod.is_ipv4() { (1, 3) } else { (58, 1) };
        let error = |source, destination, quoted: &[u8]| {
            frame(&packet(number, source, destination, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()))
        };
        let mut of_pod = error(pod, peer, &to_pod);
        assert_eq!(judge_with(&flows, Hook::FromPod, 7, &mut of_pod).verdict, Verdict::Stack);
        let mut of_router = error(peer, pod, &answer);
        assert_eq!(judge_with(&flows, Hook::FromEni, 3, &mut of_router).verdict, Verdict::Stack);
        assert_eq!(marks(&judge(Hook::ToPod, 7, &mut of_router)), []);
        let mut of_other = error(peer, pod, &other[frame::ETHERNET_LEN..]);
        assert_eq!(judge_with(&flows, Hook::FromEni, 3, &mut of_other).verdict, Verdict::IntoPod(7));
    }
}

#[test]
fn what_the_stack_sends_leaves_by_its_owner() {
    let mut bytes = frame(&udp(POD, VPC_HOST, POD_PORT, PEER_PORT));
    let outcome = judge(Hook::ToEni, 4, &mut bytes);
    assert_eq!((outcome.verdict, marks(&outcome).len()), (Verdict::Out(3), 2));
    assert_eq!(bytes[..12], [GATEWAY_MAC.octets, ENI_MAC.octets].concat());
    let outcome = judge(Hook::ToEni, 3, &mut bytes);
    assert_eq!((outcome.verdict, marks(&outcome).len()), (Verdict::Pass, 2));
    let outcome = judge(Hook::ToEni, 4, &mut frame(&udp(NODE, VPC_HOST, 1, 2)));
    assert_eq!((outcome.verdict, marks(&outcome)), (Verdict::Out(3), vec![]));
    // Neighbour discovery stays where it is.
    let mut solicitation = icmpv6(POD_V6, VPC_HOST_V6, 135, &[0; 20]);
    assert_eq!(judge(Hook::ToEni, 4, &mut solicitation).verdict, Verdict::Pass);
    let mut echo = icmpv6(POD_V6, VPC_HOST_V6, 128, &[0; 4]);
    assert_eq!(judge(Hook::ToEni, 4, &mut echo).verdict, Verdict::Out(3));
}

#[test]
fn a_pod_is_neither_its_neighbour_nor_a_router_nor_a_dhcp_server() {
    let drop = |reason| Verdict::Drop(reason);
    let octets = |addr| match addr {
        IpAddr::V6(addr) => Ipv6Addr::octets(&addr),
        IpAddr::V4(_) => panic!("IPv6"),
    };
    let advertise = |target: IpAddr, mac: Mac| {
        let body = [&[0; 4], &octets(target)[..], &[2, 1], &mac.octets].concat();
        judge(Hook::FromPod, 7, &mut icmpv6(POD_V6, ROUTER_V6, 136, &body)).verdict
    };
    assert_eq!(advertise(POD_V6, POD_MAC), Verdict::Stack);
    assert_eq!(advertise(ROUTER_V6, ENI_MAC), Verdict::Stack);
    assert_eq!(advertise(POD_V6, ENI_MAC), drop(DropReason::NdSpoof));
    assert_eq!(advertise(VPC_HOST_V6, POD_MAC), drop(DropReason::NdSpoof));
    for (source, kind, verdict) in [
        (POD_V6, 134, drop(DropReason::RouterAdvertisement)),
        (ROUTER_V6, 137, drop(DropReason::RouterAdvertisement)),
        (Ipv6Addr::UNSPECIFIED.into(), 134, drop(DropReason::UnknownSource)),
        (Ipv6Addr::UNSPECIFIED.into(), 133, Verdict::Stack),
        (Ipv6Addr::UNSPECIFIED.into(), 135, drop(DropReason::NdSpoof)),
        (POD_V6, 135, Verdict::Stack),
    ] {
        let outcome = judge(Hook::FromPod, 7, &mut icmpv6(source, ROUTER_V6, kind, &[0; 20]));
        assert_eq!(outcome.verdict, verdict, "{source} {kind}");
    }
    for mut dhcp in [frame(&udp(POD, VPC_HOST, 67, 68)), frame(&udp(ROUTER_V6, ROUTER_V6, 547, 546))] {
        assert_eq!(judge(Hook::FromPod, 7, &mut dhcp).verdict, drop(DropReason::DhcpServer));
    }
}

#[test]
fn nothing_hides_behind_extension_headers() {
    let chain = |headers: usize, destination| {
        // Destination options of eight bytes each, then an advertisement.
        let next = |n| if n + 1 < headers { 60 } else { 58 };
        let options: Vec<u8> = (0..headers).flat_map(|n| [next(n), 0, 1, 4, 0, 0, 0, 0]).collect();
        let message = [&options[..], &[134, 0, 0, 0, 0, 0, 0, 0]].concat();
        judge(Hook::FromPod, 7, &mut frame(&packet(60, POD_V6, destination, &message))).verdict
    };
    assert_eq!(chain(6, ROUTER_V6), Verdict::Drop(DropReason::RouterAdvertisement));
    assert_eq!(chain(7, ROUTER_V6), Verdict::Drop(DropReason::Malformed));
    assert_eq!(chain(7, VPC_HOST_V6), Verdict::Out(3));
}
