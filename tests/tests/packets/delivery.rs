//! Where packets really arrive: real veths, real sockets, two pods and two ENIs.
//!
//! Both fabrics own the address of the VPC host, so which of them hears a packet tells the ENI by which it left. The
//! node does not forward: nothing here reaches its goal but by the programs.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ipam_agent::dataplane::{Attached, Dataplane};
use ipam_common::{DropReason, Eni, PodStats};

use ipam_lab::lab::patience::patient;
use ipam_lab::packets::{Ipv4Frame, SERVICE_VLAN, VLAN, ipv6::Ipv6Frame};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::fixture::{Netns, POD_A, POD_A6, POD_B, PinDir, VPC_HOST, VPC_HOST6, route};
use crate::raw::Raw;

const PORT: u16 = 7000;
/// Ethernet, IPv4 and UDP header.
const HEADERS: u64 = 14 + 20 + 8;

struct Network {
    node: Netns,
    pods: [Netns; 2],
    fabrics: [Netns; 2],
    dataplane: Dataplane,
    pins: PinDir,
}

const PODS: [(&str, Ipv4Addr); 2] = [("pod-a", POD_A), ("pod-b", POD_B)];
const ENIS: [&str; 2] = ["eni-1", "eni-2"];

impl Network {
    /// Pod A on ENI 1, pod B on ENI 2.
    fn new() -> Self {
        let (node, pins) = (Netns::new(), PinDir::new());
        let pods = PODS.map(|(name, ip)| pod(&node, name, ip));
        let fabrics = ENIS.map(|name| fabric(&node, name));
        let dataplane = open(&node, pins.path());
        let mut network = Self { node, pods, fabrics, dataplane, pins };
        network.attach();
        for (index, (name, ip)) in PODS.into_iter().enumerate() {
            let mac = network.pods[index].mac("eth0");
            let eni = u16::try_from(index).unwrap() + 1;
            network.dataplane.set_route(ip, &route(network.node.ifindex(name), mac, eni)).unwrap();
        }
        for (slot, name) in (1..).zip(ENIS) {
            let fabric = &network.fabrics[usize::try_from(slot).unwrap() - 1];
            let eni = Eni {
                ifindex: network.node.ifindex(name),
                mtu: 1500,
                mac: network.node.mac(name),
                gateway_mac: fabric.mac("fab"),
                ..Eni::EMPTY
            };
            network.dataplane.set_eni(slot, &eni).unwrap();
        }
        network
    }

    /// Attaches everything, in the node's namespace.
    fn attach(&mut self) -> Vec<Attached> {
        let pods = PODS.map(|(name, _)| (name, self.node.ifindex(name)));
        let enis = ENIS.map(|name| (name, self.node.ifindex(name)));
        let dataplane = &mut self.dataplane;
        self.node.scoped(move || {
            let pods = pods.map(|(name, ifindex)| dataplane.attach_pod(ifindex, name).unwrap());
            let enis = enis.map(|(name, ifindex)| dataplane.attach_eni(ifindex, name).unwrap());
            [pods, enis].concat()
        })
    }

    fn stats(&self, ip: Ipv4Addr) -> PodStats {
        self.dataplane.pod_stats(ip).unwrap().unwrap()
    }

    /// The drops, as soon as there are `total` (or after 5 s).
    fn drops_once_there_are(&self, total: u64) -> Vec<(DropReason, u64)> {
        let deadline = Instant::now() + patient(Duration::from_secs(5));
        while self.drops().iter().map(|(_, packets)| packets).sum::<u64>() < total
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        self.drops()
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        let drops = self.dataplane.drops().unwrap().into_iter();
        drops.map(|(reason, count)| (reason, count.packets)).filter(|(_, packets)| *packets != 0).collect()
    }
}

fn open(node: &Netns, pins: &Path) -> Dataplane {
    let pins = pins.to_owned();
    node.run(move || Dataplane::open(&pins).unwrap())
}

