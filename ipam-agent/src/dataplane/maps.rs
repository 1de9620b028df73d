//! The maps: adopting pinned ones, and reading and writing their entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, MapType, PerCpuArray, PerCpuHashMap, PerCpuValues,
        lpm_trie::Key,
    },
    sys::SyscallError,
};
use ipam_common::{
    ABI_VERSION, DROP_REASONS, DropCount, DropReason, Eni, Ipv4Octets, MAX_ENIS, PodRoute, PodStats,
    StackFlow,
    maps::{
        ABI, DROPS, ENIS, MAX_NODE_ADDRS, MAX_PODS, MAX_STACK_CIDRS, MAX_STACK_FLOWS, NODE_ADDRS,
        POD_ROUTES_V4, POD_STATS, STACK_CIDR_PRESENT, STACK_CIDRS, STACK_FLOWS,
    },
};
use ipnet::Ipv4Net;

use super::DataplaneError;

/// `BPF_NOEXIST` of `linux/bpf.h`: insert, but never overwrite.
const NO_EXIST: u64 = 1;

/// Type and sizes of a map, as the kernel knows them.
#[derive(Clone, Copy, PartialEq)]
struct Shape {
    map_type: Option<MapType>,
    key_size: usize,
    value_size: usize,
    max_entries: usize,
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

const fn shape<K, V>(map_type: MapType, max_entries: usize) -> Shape {
    Shape { map_type: Some(map_type), key_size: size_of::<K>(), value_size: size_of::<V>(), max_entries }
}

/// Every map and its shape, as `ipam-ebpf/src/maps.rs` defines them.
const SHAPES: [(&str, Shape); 8] = [
    (POD_ROUTES_V4, shape::<Ipv4Octets, PodRoute>(MapType::Hash, MAX_PODS)),
    (ENIS, shape::<u32, Eni>(MapType::Array, MAX_ENIS as usize)),
    (STACK_CIDRS, shape::<Key<Ipv4Octets>, u32>(MapType::LpmTrie, MAX_STACK_CIDRS)),
    (STACK_FLOWS, shape::<StackFlow, u32>(MapType::LruHash, MAX_STACK_FLOWS)),
    (NODE_ADDRS, shape::<Ipv4Octets, u32>(MapType::Hash, MAX_NODE_ADDRS)),
    (POD_STATS, shape::<Ipv4Octets, PodStats>(MapType::PerCpuHash, MAX_PODS)),
    (DROPS, shape::<u32, DropCount>(MapType::PerCpuArray, DROP_REASONS as usize)),
    (ABI, shape::<u32, u32>(MapType::Array, 1)),
];

/// The names of the maps, which are also those of their pins.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.into_iter().map(|(name, _)| name)
}

/// Refuses maps that were pinned by something else or by an agent of another ABI version. aya would adopt whatever
/// bears the name.
///
/// An `ABI` map without a version is that of an agent that died in its first [`Maps::take`]: its maps are empty.
pub fn check_pinned(dir: &Path) -> Result<(), DataplaneError> {
    for (name, expected) in SHAPES {
        let path = dir.join(name);
        let Some(data) = open_pinned(&path)? else { continue };
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
        if name == ABI {
            let map =
                Map::from_map_data(data).and_then(Array::<_, u32>::try_from).map_err(failed("open", ABI))?;
            match map.get(&0, 0).map_err(failed("read", ABI))? {
                0 | ABI_VERSION => {}
                found => {
                    let path = dir.to_owned();
                    return Err(DataplaneError::AbiVersion { path, found, expected: ABI_VERSION });
                }
            }
        }
    }
    Ok(())
}

