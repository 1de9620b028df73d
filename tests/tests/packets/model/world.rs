//! A random state of the maps.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipam_common::{Eni, MAX_ENIS, Mac, PodRoute, StackFlow, model::Maps};
use ipnet::IpNet;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

/// An interface that exists.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub ifindex: u32,
    pub mac: Mac,
}

/// Addresses that pods are likely to have: ordinary ones, and such as no pod should ever have.
pub const ADDRESSES: [IpAddr; 30] = [
    v4(10, 0, 0, 5),
    v4(10, 0, 0, 6),
    v4(10, 0, 0, 7),
    v4(10, 0, 1, 5),
    v4(10, 96, 0, 1),
    v4(11, 0, 0, 5),
    v4(172, 16, 255, 255),
    v4(192, 168, 0, 0),
    v4(223, 255, 255, 255),
    v4(1, 0, 0, 0),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 5]),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 6]),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]),
    v6([0x2001, 0xdb8, 0, 1, 0, 0, 0, 5]),
    v6([0xfd00, 0x96, 0, 0, 0, 0, 0, 1]),
    v6([0x0a00, 5, 0, 0, 0, 0, 0, 0]),
    v6([0, 0, 0, 0, 0, 0xfffe, 0xa00, 5]),
    v6([0xfeff, 0xffff, 0, 0, 0, 0, 0, 0xffff]),
    v4(0, 0, 0, 0),
    v4(0, 0, 0, 1),
    v4(127, 0, 0, 1),
    v4(169, 254, 1, 1),
    v4(224, 0, 0, 0),
    v4(255, 255, 255, 255),
    v6([0, 0, 0, 0, 0, 0, 0, 0]),
    v6([0, 0, 0, 0, 0, 0, 0, 1]),
    v6([0, 0, 0, 0, 0, 0xffff, 0xa00, 5]),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 5]),
    v6([0xff02, 0, 0, 0, 0, 1, 0xff00, 5]),
];
/// How many of them are ordinary.
const ORDINARY: usize = 18;

/// Hosts that are no pods of this node.
pub const PEERS: [IpAddr; 5] = [
    v4(10, 9, 9, 9),
    v4(10, 9, 0, 1),
    v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9]),
    v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 1]),
    v6([0xa09, 0x909, 0, 0, 0, 0, 0, 0]),
];

/// Ports and identifiers: few, so that they meet. Zero is what a pair of addresses has.
pub const PORTS: [u16; 9] = [0, 53, 67, 68, 80, 546, 547, 1000, 0x3500];

const fn v4(o0: u8, o1: u8, o2: u8, o3: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(o0, o1, o2, o3))
}

const fn v6(groups: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = groups;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Who speaks with whom, and what.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub pod: IpAddr,
    pub peer: IpAddr,
    pub protocol: u8,
    /// Of an echo: its identifier.
    pub pod_port: u16,
    pub peer_port: u16,
}

/// The contents of all maps.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub routes: Vec<(IpAddr, PodRoute)>,
    pub enis: Vec<(u32, Eni)>,
    pub stack_cidrs: Vec<(IpAddr, u32)>,
    pub node_addrs: Vec<(IpAddr, u32)>,
    pub flows: Vec<StackFlow>,
    /// What frames are likely to be about; some of them are marked flows.
    pub talks: Vec<Talk>,
}

/// Few MACs, so that right and wrong ones meet; some differ in one octet.
pub fn random_mac(rng: &mut StdRng) -> Mac {
    let mut octets = [2, 0, 0, 0, 0, rng.random_range(1..4)];
    match rng.random_range(0..10) {
        0 => octets[rng.random_range(0..6)] ^= 0x10,
        1 => octets = [0; 6],
        2 => octets = rng.random(),
        _ => {}
    }
    Mac { octets }
}

