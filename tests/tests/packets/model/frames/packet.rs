//! An IP packet of either family: right, or wrong where it is told to be.

use std::net::IpAddr;

/// An extension header of IPv6, or an option of IPv4.
#[derive(Clone, Debug)]
pub enum Extra {
    /// Of this number, with this many times eight bytes behind the first eight. IPv4: four bytes of padding.
    Options(u8, u8),
    /// A fragment header. IPv4: not a header of its own.
    Fragment,
}

/// An IP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    /// As in the header: of IPv4 the flags above the offset, of IPv6 the offset above the flags. IPv6 has it in the fragment
    /// header only.
    pub fragment: u16,
    pub extras: Vec<Extra>,
    pub payload: Vec<u8>,
    /// What the header says, if not the truth: the total length, or of IPv6 that of what follows the header.
    pub len: Option<u16>,
    pub version: Option<u8>,
    /// IPv4 only.
    pub ihl: Option<u8>,
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            hop_limit: 255,
            fragment: 0,
            extras: Vec::new(),
            payload,
            len: None,
            version: None,
            ihl: None,
        }
    }

    /// Length in bytes of all headers.
    pub fn headers_len(&self) -> usize {
        let extras = self.extras.iter();
        if self.source.is_ipv4() {
            20 + 4 * extras.filter(|extra| matches!(extra, Extra::Options(..))).count().min(10)
        } else {
            let len = |extra: &Extra| match extra {
                Extra::Options(_, more) => 8 + 8 * usize::from(*more),
                Extra::Fragment => 8,
            };
            40 + extras.map(len).sum::<usize>()
        }
    }

    /// The packet from its IP header on. A destination of the other family stands in its first octets.
    pub fn build(&self) -> Vec<u8> {
        if self.source.is_ipv4() { self.build_v4() } else { self.build_v6() }
    }

    fn build_v4(&self) -> Vec<u8> {
        let header_len = self.headers_len();
        let ihl = self.ihl.unwrap_or_else(|| u8::try_from(header_len / 4).unwrap());
        let len = self.len.unwrap_or_else(|| short(header_len + self.payload.len()));
        let mut bytes = vec![self.version.unwrap_or(4) << 4 | ihl, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.hop_limit, self.protocol, 0, 0]);
        bytes.extend(&octets(self.source)[..4]);
        bytes.extend(&octets(self.destination)[..4]);
        bytes.resize(header_len, 1);
        bytes.extend(&self.payload);
        bytes
    }

    fn build_v6(&self) -> Vec<u8> {
        let len = self.len.unwrap_or_else(|| short(self.headers_len() - 40 + self.payload.len()));
        let numbers: Vec<u8> = self
            .extras
            .iter()
            .map(|extra| match extra {
                Extra::Options(number, _) => *number,
                Extra::Fragment => 44,
            })
            .chain([self.protocol])
            .collect();
        let mut bytes = vec![self.version.unwrap_or(6) << 4, 0, 0, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend([numbers[0], self.hop_limit]);
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        for (extra, next) in self.extras.iter().zip(&numbers[1..]) {
            match extra {
                Extra::Options(_, more) => {
                    // One option of padding (PadN) that fills the header.
                    bytes.extend([*next, *more, 1, 4 + 8 * *more]);
                    bytes.resize(bytes.len() + 4 + 8 * usize::from(*more), 0);
                }
                Extra::Fragment => {
                    bytes.extend([*next, 0]);
                    bytes.extend(self.fragment.to_be_bytes());
                    bytes.extend([0, 0, 0x12, 0x34]);
                }
            }
        }
        bytes.extend(&self.payload);
        bytes
    }
}

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("a packet that fits its header")
}

/// An address in sixteen octets, as IPv6 has them; IPv4 in the first four.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&addr.octets());
            octets
        }
        IpAddr::V6(addr) => addr.octets(),
    }
}