/// The map pinned at `path`, `None` if there is nothing.
fn open_pinned(path: &Path) -> Result<Option<MapData>, DataplaneError> {
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

fn failed(action: &'static str, map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { action, map, source: Box::new(source) }
}

/// Handles to the maps, typed.
pub struct Maps {
    routes: HashMap<MapData, Ipv4Octets, PodRoute>,
    enis: Array<MapData, Eni>,
    stack_cidrs: LpmTrie<MapData, Ipv4Octets, u32>,
    stack_flows: HashMap<MapData, StackFlow, u32>,
    node_addrs: HashMap<MapData, Ipv4Octets, u32>,
    stats: PerCpuHashMap<MapData, Ipv4Octets, PodStats>,
    drops: PerCpuArray<MapData, DropCount>,
}

impl Maps {
    /// Takes the maps out of a loaded object, and marks them with our ABI version.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(
            ebpf: &mut Ebpf,
            name: &'static str,
        ) -> Result<T, DataplaneError> {
            let map = ebpf.take_map(name).ok_or(MapError::InvalidName { name: name.to_owned() });
            map.and_then(T::try_from).map_err(failed("find the type", name))
        }
        let mut abi: Array<_, u32> = typed(ebpf, ABI)?;
        abi.set(0, ABI_VERSION, 0).map_err(failed("write", ABI))?;
        Ok(Self {
            routes: typed(ebpf, POD_ROUTES_V4)?,
            enis: typed(ebpf, ENIS)?,
            stack_cidrs: typed(ebpf, STACK_CIDRS)?,
            stack_flows: typed(ebpf, STACK_FLOWS)?,
            node_addrs: typed(ebpf, NODE_ADDRS)?,
            stats: typed(ebpf, POD_STATS)?,
            drops: typed(ebpf, DROPS)?,
        })
    }

    pub fn set_route(&mut self, ip: Ipv4Addr, route: &PodRoute) -> Result<(), DataplaneError> {
        // Counters first: no packet that a route lets pass goes uncounted.
        let new_stats = self.add_stats(ip)?;
        self.routes.insert(Ipv4Octets::from(ip), route, 0).map_err(|error| {
            if new_stats {
                // Keeps the first error: this one only leaves counters that nobody reads.
                let _ = self.stats.remove(&ip.into());
            }
            failed("insert", POD_ROUTES_V4)(error)
        })
    }

    /// Makes zero counters, unless there are some.
    fn add_stats(&mut self, ip: Ipv4Addr) -> Result<bool, DataplaneError> {
        let mut insert = || {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            let zero = PerCpuValues::try_from(vec![PodStats::default(); cpus])?;
            self.stats.insert(Ipv4Octets::from(ip), zero, NO_EXIST)
        };
        match insert() {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(failed("insert", POD_STATS)(error)),
        }
    }

    pub fn remove_route(&mut self, ip: Ipv4Addr, ifindex: Option<u32>) -> Result<bool, DataplaneError> {
        let Some(route) = self.route(ip)? else { return Ok(false) };
        if ifindex.is_some_and(|ifindex| ifindex != route.ifindex) {
            return Ok(false);
        }
        let removed =
            present(self.routes.remove(&ip.into())).map_err(failed("remove", POD_ROUTES_V4))?.is_some();
        present(self.stats.remove(&ip.into())).map_err(failed("remove", POD_STATS))?;
        Ok(removed)
    }

    pub fn route(&self, ip: Ipv4Addr) -> Result<Option<PodRoute>, DataplaneError> {
        present(self.routes.get(&ip.into(), 0)).map_err(failed("read", POD_ROUTES_V4))
    }

    pub fn routes(&self) -> Result<Vec<(Ipv4Addr, PodRoute)>, DataplaneError> {
        let routes = self.routes.iter().map(|entry| entry.map(|(ip, route)| (ip.into(), route)));
        routes.collect::<Result<_, _>>().map_err(failed("read", POD_ROUTES_V4))
    }

    pub fn set_eni(&mut self, slot: u32, eni: &Eni) -> Result<(), DataplaneError> {
        if !(1..MAX_ENIS).contains(&slot) {
            return Err(DataplaneError::EniSlot { slot });
        }
        self.enis.set(slot, eni, 0).map_err(failed("write", ENIS))
    }

    pub fn enis(&self) -> Result<Vec<(u32, Eni)>, DataplaneError> {
        let slots = (0..MAX_ENIS).zip(self.enis.iter()).map(|(slot, eni)| eni.map(|eni| (slot, eni)));
        slots
            .filter(|slot| !matches!(slot, Ok((_, Eni::EMPTY))))
            .collect::<Result<_, _>>()
            .map_err(failed("read", ENIS))
    }

    pub fn set_stack_cidrs(&mut self, cidrs: &[Ipv4Net]) -> Result<(), DataplaneError> {
        let wanted: BTreeSet<_> = cidrs.iter().map(Ipv4Net::trunc).collect();
        if wanted.len() > MAX_STACK_CIDRS {
            return Err(DataplaneError::TooManyStackCidrs { count: wanted.len() });
        }
        let present_now: BTreeSet<_> = self.stack_cidrs()?.into_iter().collect();
        let key = |cidr: &Ipv4Net| Key::new(cidr.prefix_len().into(), Ipv4Octets::from(cidr.network()));
        let (missing, stale) = (&wanted - &present_now, &present_now - &wanted);
        // Nearly full of stale prefixes, the map has no room for the new ones beside them.
        let make_room = wanted.len().max(present_now.len()) + missing.len() > MAX_STACK_CIDRS;
        let add = |maps: &mut Self| {
            missing.iter().try_for_each(|cidr| maps.stack_cidrs.insert(&key(cidr), STACK_CIDR_PRESENT, 0))
        };
        let remove = |maps: &mut Self| {
            stale.iter().try_for_each(|cidr| present(maps.stack_cidrs.remove(&key(cidr))).map(|_| ()))
        };
        if make_room { remove(self).and_then(|()| add(self)) } else { add(self).and_then(|()| remove(self)) }
            .map_err(failed("write", STACK_CIDRS))
    }

    pub fn stack_cidrs(&self) -> Result<Vec<Ipv4Net>, DataplaneError> {
        let mut cidrs = Vec::new();
        for key in self.stack_cidrs.keys() {
            let key = key.map_err(failed("read", STACK_CIDRS))?;
            let prefix_len = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            // The kernel keeps no prefix longer than the address.
            cidrs.extend(Ipv4Net::new(key.data().into(), prefix_len));
        }
        cidrs.sort();
        Ok(cidrs)
    }

    pub fn set_node_addrs(&mut self, wanted: &BTreeMap<Ipv4Addr, u32>) -> Result<(), DataplaneError> {
        let found = self.node_addrs()?;
        let mut write = || -> Result<(), MapError> {
            for ip in found.keys().filter(|ip| !wanted.contains_key(ip)) {
                present(self.node_addrs.remove(&Ipv4Octets::from(*ip)))?;
            }
            for (ip, slot) in wanted.iter().filter(|(ip, slot)| found.get(ip) != Some(slot)) {
                self.node_addrs.insert(Ipv4Octets::from(*ip), slot, 0)?;
            }
            Ok(())
        };
        write().map_err(failed("write", NODE_ADDRS))
    }

    pub fn node_addrs(&self) -> Result<BTreeMap<Ipv4Addr, u32>, DataplaneError> {
        let addrs = self.node_addrs.iter().map(|entry| entry.map(|(ip, slot)| (ip.into(), slot)));
        addrs.collect::<Result<_, _>>().map_err(failed("read", NODE_ADDRS))
    }

    pub fn stack_flows(&self) -> Result<Vec<StackFlow>, DataplaneError> {
        self.stack_flows.keys().collect::<Result<_, _>>().map_err(failed("read", STACK_FLOWS))
    }

    pub fn pod_stats(&self, ip: Ipv4Addr) -> Result<Option<PodStats>, DataplaneError> {
        let per_cpu = present(self.stats.get(&ip.into(), 0)).map_err(failed("read", POD_STATS))?;
        Ok(per_cpu.map(|values| values.iter().copied().sum()))
    }

    pub fn drops(&self) -> Result<Vec<(DropReason, DropCount)>, DataplaneError> {
        DropReason::ALL
            .into_iter()
            .map(|reason| Ok((reason, self.drops.get(&(reason as u32), 0)?.iter().copied().sum())))
            .collect::<Result<_, _>>()
            .map_err(failed("read", DROPS))
    }
}

/// `None` for a key that is not in the map. aya tells so in two ways: `KeyNotFound` of a look-up, and the system's error of a
/// removal.
fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
