//! Random frames: right ones, ones that lie in a field, and then any of them with bytes broken.

mod packet;
mod payload;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipam_common::{Eni, Mac, PodRoute, model::Hook};
use ipam_lab::packets::{ARP, ArpFrame, IPV4, IPV6, SERVICE_VLAN, VLAN, ethernet};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use self::packet::{Extra, Packet};
use super::{
    judge::Case,
    world::{ADDRESSES, Device, PEERS, World, random_mac},
};

/// Bytes of IP payload that still make a frame the kernel takes, with headers and padding.
const MAX_PAYLOAD: usize = 3300;

/// Where kinds of addresses begin and end.
const EDGES: [&str; 32] = [
    "0.0.0.0",
    "0.255.255.255",
    "126.255.255.255",
    "127.0.0.0",
    "127.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.254.0.0",
    "169.254.255.255",
    "169.255.0.0",
    "223.255.255.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.254",
    "::",
    "::1",
    "::2",
    "::1:0:0:0",
    "::fffe:ffff:ffff",
    "::ffff:0:0",
    "::ffff:ffff:ffff",
    "::1:0:0",
    "1::ffff:0:0",
    "1::1",
    "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe80::",
    "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fec0::",
    "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "ff00::",
    "ff02::1:ff00:5",
];

/// Makes cases for one world.
pub struct Generator<'a> {
    pub rng: &'a mut StdRng,
    pub world: &'a World,
    pub devices: &'a [Device],
}

/// Who a frame pretends to be from, and where it comes in.
pub struct Sender {
    addr: IpAddr,
    mac: Mac,
    device: Device,
    /// Where its packets would leave, if it is a pod with an ENI.
    eni: Option<Eni>,
}

