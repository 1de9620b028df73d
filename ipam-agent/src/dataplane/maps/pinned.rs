//! What is pinned: which maps there are, and whether those found are ours.

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError, MapType, lpm_trie::Key},
    sys::SyscallError,
};
use ipam_common::{
    DROP_REASONS, DropCount, DropEvent, Eni, FlowStats, Ipv4Octets, Ipv6Octets, MAX_ENIS, PodRoute, PodStats,
    StackFlow,
    layout::{Field, Layout},
    maps::{
        ABI, DROP_EVENTS, DROP_EVENTS_BYTES, DROP_SAMPLES, DROPS, ENIS, FLOW_STATS, LAYOUT,
        LAYOUT_LINE_BYTES, MAX_LAYOUT_LINES, MAX_NODE_ADDRS, MAX_PODS, MAX_STACK_CIDRS, MAX_STACK_FLOWS,
        NODE_ADDRS, NODE_ADDRS_V6, POD_ROUTES_V4, POD_ROUTES_V6, POD_STATS, POD_STATS_V6, STACK_CIDRS,
        STACK_CIDRS_V6, STACK_FLOWS,
    },
};

use super::{
    failed,
    layout::{self, Kind, MapLayout},
};
use crate::dataplane::DataplaneError;

/// Type and sizes of a map, as the kernel knows them.
#[derive(Clone, Copy, PartialEq)]
struct Shape {
    map_type: Option<MapType>,
    key_size: usize,
    value_size: usize,
    max_entries: usize,
}

impl Shape {
    fn of(layout: &MapLayout) -> Self {
        let value_size = if layout.kind == Kind::RingBuf { 0 } else { layout::size(&layout.value) };
        Self {
            map_type: Some(layout.kind.map_type()),
            key_size: layout::size(&layout.key),
            value_size,
            max_entries: layout.max_entries,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map_type, key_size, value_size, max_entries } = self;
        match map_type {
            Some(map_type) => write!(f, "{map_type:?}")?,
            None => write!(f, "an unknown type")?,
        }
        write!(f, " of {max_entries} entries, key {key_size} bytes, value {value_size} bytes")
    }
}

/// A map as `ipam-ebpf/src/maps.rs` defines it.
#[derive(Clone, Copy)]
struct Declared {
    name: &'static str,
    kind: Kind,
    max_entries: usize,
    key: &'static [Field],
    value: &'static [Field],
}

const fn map<K: Layout, V: Layout>(name: &'static str, kind: Kind, max_entries: usize) -> Declared {
    Declared { name, kind, max_entries, key: K::FIELDS, value: V::FIELDS }
}

/// The messages of a ring buffer are its values here; its size is in bytes.
const DROP_EVENTS_RING: Declared = Declared {
    name: DROP_EVENTS,
    kind: Kind::RingBuf,
    max_entries: DROP_EVENTS_BYTES,
    key: &[],
    value: DropEvent::FIELDS,
};

const LAYOUT_LINES: Declared = Declared {
    name: LAYOUT,
    kind: Kind::Array,
    max_entries: MAX_LAYOUT_LINES,
    key: u32::FIELDS,
    value: &[Field { name: "line", offset: 0, len: LAYOUT_LINE_BYTES }],
};

/// Every map.
const MAPS: [Declared; 16] = [
    map::<Ipv4Octets, PodRoute>(POD_ROUTES_V4, Kind::Hash, MAX_PODS),
    map::<Ipv6Octets, PodRoute>(POD_ROUTES_V6, Kind::Hash, MAX_PODS),
    map::<u32, Eni>(ENIS, Kind::Array, MAX_ENIS as usize),
    map::<Key<Ipv4Octets>, u32>(STACK_CIDRS, Kind::LpmTrie, MAX_STACK_CIDRS),
    map::<Key<Ipv6Octets>, u32>(STACK_CIDRS_V6, Kind::LpmTrie, MAX_STACK_CIDRS),
    map::<StackFlow, u32>(STACK_FLOWS, Kind::LruHash, MAX_STACK_FLOWS),
    map::<u32, FlowStats>(FLOW_STATS, Kind::PerCpuArray, 1),
    map::<Ipv4Octets, u32>(NODE_ADDRS, Kind::Hash, MAX_NODE_ADDRS),
    map::<Ipv6Octets, u32>(NODE_ADDRS_V6, Kind::Hash, MAX_NODE_ADDRS),
    map::<Ipv4Octets, PodStats>(POD_STATS, Kind::PerCpuHash, MAX_PODS),
    map::<Ipv6Octets, PodStats>(POD_STATS_V6, Kind::PerCpuHash, MAX_PODS),
    map::<u32, DropCount>(DROPS, Kind::PerCpuArray, DROP_REASONS as usize),
    DROP_EVENTS_RING,
    map::<u32, u64>(DROP_SAMPLES, Kind::PerCpuArray, DROP_REASONS as usize),
    LAYOUT_LINES,
    map::<u32, u32>(ABI, Kind::Array, 1),
];

