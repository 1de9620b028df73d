//! A pod with NET_RAW tries to be somebody else: each attempt is dropped and counted by its reason, and turns up nowhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipam_common::{DropReason, Mac};
use ipam_lab::lab::traffic::ping;
use ipam_lab::packets::{ArpFrame, IPV6, Ipv4Frame, SERVICE_VLAN, VLAN, ethernet};

use crate::rules::Proxy;
use crate::scene::{Scene, WAIT, run};
use crate::wire::{MARK, Raw, Tap, mac};

/// How often each is tried.
const TIMES: u64 = 3;
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 250);
const BROADCAST: Mac = Mac { octets: [0xff; 6] };
const OTHER_MAC: Mac = Mac { octets: [2, 0, 0, 0xba, 0xd, 1] };

/// A pod that attacks, and what it could reach.
struct Attack {
    scene: Scene,
    raw: Raw,
    taps: Vec<Tap>,
    own_mac: Mac,
    host_mac: Mac,
    /// Where the pod's packets go when they are good.
    to: Ipv4Addr,
}

type Attempt = (String, DropReason, Vec<u8>);

impl Attack {
    async fn new(test: &str) -> Self {
        let scene = Scene::new(test, Proxy::Iptables, &[]).await;
        let ns = scene.client.sandbox.ns();
        let lab = &scene.cluster.lab;
        let around = [lab.fabric().ns(), lab.ctl().ns(), scene.local.sandbox.ns(), scene.remote.sandbox.ns()];
        let taps = around.into_iter().map(Tap::new).collect();
        ping(ns, lab.ctl().ip(), WAIT).unwrap();
        let neighbour = run(ns, &["ip", "neigh", "show", "169.254.1.1"]);
        let host_mac = neighbour.split_whitespace().find(|word| word.len() == 17).unwrap();
        let host_mac = ipam_agent::netlink::parse_mac(host_mac).unwrap();
        let (raw, own_mac, to) = (Raw::new(ns, "eth0"), mac(ns, "eth0"), lab.ctl().ip());
        Self { raw, taps, own_mac, host_mac, to, scene }
    }

    /// A datagram with the mark in it.
    fn datagram(&self, source: Ipv4Addr) -> Ipv4Frame {
        let mut frame = Ipv4Frame::udp(self.own_mac, self.host_mac, source, self.to);
        set_udp(&mut frame.payload, (40_000, 40_001));
        frame
    }

    fn with(&self, change: impl FnOnce(&mut Ipv4Frame)) -> Vec<u8> {
        let mut frame = self.datagram(self.own());
        change(&mut frame);
        frame.build()
    }

    fn own(&self) -> Ipv4Addr {
        self.scene.client.ip()
    }

    /// An ARP message with the mark behind it.
    fn arp(&self, operation: u16, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut message = ArpFrame::request(self.own_mac, sender, target);
        (message.operation, message.sender_mac) = (operation, sender_mac);
        [message.build().as_slice(), MARK].concat()
    }

