//! What packets carry: transports, echoes, neighbour messages, and errors that quote other packets.

use std::net::IpAddr;

use ipam_common::model::Hook;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::{Generator, Sender, packet::Packet};
use crate::model::world::{PORTS, Talk, random_mac};

impl Generator<'_> {
    /// A packet of the world's talks, as it passes the hook, or an error about one.
    pub fn talk(&mut self, hook: Hook) -> Packet {
        let talk = *self.world.talks.choose(self.rng).expect("a talk");
        let from_pod = match hook {
            Hook::FromPod | Hook::ToEni => !self.one_in(12),
            Hook::FromEni | Hook::ToPod => self.one_in(12),
        };
        if !self.one_in(3) {
            return self.said(&talk, from_pod);
        }
        // An error goes against what it is about, mostly.
        let way = from_pod == self.one_in(12);
        let mut quoted = self.said(&talk, way);
        if self.one_in(8) {
            quoted = self.error(&quoted);
        }
        self.damage(&mut quoted, 0);
        let mut error = self.error(&quoted);
        let (pod, peer) = (talk.pod, talk.peer);
        // Errors come from any router on the way.
        let peer = if self.one_in(2) { self.address(peer.is_ipv4()) } else { peer };
        (error.source, error.destination) = if from_pod { (pod, peer) } else { (peer, pod) };
        error
    }

    fn said(&mut self, talk: &Talk, by_pod: bool) -> Packet {
        let (source, destination) = if by_pod { (talk.pod, talk.peer) } else { (talk.peer, talk.pod) };
        let [pod_port, peer_port] = [talk.pod_port, talk.peer_port].map(u16::to_be_bytes);
        let payload = if talk.is_echo() {
            let kinds = if source.is_ipv4() { [8, 0] } else { [128, 129] };
            let kind = *kinds.choose(self.rng).expect("a type");
            [&[kind, 0, 0, 0], &pod_port[..], &[0, 1], &self.random_bytes(16)].concat()
        } else {
            let ports = if by_pod { [pod_port, peer_port] } else { [peer_port, pod_port] };
            [ports.as_flattened(), &[0; 4], &self.random_bytes(24)].concat()
        };
        Packet::new(source, destination, talk.protocol, payload)
    }

    /// An ICMP error about a packet, against its way.
    fn error(&mut self, about: &Packet) -> Packet {
        let ipv4 = about.source.is_ipv4();
        let kinds: &[u8] = if ipv4 { &[3, 3, 11, 12, 4, 5] } else { &[1, 2, 2, 3, 4, 5, 100] };
        let kind = *kinds.choose(self.rng).expect("a type");
        let mut quote = about.build();
        match self.rng.random_range(0..6) {
            0 => quote.truncate(self.rng.random_range(0..=quote.len())),
            1 => quote.truncate(about.headers_len() + 8),
            2 => self.mutate(&mut quote),
            _ => {}
        }
        let payload = [&[kind, 4, 0, 0, 0, 0, 5, 0], &quote[..]].concat();
        Packet::new(about.destination, about.source, if ipv4 { 1 } else { 58 }, payload)
    }

    /// Anything else that a sender might say.
    pub fn saying(&mut self, sender: &Sender, destination: IpAddr) -> Packet {
        let ipv4 = sender.addr.is_ipv4();
        let protocols: &[u8] = if ipv4 {
            &[1, 6, 17, 17, 132, 58, 255]
        } else {
            &[58, 58, 58, 58, 6, 17, 17, 132, 1, 59, 51, 255]
        };
        let protocol = *protocols.choose(self.rng).expect("a protocol");
        let payload = match protocol {
            1 | 58 => {
                let kind = *[0, 3, 8, 11, 128, 136].choose(self.rng).expect("a type");
                [&[kind, 0, 0, 0][..], &self.random_bytes(40)].concat()
            }
            _ => {
                let pairs = [[67, 68], [547, 546], [68, 67], [546, 547], [67, 67], [546, 68], [547, 68]];
                let ports = match self.rng.random_range(0..6) {
                    0..2 if ipv4 => pairs[0],
                    0..2 => pairs[1],
                    2 => *pairs.choose(self.rng).expect("ports"),
                    _ => [(); 2].map(|()| *PORTS.choose(self.rng).expect("a port")),
                };
                let ports = ports.map(u16::to_be_bytes);
                let mut start = [ports.as_flattened(), &[0; 4]].concat();
                if self.one_in(12) {
                    start.truncate(self.rng.random_range(0..8));
                }
                [start, self.random_bytes(40)].concat()
            }
        };
        Packet::new(sender.addr, destination, protocol, payload)
    }

    /// Neighbour messages, and whatever has a type.
    pub fn icmpv6(&mut self, sender: &Sender) -> Vec<u8> {
        let kinds = [1, 2, 128, 130, 131, 132, 133, 134, 135, 135, 135, 136, 136, 136, 136, 137, 138, 143];
        let kind = if self.one_in(12) { self.rng.random() } else { *kinds.choose(self.rng).expect("a type") };
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        let target = match self.rng.random_range(0..8) {
            0 => self.address(false),
            1..4 => {
                let pods = self.world.routes.iter().map(|(addr, _)| *addr).filter(IpAddr::is_ipv6);
                pods.collect::<Vec<_>>().choose(self.rng).copied().unwrap_or(sender.addr)
            }
            4 => "fe80::5".parse().expect("an address"),
            _ => sender.addr,
        };
        let IpAddr::V6(target) = target else { return message };
        message.extend(target.octets());
        for _ in 0..self.rng.random_range(0..3) {
            let kind = *[2, 2, 2, 1, 14].choose(self.rng).expect("an option");
            let mac = match self.rng.random_range(0..4) {
                0 => random_mac(self.rng),
                1 => {
                    let mut mac = sender.mac;
                    mac.octets[self.rng.random_range(0..6)] ^= 1;
                    mac
                }
                _ => sender.mac,
            };
            let units = if self.one_in(10) { self.rng.random_range(0..3) } else { 1 };
            message.extend([&[kind, units], &mac.octets[..]].concat());
        }
        if self.one_in(10) {
            message.truncate(self.rng.random_range(0..message.len()));
        }
        message
    }
}