impl World {
    pub fn random(rng: &mut StdRng, devices: &[Device]) -> Self {
        let slots: Vec<u32> = (0..4).map(|_| rng.random_range(1..MAX_ENIS)).collect();
        let mut enis: Vec<_> = slots.iter().map(|slot| (*slot, random_eni(rng, devices))).collect();
        enis.retain(|(_, eni)| *eni != Eni::EMPTY);
        enis.sort_by_key(|(slot, _)| *slot);
        enis.dedup_by_key(|(slot, _)| *slot);
        let mut routes = Vec::new();
        for (n, addr) in ADDRESSES.into_iter().enumerate() {
            if rng.random_bool(if n < ORDINARY { 0.5 } else { 0.1 }) {
                routes.push((addr, random_route(rng, devices, &slots)));
            }
        }
        let mut stack_cidrs: Vec<_> = (0..rng.random_range(0..6)).map(|_| random_cidr(rng)).collect();
        stack_cidrs.sort_unstable();
        stack_cidrs.dedup();
        let mut node_addrs = Vec::new();
        for addr in PEERS.into_iter().chain(ADDRESSES) {
            if rng.random_bool(0.1) {
                node_addrs.push((addr, random_slot(rng, &slots)));
            }
        }
        let talks: Vec<_> = (0..10).map(|_| random_talk(rng, &routes)).collect();
        let mut flows = Vec::new();
        for talk in &talks {
            for flow in [talk.flow(), talk.pair()] {
                if rng.random_bool(0.5) && !flows.contains(&flow) {
                    flows.push(flow);
                }
            }
        }
        Self { routes, enis, stack_cidrs, node_addrs, flows, talks }
    }

    pub fn maps(&self) -> Maps<'_> {
        Maps {
            routes: &self.routes,
            enis: &self.enis,
            stack_cidrs: &self.stack_cidrs,
            node_addrs: &self.node_addrs,
            flows: &self.flows,
        }
    }
}

impl Talk {
    pub fn is_echo(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }

    fn flow(&self) -> StackFlow {
        let peer_port = if self.is_echo() { 0 } else { self.peer_port };
        let wide = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&addr.octets());
                octets
            }
            IpAddr::V6(addr) => addr.octets(),
        };
        StackFlow {
            pod: wide(self.pod),
            peer: wide(self.peer),
            pod_port: self.pod_port.to_be_bytes(),
            peer_port: peer_port.to_be_bytes(),
            protocol: self.protocol,
            family: if self.pod.is_ipv4() { 4 } else { 6 },
            reserved: [0; 2],
        }
    }

    fn pair(&self) -> StackFlow {
        StackFlow { pod_port: [0; 2], peer_port: [0; 2], ..self.flow() }
    }
}

fn random_talk(rng: &mut StdRng, routes: &[(IpAddr, PodRoute)]) -> Talk {
    let pods: Vec<_> = routes.iter().map(|(addr, _)| *addr).collect();
    let pod = *pods.choose(rng).filter(|_| true).unwrap_or(&ADDRESSES[0]);
    let others = if rng.random_ratio(1, 3) { &pods[..] } else { &PEERS[..] };
    let others: Vec<_> = others.iter().filter(|addr| addr.is_ipv4() == pod.is_ipv4()).collect();
    let peer = others.choose(rng).map_or(pod, |peer| **peer);
    let icmp = if pod.is_ipv4() { 1 } else { 58 };
    let protocol = *[6, 17, 132, icmp, icmp, 0].choose(rng).expect("a protocol");
    let [pod_port, peer_port] = [(); 2].map(|()| *PORTS.choose(rng).expect("a port"));
    Talk { pod, peer, protocol, pod_port, peer_port }
}

fn random_ifindex(rng: &mut StdRng, devices: &[Device]) -> u32 {
    match rng.random_range(0..20) {
        0 => rng.random(),
        1 => 0,
        _ => devices.choose(rng).expect("a device").ifindex,
    }
}

fn random_slot(rng: &mut StdRng, slots: &[u32]) -> u32 {
    let slot = *slots.choose(rng).expect("a slot");
    match rng.random_range(0..16) {
        0 => 0,
        1 => rng.random_range(0..=0xffff),
        // Out of the array, but not if only its low bits count.
        2 => slot + 64 * rng.random_range(1..4),
        _ => slot,
    }
}