    /// Tries each, and says what was not dropped for its reason or turned up somewhere.
    fn try_all(&self, attempts: Vec<Attempt>) {
        let node = self.scene.cluster.node("node-a");
        let mut wrong = Vec::new();
        for (what, reason, frame) in attempts {
            let before = node.drops().unwrap();
            (0..TIMES).for_each(|_| self.raw.send(&frame));
            let after = node.drops().unwrap();
            let dropped: Vec<_> = DropReason::ALL
                .into_iter()
                .map(|reason| (reason, after[&(reason as u32)] - before[&(reason as u32)]))
                .filter(|(_, count)| *count > 0)
                .collect();
            if dropped != [(reason, TIMES)] {
                wrong.push(format!("{what}: dropped {dropped:?}, not {TIMES} for {reason:?}"));
            }
            for tap in self.taps.iter().filter(|tap| tap.marked() > 0) {
                wrong.push(format!("{what}: turned up in {}", tap.name()));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let fabric = self.scene.cluster.lab.fabric();
        assert_eq!(fabric.all_foreign().unwrap().len(), 0, "the VPC had to drop something");

        // The taps see what is let through, and nobody has lost anybody.
        self.raw.send(&self.datagram(self.own()).build());
        self.taps[1].wait_for_mark();
        let Scene { local, remote, client, .. } = &self.scene;
        for (from, to) in [(client, local), (local, client), (remote, local), (local, remote)] {
            ping(from.sandbox.ns(), to.ip(), WAIT).unwrap();
        }
    }
}

/// Gives a payload ports, and the mark behind its header.
fn set_udp(payload: &mut Vec<u8>, (source, destination): (u16, u16)) {
    let length = u16::try_from(8 + MARK.len()).unwrap();
    let header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    *payload = [&header, MARK].concat();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_macs_of_others() {
    let attack = Attack::new("spoof_ipv4").await;
    let scene = &attack.scene;
    let (local, remote, own) = (scene.local.ip(), scene.remote.ip(), attack.own());
    let (primary, secondary) = scene.node_ips();
    let victim = mac(scene.local.sandbox.ns(), "eth0");
    let gateway = scene.cluster.lab.subnets()[0].gateway;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut attempt = |what: &str, reason, frame| attempts.push((what.to_owned(), reason, frame));

    for (whose, ip) in [
        ("nobody's", NOBODY),
        ("a pod's of another node", remote),
        ("the node's", primary),
        ("the pods' ENI's", secondary),
        ("the gateway's", gateway),
        ("the controller's", attack.to),
        ("loopback's", Ipv4Addr::LOCALHOST),
        ("none's", Ipv4Addr::UNSPECIFIED),
        ("everybody's", Ipv4Addr::BROADCAST),
        ("a group's", Ipv4Addr::new(224, 0, 0, 5)),
        ("the veth gateway's", Ipv4Addr::new(169, 254, 1, 1)),
    ] {
        attempt(&format!("{whose} address"), DropReason::UnknownSource, attack.datagram(ip).build());
    }
    attempt("a neighbour's address", DropReason::WrongInterface, attack.datagram(local).build());
    let both = attack.with(|frame| (frame.source, frame.from_mac) = (local, victim));
    attempt("a neighbour's address and MAC", DropReason::WrongInterface, both);
    for (whose, from) in [("a neighbour's", victim), ("the node's", attack.host_mac), ("nobody's", OTHER_MAC)]
    {
        let frame = attack.with(|frame| frame.from_mac = from);
        attempt(&format!("{whose} MAC"), DropReason::WrongSourceMac, frame);
    }

    let mac = attack.own_mac;
    for (what, frame) in [
        ("answers for a neighbour", attack.arp(2, mac, local, own)),
        ("announces a neighbour's address", attack.arp(1, mac, local, local)),
        ("announces the VPC's gateway", attack.arp(1, mac, gateway, gateway)),
        ("asks as the node", attack.arp(1, mac, primary, local)),
        ("answers for the veth gateway", attack.arp(2, mac, Ipv4Addr::new(169, 254, 1, 1), own)),
        ("gives a neighbour's MAC for itself", attack.arp(2, victim, own, local)),
        ("probes a neighbour's address", attack.arp(1, mac, Ipv4Addr::UNSPECIFIED, local)),
    ] {
        attempt(&format!("ARP {what}"), DropReason::ArpSpoof, frame);
    }

    let good = attack.datagram(own).build();
    for (name, tag) in [("802.1Q", VLAN), ("802.1ad", SERVICE_VLAN)] {
        let tagged = [&good[..12], &tag.to_be_bytes(), &[0, 7], &good[12..]].concat();
        attempt(&format!("tag of {name}"), DropReason::VlanTagged, tagged.clone());
        let twice = [&tagged[..12], &tag.to_be_bytes(), &[0, 8], &tagged[12..]].concat();
        attempt(&format!("two tags of {name}"), DropReason::VlanTagged, twice);
    }
    for (what, ether_type) in [("LLDP", 0x88cc), ("MPLS", 0x8847), ("PPPoE", 0x8863), ("EAPOL", 0x888e)] {
        let frame = ethernet(BROADCAST, mac, ether_type, &good[14..]);
        attempt(what, DropReason::UnsupportedEtherType, frame);
    }
    attempt("a header too short", DropReason::Malformed, attack.with(|frame| frame.ihl = Some(4)));
    attempt("longer than it is", DropReason::Malformed, attack.with(|frame| frame.total_len = Some(900)));
    attempt("IP version 5", DropReason::Malformed, attack.with(|frame| frame.version = 5));
    attack.try_all(attempts);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_routers_that_pods_may_not_be() {
    let attack = Attack::new("spoof_roles").await;
    let local = attack.scene.local.ip();
    let victim = mac(attack.scene.local.sandbox.ns(), "eth0");
    let udp = |ports, to: Ipv4Addr| {
        attack.with(|frame| {
            set_udp(&mut frame.payload, ports);
            frame.destination = to;
        })
    };
    let discover = attack.with(|frame| {
        set_udp(&mut frame.payload, (68, 67));
        (frame.source, frame.destination, frame.to_mac) =
            (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, BROADCAST);
    });
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
    let foreign = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xbad);
    let icmp = |source, kind: u8, body: &[u8]| icmpv6(attack.own_mac, source, kind, body);
    let advertisement = [&[0xe0, 0, 0, 0], &foreign.octets()[..], &[2, 1], &victim.octets].concat();
    attack.try_all(vec![
        ("DHCP client".into(), DropReason::UnknownSource, discover),
        ("DHCP server".into(), DropReason::DhcpServer, udp((67, 68), local)),
        ("DHCP server, to all".into(), DropReason::DhcpServer, udp((67, 68), Ipv4Addr::BROADCAST)),
        ("to loopback".into(), DropReason::InvalidDestination, udp((9, 9), Ipv4Addr::LOCALHOST)),
        ("to nowhere".into(), DropReason::InvalidDestination, udp((9, 9), Ipv4Addr::UNSPECIFIED)),
        (
            "router advertisement".into(),
            DropReason::RouterAdvertisement,
            icmp(link_local, 134, &[64, 0, 7, 8]),
        ),
        ("redirect".into(), DropReason::RouterAdvertisement, icmp(link_local, 137, &[0; 36])),
        ("ND answers for another".into(), DropReason::NdSpoof, icmp(link_local, 136, &advertisement)),
        ("IPv6 of nobody".into(), DropReason::UnknownSource, icmp(foreign, 128, &[0, 1, 0, 1])),
    ]);
}

/// An ICMPv6 message to all nodes, with the mark at its end.
fn icmpv6(from: Mac, source: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let message = [&[kind, 0, 0, 0], body, MARK].concat();
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let head = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &source.octets(), &all_nodes.octets()].concat();
    let to = Mac { octets: [0x33, 0x33, 0, 0, 0, 1] };
    ethernet(to, from, IPV6, &[head, message].concat())
}
