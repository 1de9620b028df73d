//! A frame taken apart: what stands in it, without any opinion on it.

use crate::addr::{Ipv4Octets, Mac};

/// Length in bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// An Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the frame says it comes from.
    pub source: Mac,
    /// The EtherType, or a length if below 0x0600.
    pub ether_type: u16,
    /// What it carries.
    pub payload: Payload,
}

/// What a frame carries, by its EtherType. `None`: the frame ends before the header does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// IPv4 (0x0800).
    Ipv4(Option<Ipv4>),
    /// ARP (0x0806).
    Arp(Option<Arp>),
    /// Anything else.
    Other,
}

/// An IPv4 header without its options (RFC 791 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version.
    pub version: u8,
    /// Length of the header in units of four bytes.
    pub ihl: u8,
    /// Length in bytes of header and payload.
    pub total_len: u16,
    /// Source address.
    pub source: Ipv4Octets,
    /// Destination address.
    pub destination: Ipv4Octets,
}

impl Ipv4 {
    /// Length of the header in bytes, options included, as the header says.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.ihl) << 2
    }
}

/// An ARP message as long as those for IPv4 over Ethernet are (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// `ar$hrd`.
    pub hardware_type: u16,
    /// `ar$pro`.
    pub protocol_type: u16,
    /// `ar$hln`, in bytes.
    pub hardware_len: u8,
    /// `ar$pln`, in bytes.
    pub protocol_len: u8,
    /// `ar$sha`.
    pub sender_mac: Mac,
    /// `ar$spa`.
    pub sender: Ipv4Octets,
    /// `ar$tpa`.
    pub target: Ipv4Octets,
}

impl Frame {
    /// `None`: shorter than an Ethernet header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(ETHERNET_LEN)?;
        let ether_type = number(header, 12)?;
        let payload = match ether_type {
            0x0800 => Payload::Ipv4(Ipv4::parse(body)),
            0x0806 => Payload::Arp(Arp::parse(body)),
            _ => Payload::Other,
        };
        Some(Self { source: mac(header, 6)?, ether_type, payload })
    }
}

impl Ipv4 {
    fn parse(body: &[u8]) -> Option<Self> {
        let destination = addr(body, 16)?;
        let [first] = octets(body, 0)?;
        Some(Self {
            version: first / 16,
            ihl: first % 16,
            total_len: number(body, 2)?,
            source: addr(body, 12)?,
            destination,
        })
    }
}

impl Arp {
    fn parse(body: &[u8]) -> Option<Self> {
        let target = addr(body, 24)?;
        let [hardware_len, protocol_len] = octets(body, 4)?;
        Some(Self {
            hardware_type: number(body, 0)?,
            protocol_type: number(body, 2)?,
            hardware_len,
            protocol_len,
            sender_mac: mac(body, 8)?,
            sender: addr(body, 14)?,
            target,
        })
    }
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    octets(bytes, at).map(u16::from_be_bytes)
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    octets(bytes, at).map(|octets| Mac { octets })
}

fn addr(bytes: &[u8], at: usize) -> Option<Ipv4Octets> {
    octets(bytes, at).map(|octets| Ipv4Octets { octets })
}
