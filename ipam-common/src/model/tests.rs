//! The model by itself, on packets whose fate can be said without it.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::Mac;

const POD: Ipv4Octets = Ipv4Octets { octets: [10, 0, 0, 5] };
const OTHER_POD: Ipv4Octets = Ipv4Octets { octets: [10, 0, 0, 6] };
const VPC_HOST: Ipv4Octets = Ipv4Octets { octets: [10, 9, 9, 9] };
const POD_MAC: Mac = Mac { octets: [2, 0, 0, 0, 0, 5] };
const ENI_MAC: Mac = Mac { octets: [2, 0, 0, 0, 1, 0] };
const GATEWAY_MAC: Mac = Mac { octets: [2, 0, 0, 0, 1, 1] };

fn ipv4(source: Ipv4Octets, destination: Ipv4Octets) -> Vec<u8> {
    let header = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
    [&[2, 0, 0, 0, 0, 1], &POD_MAC.octets[..], &[8, 0], &header, &source.octets, &destination.octets].concat()
}

fn judge(hook: Hook, ifindex: u32, bytes: &mut [u8]) -> Outcome {
    let route = PodRoute { ifindex: 7, epoch: 1, eni: 1, flags: 0, mac: POD_MAC, reserved: [0; 2] };
    let eni = Eni { ifindex: 3, mtu: 1500, flags: 0, mac: ENI_MAC, gateway_mac: GATEWAY_MAC };
    let maps = Maps {
        routes: &[(POD, route), (OTHER_POD, PodRoute { ifindex: 8, ..route })],
        enis: &[(1, eni)],
        stack_cidrs: &[(Ipv4Octets { octets: [10, 96, 0, 0] }, 12)],
    };
    let arrival = Arrival { hook, ifindex, to_host: true, tag_beside: false, gso_size: 0 };
    decide(&Specified, &maps, &arrival, bytes)
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
}

#[test]
fn the_stack_keeps_its_own() {
    for destination in [[10, 96, 0, 1], [10, 111, 255, 255], [169, 254, 1, 1], [224, 0, 0, 1], [255; 4]] {
        let outcome = judge(Hook::FromPod, 7, &mut ipv4(POD, Ipv4Octets { octets: destination }));
        assert_eq!((outcome.verdict, outcome.sent_by), (Verdict::Stack, Some(POD)), "{destination:?}");
    }
    for destination in [[10, 95, 255, 255], [10, 112, 0, 0], [223, 255, 255, 255], [169, 253, 0, 0]] {
        let outcome = judge(Hook::FromPod, 7, &mut ipv4(POD, Ipv4Octets { octets: destination }));
        assert_eq!(outcome.verdict, Verdict::Out(3), "{destination:?}");
    }
}

#[test]
fn a_spoof_has_its_reason_and_counts_for_no_pod() {
    let stranger = Ipv4Octets { octets: [10, 0, 0, 9] };
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
    }
}