fn random_route(rng: &mut StdRng, devices: &[Device], slots: &[u32]) -> PodRoute {
    PodRoute {
        ifindex: random_ifindex(rng, devices),
        epoch: rng.random(),
        eni: u16::try_from(random_slot(rng, slots)).expect("a slot"),
        flags: rng.random_range(0..2),
        mac: random_mac(rng),
        reserved: [0; 2],
    }
}

/// Each its own, since it tells which ENI a packet left by; some are not known, or differ from that in one octet.
fn random_gateway(rng: &mut StdRng) -> Mac {
    let mut mac = Mac { octets: rng.random() };
    match rng.random_range(0..10) {
        0 => mac = Mac::ZERO,
        1 => {
            mac = Mac::ZERO;
            mac.octets[rng.random_range(0..6)] = 1;
        }
        _ => {}
    }
    mac
}

fn random_eni(rng: &mut StdRng, devices: &[Device]) -> Eni {
    let mtu = *[0, 28, 48, 68, 120, 576, 1500, 1500, 9001, u32::MAX].choose(rng).expect("an MTU");
    Eni {
        ifindex: random_ifindex(rng, devices),
        mtu,
        flags: rng.random_range(0..2),
        mac: Mac { octets: rng.random() },
        gateway_mac: random_gateway(rng),
        gateway_mac_v6: random_gateway(rng),
        reserved: [0; 2],
    }
}

/// Around a likely address, of any length; the short ones, which hold nearly everything, seldom.
fn random_cidr(rng: &mut StdRng) -> (IpAddr, u32) {
    let addr = match rng.random_range(0..8) {
        0 => IpAddr::from(rng.random::<[u8; 4]>()),
        1 => IpAddr::from(rng.random::<[u8; 16]>()),
        _ => *ADDRESSES.choose(rng).expect("an address"),
    };
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let prefix_len = match rng.random_range(0..16) {
        0 => 0,
        1 => rng.random_range(1..8),
        2..6 => bits,
        _ => rng.random_range(8..bits),
    };
    let network = IpNet::new(addr, prefix_len).expect("a prefix length").network();
    (network, prefix_len.into())
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { routes, enis, stack_cidrs, node_addrs, flows, talks: _ } = self;
        for (addr, PodRoute { ifindex, eni, mac, .. }) in routes {
            writeln!(f, "POD_ROUTES {addr}: ifindex {ifindex}, eni {eni}, mac {:02x?}", mac.octets)?;
        }
        for (slot, Eni { ifindex, mtu, mac, gateway_mac, gateway_mac_v6, .. }) in enis {
            let [mac, gateway, gateway_v6] = [mac, gateway_mac, gateway_mac_v6].map(|mac| mac.octets);
            write!(f, "ENIS {slot}: ifindex {ifindex}, mtu {mtu}, mac {mac:02x?}, ")?;
            writeln!(f, "gateway {gateway:02x?}, of IPv6 {gateway_v6:02x?}")?;
        }
        for (network, prefix_len) in stack_cidrs {
            writeln!(f, "STACK_CIDRS {network}/{prefix_len}")?;
        }
        for (addr, slot) in node_addrs {
            writeln!(f, "NODE_ADDRS {addr}: {slot}")?;
        }
        for flow in flows {
            writeln!(f, "STACK_FLOWS {}", show_flow(flow))?;
        }
        Ok(())
    }
}

/// A flow on one line.
pub fn show_flow(flow: &StackFlow) -> String {
    let addr = |octets: [u8; 16]| match flow.family {
        4 => IpAddr::from(octets.first_chunk::<4>().copied().expect("four octets")),
        _ => IpAddr::from(octets),
    };
    let [pod_port, peer_port] = [flow.pod_port, flow.peer_port].map(u16::from_be_bytes);
    let (pod, peer) = (addr(flow.pod), addr(flow.peer));
    format!("pod {pod} {pod_port}, peer {peer} {peer_port}, protocol {}, IPv{}", flow.protocol, flow.family)
}