fn pod(node: &Netns, name: &str, ip: Ipv4Addr) -> Netns {
    let pod = Netns::new();
    node.veth(name, &pod, "eth0");
    let gateway_mac = mac_text(node, name);
    pod.ip(&format!("addr add {ip}/32 dev eth0"));
    pod.ip("route add 169.254.1.1 dev eth0 scope link");
    pod.ip("route add default via 169.254.1.1 dev eth0");
    pod.ip(&format!("neigh add 169.254.1.1 dev eth0 lladdr {gateway_mac} nud permanent"));
    pod
}

fn fabric(node: &Netns, eni: &str) -> Netns {
    let fabric = Netns::new();
    node.veth(eni, &fabric, "fab");
    let eni_mac = mac_text(node, eni);
    fabric.ip(&format!("addr add {VPC_HOST}/32 dev fab"));
    for (_, ip) in PODS {
        fabric.ip(&format!("route add {ip}/32 dev fab"));
        fabric.ip(&format!("neigh add {ip} dev fab lladdr {eni_mac} nud permanent"));
    }
    fabric
}

fn mac_text(netns: &Netns, ifname: &str) -> String {
    netns.mac(ifname).octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// A socket in a namespace; it stays there wherever it is used.
fn socket(netns: &Netns, ip: Ipv4Addr) -> UdpSocket {
    let socket = netns.run(move || UdpSocket::bind((ip, PORT)).unwrap());
    socket.set_read_timeout(Some(patient(Duration::from_secs(10)))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, Ipv4Addr) {
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram in time");
    let std::net::IpAddr::V4(from) = from.ip() else { unreachable!("an IPv4 socket") };
    (buffer[..len].to_vec(), from)
}

fn assert_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn packets_leave_by_the_eni_of_their_source_and_come_back_to_the_pod() {
    let network = Network::new();
    let hosts = [0, 1].map(|index| socket(&network.fabrics[index], VPC_HOST));
    let pods = [0, 1].map(|index| socket(&network.pods[index], PODS[index].1));
    for index in [0, 1] {
        let (ip, other) = (PODS[index].1, &hosts[1 - index]);
        pods[index].send_to(b"there", (VPC_HOST, PORT)).unwrap();
        assert_eq!(receive(&hosts[index]), (b"there".to_vec(), ip));
        assert_nothing(other);
        hosts[index].send_to(b"and back", (ip, PORT)).unwrap();
        assert_eq!(receive(&pods[index]), (b"and back".to_vec(), VPC_HOST));
        let expected =
            PodStats { tx_packets: 1, tx_bytes: HEADERS + 5, rx_packets: 1, rx_bytes: HEADERS + 8 };
        assert_eq!(network.stats(ip), expected, "{ip}");
    }
    assert_eq!(network.drops(), []);
}

#[test]
fn a_route_that_moves_to_another_eni_takes_the_packets_along() {
    let mut network = Network::new();
    let hosts = [0, 1].map(|index| socket(&network.fabrics[index], VPC_HOST));
    let pod = socket(&network.pods[0], POD_A);
    let moved =
        ipam_common::PodRoute { eni: 2, epoch: 2, ..network.dataplane.route(POD_A).unwrap().unwrap() };
    network.dataplane.set_route(POD_A, &moved).unwrap();
    pod.send_to(b"moved", (VPC_HOST, PORT)).unwrap();
    assert_eq!(receive(&hosts[1]), (b"moved".to_vec(), POD_A));
    assert_nothing(&hosts[0]);
}

#[test]
fn pods_of_one_node_reach_each_other_and_no_eni_sees_it() {
    let network = Network::new();
    let [a, b] = [0, 1].map(|index| socket(&network.pods[index], PODS[index].1));
    let hosts = [0, 1].map(|index| socket(&network.fabrics[index], VPC_HOST));
    a.send_to(b"hello", (POD_B, PORT)).unwrap();
    assert_eq!(receive(&b), (b"hello".to_vec(), POD_A));
    b.send_to(b"hi", (POD_A, PORT)).unwrap();
    assert_eq!(receive(&a), (b"hi".to_vec(), POD_B));
    hosts.iter().for_each(assert_nothing);
    let (stats_a, stats_b) = (network.stats(POD_A), network.stats(POD_B));
    assert_eq!((stats_a.tx_packets, stats_a.rx_packets), (1, 1));
    assert_eq!((stats_b.tx_packets, stats_b.rx_packets), (1, 1));
}

#[test]
fn a_pod_that_takes_another_address_or_mac_is_cut_off() {
    let network = Network::new();
    let host = socket(&network.fabrics[0], VPC_HOST);
    network.pods[0].ip("addr add 10.0.0.99/32 dev eth0");
    let thief = socket(&network.pods[0], Ipv4Addr::new(10, 0, 0, 99));
    thief.send_to(b"stolen", (VPC_HOST, PORT)).unwrap();
    network.pods[0].ip(&format!("addr add {POD_B}/32 dev eth0"));
    let thief = socket(&network.pods[0], POD_B);
    thief.send_to(b"stolen", (VPC_HOST, PORT)).unwrap();
    network.pods[1].ip("link set eth0 address 02:00:00:00:00:77");
    // The change made the pod forget its gateway.
    let gateway_mac = mac_text(&network.node, "pod-b");
    network.pods[1].ip(&format!("neigh replace 169.254.1.1 dev eth0 lladdr {gateway_mac} nud permanent"));
    let other_mac = socket(&network.pods[1], POD_B);
    other_mac.send_to(b"stolen", (VPC_HOST, PORT)).unwrap();
    let expected =
        [(DropReason::UnknownSource, 1), (DropReason::WrongInterface, 1), (DropReason::WrongSourceMac, 1)];
    assert_eq!(network.drops(), expected);
    assert_nothing(&host);
}

#[test]
fn ipv4_too_short_for_its_header_is_dropped_from_a_pod_and_left_to_the_stack_from_an_eni() {
    let network = Network::new();
    let frame =
        Ipv4Frame::udp(network.pods[0].mac("eth0"), network.node.mac("pod-a"), POD_A, VPC_HOST).build();
    let raw = Raw::new(&network.pods[0], "eth0");
    for len in 14..34 {
        raw.send(&frame[..len]);
    }
    assert_eq!(network.drops_once_there_are(20), [(DropReason::Malformed, 20)]);
    assert_eq!(network.stats(POD_A), PodStats::default());

    let to_pod =
        Ipv4Frame::udp(network.fabrics[0].mac("fab"), network.node.mac("eni-1"), VPC_HOST, POD_A).build();
    let raw = Raw::new(&network.fabrics[0], "fab");
    for len in 14..=34 {
        raw.send(&to_pod[..len]);
    }
    // The last one has a header, and is the only one counted.
    let deadline = Instant::now() + patient(Duration::from_secs(5));
    while network.stats(POD_A).rx_packets == 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(network.stats(POD_A), PodStats { rx_packets: 1, rx_bytes: 34, ..PodStats::default() });
    assert_eq!(network.drops(), [(DropReason::Malformed, 20)]);
}

#[test]
fn ipv6_too_short_for_its_header_is_dropped_from_a_pod_and_left_to_the_stack_from_an_eni() {
    let mut network = Network::new();
    let mac = network.pods[0].mac("eth0");
    network.dataplane.set_route(POD_A6, &route(network.node.ifindex("pod-a"), mac, 1)).unwrap();
    let frame = Ipv6Frame::udp(mac, network.node.mac("pod-a"), POD_A6, VPC_HOST6).build();
    let raw = Raw::new(&network.pods[0], "eth0");
    for len in 14..54 {
        raw.send(&frame[..len]);
    }
    assert_eq!(network.drops_once_there_are(40), [(DropReason::Malformed, 40)]);
    let stats = || network.dataplane.pod_stats(POD_A6).unwrap().unwrap();
    assert_eq!(stats(), PodStats::default());

    let (fabric_mac, eni_mac) = (network.fabrics[0].mac("fab"), network.node.mac("eni-1"));
    let to_pod = Ipv6Frame::udp(fabric_mac, eni_mac, VPC_HOST6, POD_A6).build();
    let raw = Raw::new(&network.fabrics[0], "fab");
    for len in 14..=54 {
        raw.send(&to_pod[..len]);
    }
    // The last one has a header, and is the only one counted.
    let deadline = Instant::now() + patient(Duration::from_secs(5));
    while stats().rx_packets == 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(stats(), PodStats { rx_packets: 1, rx_bytes: 54, ..PodStats::default() });
    assert_eq!(network.drops(), [(DropReason::Malformed, 40)]);
}

#[test]
fn a_tag_that_the_kernel_took_off_is_seen() {
    let network = Network::new();
    let host = socket(&network.fabrics[0], VPC_HOST);
    let packet =
        Ipv4Frame::udp(network.pods[0].mac("eth0"), network.node.mac("pod-a"), POD_A, VPC_HOST).build();
    let tagged = [&packet[..12], &VLAN.to_be_bytes(), &[0, 5], &packet[12..]].concat();
    let doubly = [&packet[..12], &SERVICE_VLAN.to_be_bytes(), &[0, 5], &tagged[12..]].concat();
    let raw = Raw::new(&network.pods[0], "eth0");
    raw.send(&tagged);
    raw.send(&doubly);
    assert_eq!(network.drops_once_there_are(2), [(DropReason::VlanTagged, 2)]);
    assert_nothing(&host);
    assert_eq!(network.stats(POD_A), PodStats::default());

    // From the VPC a tagged packet is not the pod's, whoever it is addressed to.
    let incoming =
        Ipv4Frame::udp(network.fabrics[0].mac("fab"), network.node.mac("eni-1"), VPC_HOST, POD_A).build();
    let raw = Raw::new(&network.fabrics[0], "fab");
    raw.send(&[&incoming[..12], &VLAN.to_be_bytes(), &[0, 5], &incoming[12..]].concat());
    raw.send(&incoming);
    let deadline = Instant::now() + patient(Duration::from_secs(5));
    while network.stats(POD_A).rx_packets == 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    // Not compared whole: the pod answers with an ICMP error.
    let stats = network.stats(POD_A);
    assert_eq!((stats.rx_packets, stats.rx_bytes), (1, 54), "the untagged one only");
}

#[test]
fn replacing_the_programs_under_traffic_loses_no_packet() {
    const PACKETS: u32 = 20_000;
    const REPLACEMENTS: u32 = 2;
    /// Takes the place of a number in the last packet.
    const END: u32 = u32::MAX;
    let mut network = Network::new();
    let (host, pod) = (socket(&network.fabrics[0], VPC_HOST), socket(&network.pods[0], POD_A));
    // Room for all of them, should the receiver not get the processor.
    set_socket_recv_buffer_size_force(&host, 64 << 20).unwrap();
    let replacements = Arc::new(AtomicU32::new(0));
    let replaced = replacements.clone();
    let sender = thread::spawn(move || {
        let send = |number: u32| pod.send_to(&number.to_be_bytes(), (VPC_HOST, PORT)).unwrap();
        let mut sent = 0;
        while sent < PACKETS || replaced.load(Ordering::Relaxed) < REPLACEMENTS {
            send(sent);
            sent += 1;
            thread::sleep(Duration::from_micros(50));
        }
        send(END);
        sent
    });
    let receiver = thread::spawn(move || {
        let mut next = 0;
        loop {
            let (bytes, _) = receive(&host);
            match u32::from_be_bytes(bytes.try_into().unwrap()) {
                END => return next,
                number => assert_eq!(number, next, "lost or reordered"),
            }
            next += 1;
        }
    });
    while !sender.is_finished() {
        network.dataplane = open(&network.node, network.pins.path());
        assert_eq!(network.attach(), [Attached::Replaced; 4]);
        replacements.fetch_add(1, Ordering::Relaxed);
    }
    let sent = sender.join().unwrap();
    assert_eq!(receiver.join().unwrap(), sent);
    assert_eq!(network.stats(POD_A).tx_packets, u64::from(sent) + 1);
    let replacements = replacements.load(Ordering::Relaxed);
    println!("{sent} packets, {replacements} replacements of all programs, 0 lost");
}
