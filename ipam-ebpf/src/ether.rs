//! The Ethernet header.

use ipam_common::Mac;

/// Length of the header in bytes.
pub const HEADER_LEN: u32 = 14;

/// EtherTypes in network byte order (IANA, IEEE 802 numbers).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    /// ARP.
    pub const ARP: [u8; 2] = [0x08, 0x06];
    /// An IEEE 802.1Q tag.
    pub const VLAN: [u8; 2] = [0x81, 0x00];
    /// An IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];
}

/// An Ethernet header without a tag.
#[repr(C)]
pub struct Header {
    /// Where the frame goes.
    pub destination: Mac,
    /// Where the frame says it comes from.
    pub source: Mac,
    /// One of [`ether_type`].
    pub ether_type: [u8; 2],
}

/// Whether two MACs are equal; cheaper in eBPF than the derived comparison, which calls `bcmp`.
#[inline(always)]
pub fn same_mac(a: &Mac, b: &Mac) -> bool {
    let [a, b] = [a, b].map(|mac| {
        let [o0, o1, o2, o3, o4, o5] = mac.octets;
        (u32::from_ne_bytes([o0, o1, o2, o3]), u16::from_ne_bytes([o4, o5]))
    });
    a.0 == b.0 && a.1 == b.1
}
