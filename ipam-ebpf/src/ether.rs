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
    /// IPv6.
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
    /// An IEEE 802.1Q tag.
    pub const VLAN: [u8; 2] = [0x81, 0x00];
    /// An IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];
}

/// An Ethernet header without a tag. Frames start at an even address; that it is said here, as in the other headers, halves
/// the loads that a MAC or an address takes.
#[repr(C, align(2))]
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
pub fn same_mac(a: Mac, b: Mac) -> bool {
    words(a) == words(b)
}

/// Whether a MAC is [`Mac::ZERO`].
#[inline(always)]
pub fn is_zero(mac: Mac) -> bool {
    words(mac) == (0, 0)
}

#[inline(always)]
fn words(mac: Mac) -> (u32, u16) {
    let [o0, o1, o2, o3, o4, o5] = mac.octets;
    (u32::from_ne_bytes([o0, o1, o2, o3]), u16::from_ne_bytes([o4, o5]))
}