/// Every map of this version, described.
pub fn layouts() -> impl Iterator<Item = MapLayout> {
    MAPS.into_iter().map(|Declared { name, kind, max_entries, key, value }| MapLayout {
        name: name.to_owned(),
        kind,
        max_entries,
        key: layout::own(key),
        value: layout::own(value),
    })
}

/// The names of the maps, which are also those of their pins.
pub fn names() -> impl Iterator<Item = &'static str> {
    MAPS.into_iter().map(|map| map.name)
}

/// Opens a pinned map and refuses one that was made by something else; `None` if there is nothing.
pub fn open(dir: &Path, expected: &MapLayout) -> Result<Option<MapData>, DataplaneError> {
    let path = dir.join(&expected.name);
    let Some(data) = open_pinned(&path)? else { return Ok(None) };
    let expected = Shape::of(expected);
    let foreign = |found: String| DataplaneError::ForeignMap {
        path: path.clone(),
        found,
        expected: expected.to_string(),
    };
    let info = data.info().map_err(|source| foreign(source.to_string()))?;
    let found = Shape {
        map_type: info.map_type().ok(),
        key_size: info.key_size() as usize,
        value_size: info.value_size() as usize,
        max_entries: info.max_entries() as usize,
    };
    if found != expected {
        return Err(foreign(found.to_string()));
    }
    Ok(Some(data))
}

/// The version of the maps pinned in `dir`. `None`: there are none, or the agent that made them died before it wrote the
/// version, and they are empty.
pub fn version(dir: &Path) -> Result<Option<u32>, DataplaneError> {
    let Some(map) = read_array::<u32>(dir, ABI)? else { return Ok(None) };
    let version = map.get(&0, 0).map_err(failed("read", ABI))?;
    Ok((version != 0).then_some(version))
}

/// The lines of the map `LAYOUT` in `dir`; none if there is no such map, or its agent died before it wrote them.
pub fn lines(dir: &Path) -> Result<Vec<String>, DataplaneError> {
    let Some(map) = read_array::<[u8; LAYOUT_LINE_BYTES]>(dir, LAYOUT)? else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    for line in map.iter() {
        let line = line.map_err(failed("read", LAYOUT))?;
        let text = line.split(|octet| *octet == 0).next().unwrap_or_default();
        if !text.is_empty() {
            lines.push(String::from_utf8_lossy(text).into_owned());
        }
    }
    Ok(lines)
}

fn read_array<V: Pod>(dir: &Path, name: &'static str) -> Result<Option<Array<MapData, V>>, DataplaneError> {
    let layout = layouts().find(|layout| layout.name == name);
    let Some(data) = layout.map(|layout| open(dir, &layout)).transpose()?.flatten() else { return Ok(None) };
    Map::from_map_data(data).and_then(Array::try_from).map(Some).map_err(failed("open", name))
}

/// The map pinned at `path`, `None` if there is nothing.
pub fn open_pinned(path: &Path) -> Result<Option<MapData>, DataplaneError> {
    let foreign = || DataplaneError::ForeignPin { path: path.to_owned(), expected: "map" };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataplaneError::Io { action: "read", path: path.to_owned(), source }),
        Ok(metadata) if !metadata.is_file() => return Err(foreign()),
        Ok(_) => {}
    }
    let data = MapData::from_pin(path).map_err(|error| match error {
        MapError::SyscallError(SyscallError { io_error: source, .. }) => {
            DataplaneError::Io { action: "open", path: path.to_owned(), source }
        }
        _ => foreign(),
    })?;
    // The kernel opens a pinned program or link just as readily; only the name of the descriptor tells.
    let descriptor = format!("/proc/self/fd/{}", data.fd().as_fd().as_raw_fd());
    let kind = fs::read_link(&descriptor).map_err(|source| DataplaneError::Io {
        action: "read",
        path: descriptor.into(),
        source,
    })?;
    if kind.as_os_str() != "anon_inode:bpf-map" {
        return Err(foreign());
    }
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_can_be_described_in_its_line() {
        let layouts: Vec<_> = layouts().collect();
        assert!(layouts.len() <= MAX_LAYOUT_LINES);
        for layout in &layouts {
            let line = layout.to_string();
            assert!(line.len() < LAYOUT_LINE_BYTES, "{line}");
            assert_eq!(MapLayout::parse(&line).as_ref(), Some(layout));
            assert_eq!(layouts.iter().filter(|other| other.name == layout.name).count(), 1, "{line}");
        }
    }
}
