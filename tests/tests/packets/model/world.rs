//! A random state of the maps.

use std::{fmt, net::Ipv4Addr};

use ipam_common::{Eni, Ipv4Octets, MAX_ENIS, Mac, PodRoute, model::Maps};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

/// An interface that exists.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub ifindex: u32,
    pub mac: Mac,
}

/// Addresses that pods are likely to have: ordinary ones, and such as no pod should ever have.
pub const ADDRESSES: [Ipv4Addr; 16] = [
    Ipv4Addr::new(10, 0, 0, 5),
    Ipv4Addr::new(10, 0, 0, 6),
    Ipv4Addr::new(10, 0, 0, 7),
    Ipv4Addr::new(10, 0, 1, 5),
    Ipv4Addr::new(10, 96, 0, 1),
    Ipv4Addr::new(11, 0, 0, 5),
    Ipv4Addr::new(172, 16, 255, 255),
    Ipv4Addr::new(192, 168, 0, 0),
    Ipv4Addr::new(223, 255, 255, 255),
    Ipv4Addr::new(1, 0, 0, 0),
    Ipv4Addr::new(0, 0, 0, 0),
    Ipv4Addr::new(0, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(169, 254, 1, 1),
    Ipv4Addr::new(224, 0, 0, 0),
    Ipv4Addr::new(255, 255, 255, 255),
];
/// How many of them are ordinary.
const ORDINARY: usize = 10;

/// The contents of all maps.
#[derive(Clone, Debug)]
pub struct World {
    pub routes: Vec<(Ipv4Octets, PodRoute)>,
    pub enis: Vec<(u32, Eni)>,
    pub stack_cidrs: Vec<(Ipv4Octets, u32)>,
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
                routes.push((addr.into(), random_route(rng, devices, &slots)));
            }
        }
        let mut stack_cidrs: Vec<_> = (0..rng.random_range(0..5)).map(|_| random_cidr(rng)).collect();
        stack_cidrs.sort_unstable();
        stack_cidrs.dedup();
        Self { routes, enis, stack_cidrs }
    }

    pub fn maps(&self) -> Maps<'_> {
        Maps { routes: &self.routes, enis: &self.enis, stack_cidrs: &self.stack_cidrs }
    }
}

fn random_ifindex(rng: &mut StdRng, devices: &[Device]) -> u32 {
    match rng.random_range(0..20) {
        0 => rng.random(),
        1 => 0,
        _ => devices.choose(rng).expect("a device").ifindex,
    }
}

fn random_route(rng: &mut StdRng, devices: &[Device], slots: &[u32]) -> PodRoute {
    let slot = *slots.choose(rng).expect("a slot");
    let eni = match rng.random_range(0..16) {
        0 => 0,
        1 => rng.random(),
        // Out of the array, but not if only its low bits count.
        2 => u16::try_from(slot).expect("a slot") + 64 * rng.random_range(1..4),
        _ => u16::try_from(slot).expect("a slot"),
    };
    PodRoute {
        ifindex: random_ifindex(rng, devices),
        epoch: rng.random(),
        eni,
        flags: rng.random_range(0..2),
        mac: random_mac(rng),
        reserved: [0; 2],
    }
}

fn random_eni(rng: &mut StdRng, devices: &[Device]) -> Eni {
    // Each MAC its own: it tells which ENI a packet left by.
    let mut gateway_mac = Mac { octets: rng.random() };
    match rng.random_range(0..10) {
        0 => gateway_mac = Mac::ZERO,
        // Only one octet tells it from "not known".
        1 => {
            gateway_mac = Mac::ZERO;
            gateway_mac.octets[rng.random_range(0..6)] = 1;
        }
        _ => {}
    }
    let mtu = *[0, 28, 48, 68, 120, 576, 1500, 1500, 9001, u32::MAX].choose(rng).expect("an MTU");
    let mac = Mac { octets: rng.random() };
    Eni { ifindex: random_ifindex(rng, devices), mtu, flags: rng.random_range(0..2), mac, gateway_mac }
}

/// Around a likely address, of any length; the short ones, which hold nearly everything, seldom.
fn random_cidr(rng: &mut StdRng) -> (Ipv4Octets, u32) {
    let prefix_len = match rng.random_range(0..16) {
        0 => 0,
        1 => rng.random_range(1..8),
        2..6 => 32,
        _ => rng.random_range(8..32),
    };
    let addr = match rng.random_range(0..4) {
        0 => rng.random(),
        _ => ADDRESSES.choose(rng).expect("an address").to_bits(),
    };
    let network = ipnet::Ipv4Net::new(addr.into(), prefix_len).expect("a prefix length").network();
    (network.into(), prefix_len.into())
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { routes, enis, stack_cidrs } = self;
        for (addr, PodRoute { ifindex, eni, mac, .. }) in routes {
            let addr = Ipv4Addr::from(*addr);
            writeln!(f, "POD_ROUTES_V4 {addr}: ifindex {ifindex}, eni {eni}, mac {:02x?}", mac.octets)?;
        }
        for (slot, Eni { ifindex, mtu, mac, gateway_mac, .. }) in enis {
            let (mac, gateway) = (mac.octets, gateway_mac.octets);
            writeln!(f, "ENIS {slot}: ifindex {ifindex}, mtu {mtu}, mac {mac:02x?}, gateway {gateway:02x?}")?;
        }
        for (network, prefix_len) in stack_cidrs {
            writeln!(f, "STACK_CIDRS {}/{prefix_len}", Ipv4Addr::from(*network))?;
        }
        Ok(())
    }
}
