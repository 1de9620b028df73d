//! Maps described in words, one line each, as they stand in the map `LAYOUT`:
//! `ENIS array 64 | value:0+4 | ifindex:0+4 mtu:4+4 …`: name, kind, entries, fields of a key, fields of a value;
//! `ifindex:0+4` is a field of four bytes at offset 0.
//!
//! The kernel's BTF of a map would tell the same, but only to CAP_SYS_ADMIN, which the agent does not have.

use std::fmt;

use aya::maps::MapType;
use ipam_common::layout::Field;

/// A field of another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldAt {
    /// Its name, by which it is found.
    pub name: String,
    /// Bytes before it.
    pub offset: usize,
    /// Its size in bytes.
    pub len: usize,
}

/// What a map is and what its keys and values consist of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Its name, which is that of its pin.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Entries; bytes of a ring buffer.
    pub max_entries: usize,
    /// Fields of a key; none of a ring buffer.
    pub key: Vec<FieldAt>,
    /// Fields of a value; of a ring buffer those of its messages.
    pub value: Vec<FieldAt>,
}

/// The kinds of maps that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_RINGBUF`.
    RingBuf,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Hash,
        Self::LruHash,
        Self::LpmTrie,
        Self::Array,
        Self::PerCpuHash,
        Self::PerCpuArray,
        Self::RingBuf,
    ];

    /// Its name, which is bpftool's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::LruHash => "lru_hash",
            Self::LpmTrie => "lpm_trie",
            Self::Array => "array",
            Self::PerCpuHash => "percpu_hash",
            Self::PerCpuArray => "percpu_array",
            Self::RingBuf => "ringbuf",
        }
    }

    /// As the kernel's type.
    #[must_use]
    pub fn map_type(self) -> MapType {
        match self {
            Self::Hash => MapType::Hash,
            Self::LruHash => MapType::LruHash,
            Self::LpmTrie => MapType::LpmTrie,
            Self::Array => MapType::Array,
            Self::PerCpuHash => MapType::PerCpuHash,
            Self::PerCpuArray => MapType::PerCpuArray,
            Self::RingBuf => MapType::RingBuf,
        }
    }

    /// Whether every CPU has a value of its own.
    #[must_use]
    pub fn per_cpu(self) -> bool {
        matches!(self, Self::PerCpuHash | Self::PerCpuArray)
    }

    /// Whether its keys are all there from the beginning.
    #[must_use]
    pub fn is_array(self) -> bool {
        matches!(self, Self::Array | Self::PerCpuArray)
    }
}

/// Bytes of a key or a value of these fields.
#[must_use]
pub fn size(fields: &[FieldAt]) -> usize {
    fields.iter().map(|field| field.offset + field.len).max().unwrap_or(0)
}

/// The fields of one of our own types.
pub fn own(fields: &[Field]) -> Vec<FieldAt> {
    fields.iter().map(|&Field { name, offset, len }| FieldAt { name: name.to_owned(), offset, len }).collect()
}

impl MapLayout {
    /// Reads a line; `None` when it is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(" |");
        let (head, key, value) = (parts.next()?, parts.next()?, parts.next()?);
        let mut head = head.split(' ');
        let name = head.next()?.to_owned();
        let kind = head.next()?;
        Some(Self {
            name,
            kind: Kind::ALL.into_iter().find(|it| it.name() == kind)?,
            max_entries: head.next()?.parse().ok()?,
            key: parse_fields(key)?,
            value: parse_fields(value)?,
        })
    }
}

fn parse_fields(text: &str) -> Option<Vec<FieldAt>> {
    let field = |word: &str| {
        let (name, place) = word.split_once(':')?;
        let (offset, len) = place.split_once('+')?;
        Some(FieldAt { name: name.to_owned(), offset: offset.parse().ok()?, len: len.parse().ok()? })
    };
    text.split_ascii_whitespace().map(field).collect()
}

impl fmt::Display for MapLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} |", self.name, self.kind.name(), self.max_entries)?;
        let fields = |f: &mut fmt::Formatter<'_>, fields: &[FieldAt]| {
            fields.iter().try_for_each(|FieldAt { name, offset, len }| write!(f, " {name}:{offset}+{len}"))
        };
        fields(f, &self.key)?;
        f.write_str(" |")?;
        fields(f, &self.value)
    }
}

/// The maps of version 1, which had no `LAYOUT`.
pub const VERSION_1: [&str; 8] = [
    "POD_ROUTES_V4 hash 4096 | octets:0+4 | ifindex:0+4 epoch:4+4 eni:8+2 flags:10+2 mac:12+6 reserved:18+2",
    "ENIS array 64 | value:0+4 | ifindex:0+4 mtu:4+4 flags:8+4 mac:12+6 gateway_mac:18+6",
    "STACK_CIDRS lpm_trie 1024 | prefix_len:0+4 data:4+4 | value:0+4",
    "STACK_FLOWS lru_hash 65536 | pod:0+16 peer:16+16 pod_port:32+2 peer_port:34+2 protocol:36+1 family:37+1 \
     reserved:38+2 | value:0+4",
    "NODE_ADDRS hash 1024 | octets:0+4 | value:0+4",
    "POD_STATS percpu_hash 4096 | octets:0+4 | rx_packets:0+8 rx_bytes:8+8 tx_packets:16+8 tx_bytes:24+8",
    "DROPS percpu_array 8 | value:0+4 | packets:0+8 bytes:8+8",
    "ABI array 1 | value:0+4 | value:0+4",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_read_back_and_other_text_is_refused() {
        for line in VERSION_1 {
            assert_eq!(MapLayout::parse(line).unwrap().to_string(), line);
        }
        for wrong in ["", "ENIS", "ENIS array | |", "ENIS tree 4 | |", "ENIS array 4 | a:0 |"] {
            assert_eq!(MapLayout::parse(wrong), None, "{wrong}");
        }
        let ring = MapLayout::parse("R ringbuf 4096 | | time_ns:0+8").unwrap();
        assert_eq!((size(&ring.key), size(&ring.value)), (0, 8));
    }
}
