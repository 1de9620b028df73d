//! How long the programs take (`BPF_PROG_TEST_RUN`, of which some 20 ns are its own). Not an assertion: this machine is shared.

use ipam_agent::dataplane::Program::{FromEni, FromPod, ToEni, ToPod};
use ipam_agent::dataplane::TestFrame;
use ipam_common::Mac;
use ipam_lab::packets::{Ipv4Frame, ipv6::Ipv6Frame};

use crate::fixture::{
    GATEWAY_1, Node, POD_A, POD_A6, POD_B, POD_B6, TC_ACT_REDIRECT, TC_ACT_UNSPEC, VPC_HOST, VPC_HOST6, route,
};

#[test]
fn time_of_one_run() {
    let mut node = Node::new();
    // The frame must pass again after its MACs were rewritten: let pod and ENI have one MAC.
    let mac = node.eni_1_mac;
    for ip in [POD_A.into(), std::net::IpAddr::from(POD_A6)] {
        node.dataplane.set_route(ip, &route(node.pod_a, mac, 1)).unwrap();
    }
    let (pod_a, eni_1) = (node.pod_a, node.eni_1);
    let v4 = |from: Mac, source, destination| Ipv4Frame::udp(from, mac, source, destination).build();
    let v6 = |from: Mac, source, destination| Ipv6Frame::udp(from, mac, source, destination).build();
    for (name, program, ifindex, bytes, action) in [
        ("IPv4 from_pod to the VPC", FromPod, pod_a, v4(mac, POD_A, VPC_HOST), TC_ACT_REDIRECT),
        ("IPv4 from_pod to a local pod", FromPod, pod_a, v4(mac, POD_A, POD_B), TC_ACT_REDIRECT),
        ("IPv4 from_eni to a local pod", FromEni, eni_1, v4(GATEWAY_1, VPC_HOST, POD_A), TC_ACT_REDIRECT),
        ("IPv4 to_pod, marked", ToPod, pod_a, v4(GATEWAY_1, VPC_HOST, POD_B), TC_ACT_UNSPEC),
        ("IPv4 to_eni, marked", ToEni, eni_1, v4(mac, POD_A, VPC_HOST), TC_ACT_UNSPEC),
        ("IPv6 from_pod to the VPC", FromPod, pod_a, v6(mac, POD_A6, VPC_HOST6), TC_ACT_REDIRECT),
        ("IPv6 from_pod to a local pod", FromPod, pod_a, v6(mac, POD_A6, POD_B6), TC_ACT_REDIRECT),
        ("IPv6 from_eni to a local pod", FromEni, eni_1, v6(GATEWAY_1, VPC_HOST6, POD_A6), TC_ACT_REDIRECT),
        ("IPv6 to_pod, marked", ToPod, pod_a, v6(GATEWAY_1, VPC_HOST6, POD_B6), TC_ACT_UNSPEC),
        ("IPv6 to_eni, marked", ToEni, eni_1, v6(mac, POD_A6, VPC_HOST6), TC_ACT_UNSPEC),
    ] {
        let frame = TestFrame { bytes: &bytes, ifindex, gso_size: 0, repeat: 20_000 };
        let runs = (0..10).map(|_| node.in_netns(|dataplane| dataplane.test_run(program, &frame)).unwrap());
        let best = runs.map(|run| (run.action, run.duration)).min().unwrap();
        assert_eq!(best.0, action, "{name}");
        println!("{name}: {} ns", best.1.as_nanos());
    }
}
