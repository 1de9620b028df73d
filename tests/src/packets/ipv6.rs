//! IPv6 packets with extension headers, and neighbour messages.

use std::net::Ipv6Addr;

use ipam_common::Mac;

use super::{IPV6, ethernet};

/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Extension header "hop-by-hop options".
pub const HOP_BY_HOP: u8 = 0;
/// Extension header "routing".
pub const ROUTING: u8 = 43;
/// Extension header "fragment".
pub const FRAGMENT: u8 = 44;
/// Extension header "destination options".
pub const DESTINATION_OPTIONS: u8 = 60;

/// An extension header: its number, and its bytes behind the octet that names the next header.
pub type Extension = (u8, Vec<u8>);

/// An IPv6 packet in an Ethernet frame. What is `None` is computed.
#[derive(Clone, Debug)]
pub struct Ipv6Frame {
    /// Destination MAC.
    pub to_mac: Mac,
    /// Source MAC.
    pub from_mac: Mac,
    /// Version, 6 unless the packet shall be wrong.
    pub version: u8,
    /// Bytes behind the header.
    pub payload_len: Option<u16>,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Between the header and the payload.
    pub extensions: Vec<Extension>,
    /// IP protocol number of the payload, or the number of an extension header that stands in it.
    pub protocol: u8,
    /// What follows the headers.
    pub payload: Vec<u8>,
}

impl Ipv6Frame {
    /// A UDP packet of 20 bytes of payload with its header, between the ports of `Ipv4Frame::udp`.
    #[must_use]
    pub fn udp(from_mac: Mac, to_mac: Mac, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let mut payload = vec![0x1f, 0x90, 0x1f, 0x91, 0, 20, 0, 0];
        payload.extend(0..12);
        Self {
            to_mac,
            from_mac,
            version: 6,
            payload_len: None,
            hop_limit: 64,
            source,
            destination,
            extensions: Vec::new(),
            protocol: 17,
            payload,
        }
    }

    /// An ICMPv6 message with hop limit 255, as neighbour discovery wants it.
    #[must_use]
    pub fn icmp(
        from_mac: Mac,
        to_mac: Mac,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        message: Vec<u8>,
    ) -> Self {
        let udp = Self::udp(from_mac, to_mac, source, destination);
        Self { hop_limit: 255, protocol: ICMPV6, payload: message, ..udp }
    }

    /// The IPv6 packet, without the Ethernet header.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let next_headers = self.extensions.iter().map(|(number, _)| *number).chain([self.protocol]);
        let chain = self.extensions.iter().zip(next_headers.clone().skip(1));
        let mut behind: Vec<u8> = chain.flat_map(|((_, rest), next)| [&[next], &rest[..]].concat()).collect();
        behind.extend(&self.payload);
        let len = self.payload_len.unwrap_or_else(|| behind.len().try_into().expect("an IPv6 packet"));
        let first = next_headers.into_iter().next().expect("at least the protocol");
        let mut packet = vec![self.version << 4, 0, 0, 0];
        packet.extend(len.to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(behind);
        packet
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        ethernet(self.to_mac, self.from_mac, IPV6, &self.packet())
    }
}

/// A header of padding options, or a routing header of type 0 with nothing to route by: `units` times eight bytes long.
#[must_use]
pub fn padding(number: u8, units: u8) -> Extension {
    let len = usize::from(units) * 8;
    let mut rest = vec![units - 1];
    if number != ROUTING {
        rest.extend([1, u8::try_from(len - 4).expect("short enough for one option")]);
    }
    rest.resize(len - 1, 0);
    (number, rest)
}

/// A fragment header; the offset in units of eight bytes.
#[must_use]
pub fn fragment(offset: u16, more: bool) -> Extension {
    let [o0, o1] = (offset << 3 | u16::from(more)).to_be_bytes();
    (FRAGMENT, vec![0, o0, o1, 0x12, 0x34, 0x56, 0x78])
}

/// A neighbour solicitation (135) or advertisement (136), with an option of a link-layer address (1: source, 2: target).
#[must_use]
pub fn neighbour(icmp_type: u8, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = vec![icmp_type, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target.octets());
    if let Some((number, mac)) = option {
        message.extend([number, 1]);
        message.extend(mac.octets);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_what_follows() {
        let mac = Mac { octets: [2, 0, 0, 0, 0, 1] };
        let plain = Ipv6Frame::udp(mac, mac, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let frame = Ipv6Frame { extensions: vec![padding(HOP_BY_HOP, 2), fragment(3, true)], ..plain };
        let packet = frame.packet();
        assert_eq!(packet.len(), 40 + 16 + 8 + 20);
        assert_eq!(packet[4..7], [0, 44, HOP_BY_HOP]);
        assert_eq!(packet[40..44], [FRAGMENT, 1, 1, 12]);
        assert_eq!(packet[56..60], [17, 0, 0, 25]);
    }
}
