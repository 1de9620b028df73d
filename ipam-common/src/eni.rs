//! The ENIs of a node.

use crate::addr::Mac;

/// Slots of the `ENIS` map. Slot 0 means "no ENI" and stays empty.
pub const MAX_ENIS: u32 = 64;

/// What `from_pod` needs to send a packet out of an ENI.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eni {
    /// Interface index in the node's namespace; 0: the slot is empty.
    pub ifindex: u32,
    /// As in [`crate::PodRoute`].
    #[cfg(feature = "next-abi")]
    pub generation: u32,
    /// MTU of the ENI in bytes, without the Ethernet header.
    pub mtu: u32,
    /// No bit is defined yet: always zero.
    pub flags: u32,
    /// The ENI's own MAC, the source of what it sends.
    pub mac: Mac,
    /// The IPv4 next hop's MAC; zero: not resolved yet.
    pub gateway_mac: Mac,
    /// The IPv6 next hop's MAC; zero: not resolved yet, or the ENI has no IPv6.
    pub gateway_mac_v6: Mac,
    /// Always zero.
    pub reserved: [u8; 2],
}

impl Eni {
    /// An empty slot.
    pub const EMPTY: Self = Self {
        ifindex: 0,
        #[cfg(feature = "next-abi")]
        generation: 0,
        mtu: 0,
        flags: 0,
        mac: Mac::ZERO,
        gateway_mac: Mac::ZERO,
        gateway_mac_v6: Mac::ZERO,
        reserved: [0; 2],
    };
}
