//! Addresses as they stand in packets: octets in network byte order.

/// An IPv4 address. A struct, not a `u32`, so that a map dump shows four octets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Octets {
    /// The address in network byte order, `10.0.0.5` being `[10, 0, 0, 5]`.
    pub octets: [u8; 4],
}

impl From<core::net::Ipv4Addr> for Ipv4Octets {
    fn from(addr: core::net::Ipv4Addr) -> Self {
        Self { octets: addr.octets() }
    }
}

impl From<Ipv4Octets> for core::net::Ipv4Addr {
    fn from(addr: Ipv4Octets) -> Self {
        addr.octets.into()
    }
}

/// An IPv6 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6Octets {
    /// The address in network byte order.
    pub octets: [u8; 16],
}

impl From<core::net::Ipv6Addr> for Ipv6Octets {
    fn from(addr: core::net::Ipv6Addr) -> Self {
        Self { octets: addr.octets() }
    }
}

impl From<Ipv6Octets> for core::net::Ipv6Addr {
    fn from(addr: Ipv6Octets) -> Self {
        addr.octets.into()
    }
}

/// A MAC address, in the order of the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac {
    /// The six octets.
    pub octets: [u8; 6],
}

impl Mac {
    /// All zero: "not known yet".
    pub const ZERO: Self = Self { octets: [0; 6] };
}