impl Generator<'_> {
    pub fn case(&mut self) -> Case {
        let hook = match self.rng.random_range(0..20) {
            0..12 => Hook::FromPod,
            12..15 => Hook::FromEni,
            15..17 => Hook::ToPod,
            _ => Hook::ToEni,
        };
        let mut case = self.well_formed(hook);
        if self.one_in(5) {
            let padding = self.random_bytes(46);
            case.frame.extend(padding);
        }
        if self.one_in(4) {
            for _ in 0..self.rng.random_range(1..4) {
                self.mutate(&mut case.frame);
            }
        }
        Case { frame: Case::acceptable(case.frame), ..case }
    }

    /// A frame with nothing broken but what its sender might break on purpose.
    pub fn well_formed(&mut self, hook: Hook) -> Case {
        let mut sender = self.sender();
        let mut gso_size = 0;
        let frame = match self.rng.random_range(0..100) {
            0..40 => {
                let mut packet = self.talk(hook);
                if hook == Hook::FromPod {
                    sender = self.sender_of(packet.source);
                }
                gso_size = self.finish(&mut packet, &sender);
                self.in_ethernet(&sender, &packet)
            }
            40..78 => {
                let destination = self.destination(sender.addr.is_ipv4());
                let mut packet = match sender.addr {
                    IpAddr::V6(_) if self.one_in(2) => {
                        Packet::new(sender.addr, destination, 58, self.icmpv6(&sender))
                    }
                    _ => self.saying(&sender, destination),
                };
                gso_size = self.finish(&mut packet, &sender);
                self.in_ethernet(&sender, &packet)
            }
            78..89 => {
                let sender = if sender.addr.is_ipv4() || self.one_in(16) { &sender } else { &self.sender() };
                let mut frame = self.arp(sender).build();
                if self.one_in(5) {
                    // Hardware type, protocol type and both lengths.
                    frame[14 + self.rng.random_range(0..6)] ^= 1 << self.rng.random_range(0..8);
                }
                return Case { hook, device: sender.device, gso_size, frame };
            }
            89..94 => self.tagged(&sender),
            94..97 => {
                let body = self.random_bytes(80);
                let types = [0, 46, 0x0801, 0x0008, 0x88cc, 0x8864, 0x8101, 0x88a9, 0xdd86, 0x86dc];
                let ether_type = *types.choose(self.rng).expect("an EtherType");
                ethernet(sender.device.mac, sender.mac, ether_type, &body)
            }
            _ => self.garbage(),
        };
        Case { hook, device: sender.device, gso_size, frame }
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub fn random_bytes(&mut self, max_len: usize) -> Vec<u8> {
        let len = self.rng.random_range(0..=max_len);
        (0..len).map(|_| self.rng.random()).collect()
    }

    /// Mostly a pod; one in some has no address yet or only a link-local one.
    fn sender(&mut self) -> Sender {
        let addr = match self.rng.random_range(0..20) {
            0..2 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            2 => "fe80::5".parse().expect("an address"),
            3 => {
                let ipv4 = self.one_in(2);
                self.destination(ipv4)
            }
            4 => self.world.node_addrs.choose(self.rng).map_or(PEERS[0], |(addr, _)| *addr),
            _ => self.world.routes.choose(self.rng).map_or(ADDRESSES[0], |(addr, _)| *addr),
        };
        self.sender_of(addr)
    }

    /// Mostly at its own interface with its own MAC; each may be wrong.
    fn sender_of(&mut self, addr: IpAddr) -> Sender {
        let owner = self.world.routes.iter().find(|(key, _)| *key == addr).map(|(_, route)| *route);
        // A link-local sender is one of the pods.
        let pod = owner.or_else(|| self.world.routes.choose(self.rng).map(|(_, route)| *route));
        let of_pod = |route: PodRoute| self.devices.iter().find(|it| it.ifindex == route.ifindex).copied();
        let device = match pod.and_then(of_pod) {
            Some(device) if !self.one_in(16) => device,
            _ => *self.devices.choose(self.rng).expect("a device"),
        };
        let mac = match pod {
            Some(route) if !self.one_in(16) => route.mac,
            Some(route) if self.one_in(2) => {
                let mut mac = route.mac;
                mac.octets[self.rng.random_range(0..6)] ^= 1 << self.rng.random_range(0..8);
                mac
            }
            _ => random_mac(self.rng),
        };
        let enis = self.world.enis.iter();
        let eni = pod.and_then(|route| enis.copied().find(|it| it.0 == u32::from(route.eni)));
        Sender { addr, mac, device, eni: eni.map(|(_, eni)| eni) }
    }

    /// An address of a family that means something: a pod's, a peer's, or any.
    pub fn address(&mut self, ipv4: bool) -> IpAddr {
        let pods: Vec<_> = self.world.routes.iter().map(|(addr, _)| *addr).collect();
        let known = match self.rng.random_range(0..3) {
            0 => &pods[..],
            1 => &ADDRESSES[..],
            _ => &PEERS[..],
        };
        let known: Vec<_> = known.iter().filter(|addr| addr.is_ipv4() == ipv4).collect();
        match known.choose(self.rng) {
            Some(addr) => **addr,
            None if ipv4 => Ipv4Addr::from_bits(self.rng.random()).into(),
            None => Ipv6Addr::from_bits(self.rng.random()).into(),
        }
    }

    /// Mostly an address that means something: a pod's, the edge of a CIDR, the edge of a scope.
    fn destination(&mut self, ipv4: bool) -> IpAddr {
        let of_family = |addr: &IpAddr| addr.is_ipv4() == ipv4;
        match self.rng.random_range(0..12) {
            0..2 => self.cidr_edge(ipv4),
            2..4 => {
                let edges = EDGES.map(|edge| edge.parse().expect("an address"));
                let edges: Vec<_> = edges.into_iter().filter(of_family).collect();
                *edges.choose(self.rng).expect("an edge")
            }
            4 if ipv4 => Ipv4Addr::from_bits(self.rng.random()).into(),
            4 => Ipv6Addr::from_bits(self.rng.random()).into(),
            5 if !ipv4 => "ff02::1".parse().expect("an address"),
            6 if !ipv4 => "fe80::1".parse().expect("an address"),
            5..8 if ipv4 => Ipv4Addr::new(10, 9, self.rng.random(), self.rng.random()).into(),
            7 => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, self.rng.random()).into(),
            _ => self.address(ipv4),
        }
    }

    /// Just inside or just outside of a CIDR of the stack.
    fn cidr_edge(&mut self, ipv4: bool) -> IpAddr {
        let cidrs = self.world.stack_cidrs.iter().filter(|(network, _)| network.is_ipv4() == ipv4);
        let cidrs: Vec<_> = cidrs.collect();
        match cidrs.choose(self.rng) {
            Some((IpAddr::V4(network), len)) => {
                let first = network.to_bits();
                let last = first | u32::MAX.checked_shr(*len).unwrap_or(0);
                let edges = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                Ipv4Addr::from_bits(*edges.choose(self.rng).expect("an edge")).into()
            }
            Some((IpAddr::V6(network), len)) => {
                let first = network.to_bits();
                let last = first | u128::MAX.checked_shr(*len).unwrap_or(0);
                let edges = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                Ipv6Addr::from_bits(*edges.choose(self.rng).expect("an edge")).into()
            }
            None => self.address(ipv4),
        }
    }

    /// Extra headers, a length, lies. What the packet is cut into, if it is.
    fn finish(&mut self, packet: &mut Packet, sender: &Sender) -> u32 {
        self.damage(packet, 4);
        let headers_len = packet.headers_len();
        if self.one_in(4) {
            let len = self.payload_len(sender, headers_len);
            let filling = self.rng.random();
            packet.payload.resize(len, filling);
            packet.len = None;
        }
        if self.one_in(8) { self.gso_size(sender, headers_len) } else { 0 }
    }

    /// Options, fragments and lies.
    pub fn damage(&mut self, packet: &mut Packet, rarely: u32) {
        let ipv4 = packet.source.is_ipv4();
        if self.one_in(4 + rarely) {
            let some = if self.one_in(4) { self.rng.random_range(5..9) } else { self.rng.random_range(1..4) };
            for _ in 0..some {
                let number = *[0, 43, 60, 60].choose(self.rng).expect("a header");
                let number = if self.one_in(32) { self.rng.random() } else { number };
                let more = if self.one_in(3) { self.rng.random_range(0..3) } else { 0 };
                packet.extras.push(Extra::Options(number, more));
            }
        }
        if self.one_in(8) {
            let at = self.rng.random_range(0..=packet.extras.len());
            packet.extras.insert(at, Extra::Fragment);
            packet.fragment = match (self.rng.random_range(0..4), ipv4) {
                (0, _) => self.rng.random(),
                (1, true) => 0x2000,
                (1, false) => 1,
                (2, true) => *[0x4000, 0x8000, 0x0001, 0x1000].choose(self.rng).expect("a fragment"),
                (2, false) => *[0, 2, 6, 8, 0x8000].choose(self.rng).expect("a fragment"),
                (_, true) => 0x00b9,
                (_, false) => 0x05c8,
            };
        }
        if self.one_in(12) {
            packet.hop_limit = *[0, 1, 64, 254].choose(self.rng).expect("a hop limit");
        }
        let (headers_len, len) = (packet.headers_len(), packet.headers_len() + packet.payload.len());
        if self.one_in(8 + 2 * rarely) {
            let base = if ipv4 { 0 } else { 40 };
            let lies =
                [0, 19, 20, headers_len - 1, headers_len, headers_len + 1, len.saturating_sub(1), len + 1];
            let lie = match self.rng.random_range(0..10) {
                n @ 0..8 => u16::try_from(lies[n].saturating_sub(base)).expect("a short packet"),
                _ => self.rng.random(),
            };
            packet.len = Some(lie);
        }
        if self.one_in(16 + rarely) {
            packet.ihl = Some(self.rng.random_range(0..16));
        }
        if self.one_in(24 + rarely) {
            packet.version = Some(self.rng.random_range(0..16));
        }
    }

    /// Short, or just about what the sender's ENI can take.
    fn payload_len(&mut self, sender: &Sender, headers_len: usize) -> usize {
        let mtu = sender.eni.map_or(1500, |eni| eni.mtu as usize);
        let fitting = mtu.saturating_sub(headers_len);
        match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..40),
            1..9 if fitting < MAX_PAYLOAD => (fitting + self.rng.random_range(0..5)).saturating_sub(2),
            _ => self.rng.random_range(0..MAX_PAYLOAD),
        }
    }

    /// Any, or just about what makes segments that the sender's ENI can take.
    fn gso_size(&mut self, sender: &Sender, headers_len: usize) -> u32 {
        let mtu = sender.eni.map_or(1500, |eni| eni.mtu.min(9001));
        let fitting = mtu.saturating_sub(u32::try_from(headers_len).expect("headers") + 8);
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(0..=65_535),
            1 => self.rng.random_range(0..100),
            _ => (fitting + self.rng.random_range(0..5)).saturating_sub(2),
        }
    }

    /// Mostly to the interface itself.
    fn receiver_mac(&mut self, sender: &Sender) -> Mac {
        match self.rng.random_range(0..14) {
            0 => random_mac(self.rng),
            1 => Mac { octets: [0xff; 6] },
            2 => Mac { octets: [0x33, 0x33, 0, 0, 0, 1] },
            _ => sender.device.mac,
        }
    }

    fn in_ethernet(&mut self, sender: &Sender, packet: &Packet) -> Vec<u8> {
        let ether_type = if packet.source.is_ipv4() { IPV4 } else { IPV6 };
        ethernet(self.receiver_mac(sender), sender.mac, ether_type, &packet.build())
    }

    fn arp(&mut self, sender: &Sender) -> ArpFrame {
        let four = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let (to_mac, own, target) =
            (self.receiver_mac(sender), four(sender.addr), four(self.destination(true)));
        let mut frame = ArpFrame { to_mac, ..ArpFrame::request(sender.mac, own, target) };
        if self.one_in(2) {
            frame.operation = self.rng.random_range(0..4);
        }
        match self.rng.random_range(0..10) {
            0 => frame.sender_mac = random_mac(self.rng),
            1 => frame.sender = four(self.destination(true)),
            2 => frame.hardware_type = self.rng.random_range(0..4),
            3 => (frame.sender, frame.target) = (Ipv4Addr::UNSPECIFIED, own),
            4 => frame.sender = Ipv4Addr::UNSPECIFIED,
            _ => {}
        }
        frame
    }

    /// A frame in one or two tags, or a tag with nothing behind it.
    fn tagged(&mut self, sender: &Sender) -> Vec<u8> {
        let destination = self.destination(sender.addr.is_ipv4());
        let packet = self.saying(sender, destination);
        let mut frame =
            if self.one_in(2) { self.in_ethernet(sender, &packet) } else { self.arp(sender).build() };
        for _ in 0..self.rng.random_range(1..3) {
            let tag = if self.one_in(2) { VLAN } else { SERVICE_VLAN };
            let body = [&[0, self.rng.random()], &frame[12..]].concat();
            frame = ethernet(self.receiver_mac(sender), sender.mac, tag, &body);
        }
        if self.one_in(8) {
            frame.truncate(self.rng.random_range(14..frame.len()));
        }
        frame
    }

    /// Nothing but noise, sometimes behind an EtherType that makes the programs look at it.
    fn garbage(&mut self) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..14).map(|_| self.rng.random()).collect();
        if self.one_in(2) {
            let ether_type = *[IPV4, ARP, VLAN, IPV6].choose(self.rng).expect("an EtherType");
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        }
        frame.extend(self.random_bytes(200));
        frame
    }

    /// Breaks something, mostly in the headers.
    pub fn mutate(&mut self, frame: &mut Vec<u8>) {
        if frame.is_empty() {
            return frame.push(self.rng.random());
        }
        let at = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..frame.len()),
            _ => self.rng.random_range(0..frame.len().min(90)),
        };
        match self.rng.random_range(0..9) {
            0..3 => frame[at] ^= 1 << self.rng.random_range(0..8),
            3 => frame[at] = self.rng.random(),
            4 => frame[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(self.rng).expect("an octet"),
            5 => frame.truncate(at),
            6 => frame.extend(self.random_bytes(64)),
            7 => {
                let addr = self.address(true);
                let IpAddr::V4(addr) = addr else { return };
                let room = frame.len().min(at + 4);
                frame[at..room].copy_from_slice(&addr.octets()[..room - at]);
            }
            _ => {
                let piece = frame[at..frame.len().min(at + 8)].to_vec();
                frame.splice(at..at, piece);
            }
        }
    }
}
