//! Random frames: right ones, ones that lie in a field, and then any of them with bytes broken.

use std::net::Ipv4Addr;

use ipam_common::{Eni, Mac, PodRoute, model::Hook};
use ipam_lab::packets::{ARP, ArpFrame, IPV4, IPV6, Ipv4Frame, SERVICE_VLAN, VLAN, ethernet};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    judge::Case,
    world::{ADDRESSES, Device, World, random_mac},
};

/// Bytes of IPv4 that still make a frame the kernel takes, with options and padding.
const MAX_PAYLOAD: usize = 3300;

/// Makes cases for one world.
pub struct Generator<'a> {
    pub rng: &'a mut StdRng,
    pub world: &'a World,
    pub devices: &'a [Device],
}

/// Who a frame pretends to be from, and where it comes in.
struct Sender {
    addr: Ipv4Addr,
    mac: Mac,
    device: Device,
    /// Where its packets would leave, if it is a pod with an ENI.
    eni: Option<Eni>,
}

impl Generator<'_> {
    pub fn case(&mut self) -> Case {
        let hook = if self.rng.random_bool(0.8) { Hook::FromPod } else { Hook::FromEni };
        let sender = self.sender();
        let to_mac = match (hook, self.rng.random_range(0..12)) {
            (_, 0) => random_mac(self.rng),
            (_, 1) => Mac { octets: [0xff; 6] },
            (_, 2) => Mac { octets: [1, 0, 0x5e, 0, 0, 1] },
            _ => sender.device.mac,
        };
        let mut gso_size = 0;
        let mut frame = match self.rng.random_range(0..100) {
            0..66 => {
                let packet = self.ipv4(&sender, to_mac);
                if self.one_in(4) {
                    gso_size = self.gso_size(&sender, 20 + packet.options.len());
                }
                packet.build()
            }
            66..84 => {
                let mut frame = self.arp(&sender, to_mac).build();
                if self.one_in(5) {
                    // Hardware type, protocol type and both lengths.
                    frame[14 + self.rng.random_range(0..6)] ^= 1 << self.rng.random_range(0..8);
                }
                frame
            }
            84..90 => self.tagged(&sender, to_mac),
            90..94 => {
                let body = self.random_bytes(80);
                ethernet(to_mac, sender.mac, IPV6, &body)
            }
            94..97 => {
                let body = self.ipv4(&sender, to_mac).build();
                let ether_type =
                    *[0, 46, 0x0801, 0x0008, 0x88cc, 0x8864, 0x8101, 0x88a9].choose(self.rng).unwrap();
                ethernet(to_mac, sender.mac, ether_type, &body[14..])
            }
            _ => self.garbage(),
        };
        if self.one_in(5) {
            let padding = self.random_bytes(46);
            frame.extend(padding);
        }
        if self.one_in(4) {
            for _ in 0..self.rng.random_range(1..4) {
                self.mutate(&mut frame);
            }
        }
        Case { hook, device: sender.device, gso_size, frame: Case::acceptable(frame) }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn random_bytes(&mut self, max_len: usize) -> Vec<u8> {
        let len = self.rng.random_range(0..=max_len);
        (0..len).map(|_| self.rng.random()).collect()
    }

    fn random_device(&mut self) -> Device {
        *self.devices.choose(self.rng).expect("a device")
    }

    /// Mostly a pod at its own interface with its own MAC; each of the three may be wrong.
    fn sender(&mut self) -> Sender {
        let pod = self.world.routes.choose(self.rng).copied();
        let of_pod = |route: &PodRoute| self.devices.iter().find(|it| it.ifindex == route.ifindex).copied();
        let device = pod.and_then(|(_, route)| of_pod(&route));
        let device = match device {
            Some(device) if !self.one_in(16) => device,
            _ => self.random_device(),
        };
        let mac = match pod {
            Some((_, route)) if !self.one_in(16) => route.mac,
            Some((_, route)) if self.one_in(2) => {
                let mut mac = route.mac;
                mac.octets[self.rng.random_range(0..6)] ^= 1 << self.rng.random_range(0..8);
                mac
            }
            _ => random_mac(self.rng),
        };
        let addr = match pod {
            Some((addr, _)) if !self.one_in(16) => addr.into(),
            _ => self.destination(),
        };
        let enis = self.world.enis.iter();
        let eni = pod.and_then(|(_, route)| enis.copied().find(|it| it.0 == u32::from(route.eni)));
        Sender { addr, mac, device, eni: eni.map(|(_, eni)| eni) }
    }

    /// Mostly an address that means something: a pod's, the edge of a CIDR, the edge of a scope.
    fn destination(&mut self) -> Ipv4Addr {
        match self.rng.random_range(0..10) {
            0..3 => *ADDRESSES.choose(self.rng).expect("an address"),
            3..5 => match self.world.stack_cidrs.choose(self.rng) {
                Some((network, prefix_len)) => {
                    let first = Ipv4Addr::from(*network).to_bits();
                    let last = first | u32::MAX.checked_shr(*prefix_len).unwrap_or(0);
                    let edges = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                    (*edges.choose(self.rng).expect("an edge")).into()
                }
                None => self.rng.random::<u32>().into(),
            },
            5 => {
                let edges: [[u8; 4]; 14] = [
                    [0, 0, 0, 0],
                    [0, 255, 255, 255],
                    [126, 255, 255, 255],
                    [127, 0, 0, 0],
                    [127, 255, 255, 255],
                    [128, 0, 0, 0],
                    [169, 253, 255, 255],
                    [169, 254, 0, 0],
                    [169, 254, 255, 255],
                    [169, 255, 0, 0],
                    [224, 0, 0, 0],
                    [239, 255, 255, 255],
                    [240, 0, 0, 0],
                    [255, 255, 255, 254],
                ];
                (*edges.choose(self.rng).expect("an edge")).into()
            }
            6 => self.rng.random::<u32>().into(),
            _ => Ipv4Addr::new(10, 9, self.rng.random(), self.rng.random()),
        }
    }

    fn ipv4(&mut self, sender: &Sender, to_mac: Mac) -> Ipv4Frame {
        let local = self.one_in(4);
        let mut destination = self.destination();
        if let Some((pod, _)) = self.world.routes.choose(self.rng).filter(|_| local) {
            destination = (*pod).into();
        }
        let mut frame = Ipv4Frame::udp(sender.mac, to_mac, sender.addr, destination);
        if self.one_in(4) {
            frame.options = vec![1; 4 * self.rng.random_range(1..=10)];
        }
        let header_len = 20 + frame.options.len();
        let len = self.payload_len(sender, header_len);
        frame.payload = vec![self.rng.random(); len];
        frame.protocol = *[1, 6, 17, 132, 0, 255].choose(self.rng).expect("a protocol");
        if self.one_in(10) {
            frame.fragment = self.rng.random();
        }
        let truth = header_len + len;
        if self.one_in(8) {
            let lies =
                [0, 19, 20, header_len - 1, header_len, header_len + 1, truth.saturating_sub(1), truth + 1];
            let lie = match self.rng.random_range(0..10) {
                n @ 0..8 => u16::try_from(lies[n]).expect("a short packet"),
                _ => self.rng.random(),
            };
            frame.total_len = Some(lie);
        }
        if self.one_in(16) {
            frame.ihl = Some(self.rng.random_range(0..16));
        }
        if self.one_in(24) {
            frame.version = self.rng.random_range(0..16);
        }
        frame
    }

    /// Short, or just about what the sender's ENI can take.
    fn payload_len(&mut self, sender: &Sender, header_len: usize) -> usize {
        let mtu = sender.eni.map_or(1500, |eni| eni.mtu as usize);
        let fitting = mtu.saturating_sub(header_len);
        match self.rng.random_range(0..10) {
            0..5 => self.rng.random_range(0..40),
            5..9 if fitting < MAX_PAYLOAD => {
                let near = self.rng.random_range(0..5);
                (fitting + near).saturating_sub(2)
            }
            _ => self.rng.random_range(0..MAX_PAYLOAD),
        }
    }

    /// Any, or just about what makes segments that the sender's ENI can take.
    fn gso_size(&mut self, sender: &Sender, header_len: usize) -> u32 {
        let mtu = sender.eni.map_or(1500, |eni| eni.mtu.min(9001));
        let fitting = mtu.saturating_sub(u32::try_from(header_len).expect("a header") + 8);
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(0..=65_535),
            1 => self.rng.random_range(0..100),
            _ => (fitting + self.rng.random_range(0..5)).saturating_sub(2),
        }
    }

    fn arp(&mut self, sender: &Sender, to_mac: Mac) -> ArpFrame {
        let target = self.destination();
        let mut frame = ArpFrame { to_mac, ..ArpFrame::request(sender.mac, sender.addr, target) };
        if self.one_in(2) {
            frame.operation = self.rng.random_range(0..4);
        }
        match self.rng.random_range(0..10) {
            0 => frame.sender_mac = random_mac(self.rng),
            1 => frame.sender = self.destination(),
            2 => frame.hardware_type = self.rng.random_range(0..4),
            3 => (frame.sender, frame.target) = (Ipv4Addr::UNSPECIFIED, sender.addr),
            4 => frame.sender = Ipv4Addr::UNSPECIFIED,
            _ => {}
        }
        frame
    }

    /// A frame in one or two tags, or a tag with nothing behind it.
    fn tagged(&mut self, sender: &Sender, to_mac: Mac) -> Vec<u8> {
        let inner =
            if self.one_in(2) { self.ipv4(sender, to_mac).build() } else { self.arp(sender, to_mac).build() };
        let mut frame = inner;
        for _ in 0..self.rng.random_range(1..3) {
            let tag = if self.one_in(2) { VLAN } else { SERVICE_VLAN };
            frame = ethernet(to_mac, sender.mac, tag, &[&[0, self.rng.random()], &frame[12..]].concat());
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
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        if frame.is_empty() {
            return frame.push(self.rng.random());
        }
        let at = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..frame.len()),
            _ => self.rng.random_range(0..frame.len().min(54)),
        };
        match self.rng.random_range(0..9) {
            0..3 => frame[at] ^= 1 << self.rng.random_range(0..8),
            3 => frame[at] = self.rng.random(),
            4 => frame[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(self.rng).expect("an octet"),
            5 => frame.truncate(at),
            6 => frame.extend(self.random_bytes(64)),
            7 => {
                let addr = self.destination().octets();
                let room = frame.len().min(at + 4);
                frame[at..room].copy_from_slice(&addr[..room - at]);
            }
            _ => {
                let piece = frame[at..frame.len().min(at + 8)].to_vec();
                frame.splice(at..at, piece);
            }
        }
    }
}
