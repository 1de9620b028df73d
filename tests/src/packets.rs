//! Frames for the packet tests: right ones, and ones that are wrong in exactly one place.

pub mod ipv6;

use std::net::Ipv4Addr;

use ipam_common::Mac;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.octets[..], &source.octets, &ether_type.to_be_bytes(), payload].concat()
}

/// A copy of `frame` with other MACs.
#[must_use]
pub fn with_macs(frame: &[u8], destination: Mac, source: Mac) -> Vec<u8> {
    [&destination.octets[..], &source.octets, &frame[12..]].concat()
}

/// An IPv4 packet in an Ethernet frame. What is `None` is computed.
#[derive(Clone, Debug)]
pub struct Ipv4Frame {
    /// Destination MAC.
    pub to_mac: Mac,
    /// Source MAC.
    pub from_mac: Mac,
    /// Version, 4 unless the packet shall be wrong.
    pub version: u8,
    /// Header length in units of four bytes.
    pub ihl: Option<u8>,
    /// Header and payload in bytes.
    pub total_len: Option<u16>,
    /// Flags in the upper three bits, fragment offset in units of eight bytes in the others.
    pub fragment: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Header options: at most 40 bytes, a multiple of four.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ipv4Frame {
    /// A UDP packet of 20 bytes of payload with its header.
    #[must_use]
    pub fn udp(from_mac: Mac, to_mac: Mac, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let mut payload = vec![0x1f, 0x90, 0x1f, 0x91, 0, 20, 0, 0];
        payload.extend(0..12);
        Self {
            to_mac,
            from_mac,
            version: 4,
            ihl: None,
            total_len: None,
            fragment: 0,
            protocol: 17,
            source,
            destination,
            options: Vec::new(),
            payload,
        }
    }

    /// The IPv4 packet, without the Ethernet header, with a correct header checksum.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let computed_ihl = u8::try_from(header_len / 4).expect("at most 40 bytes of options");
        let computed_len = u16::try_from(header_len + self.payload.len()).expect("an IPv4 packet");
        let mut header = vec![self.version << 4 | self.ihl.unwrap_or(computed_ihl), 0];
        header.extend(self.total_len.unwrap_or(computed_len).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(&self.payload);
        header
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        ethernet(self.to_mac, self.from_mac, IPV4, &self.packet())
    }
}

/// The checksum of RFC 1071 over bytes of an even number.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// An ARP message for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct ArpFrame {
    /// Destination MAC of the frame.
    pub to_mac: Mac,
    /// Source MAC of the frame.
    pub from_mac: Mac,
    /// Hardware type, 1 for Ethernet.
    pub hardware_type: u16,
    /// 1: request, 2: reply.
    pub operation: u16,
    /// Sender's MAC in the message.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// The address that is asked for.
    pub target: Ipv4Addr,
}

impl ArpFrame {
    /// A broadcast request.
    #[must_use]
    pub fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        let to_mac = Mac { octets: [0xff; 6] };
        Self { to_mac, from_mac: mac, hardware_type: 1, operation: 1, sender_mac: mac, sender, target }
    }

    /// The frame, 42 bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let payload = [
            &self.hardware_type.to_be_bytes()[..],
            &IPV4.to_be_bytes(),
            &[6, 4],
            &self.operation.to_be_bytes(),
            &self.sender_mac.octets,
            &self.sender.octets(),
            &[0; 6],
            &self.target.octets(),
        ];
        ethernet(self.to_mac, self.from_mac, ARP, &payload.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_built_header_verifies() {
        let mac = Mac { octets: [2, 0, 0, 0, 0, 1] };
        let frame = Ipv4Frame::udp(mac, mac, Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 9, 9, 9)).build();
        assert_eq!(frame.len(), 54);
        assert_eq!(checksum(&frame[14..34]), 0);
    }
}
