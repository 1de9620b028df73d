//! The maps that exist once for each address family.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, LpmTrie, MapData, MapError, PerCpuHashMap, PerCpuValues, lpm_trie::Key},
};
use ipam_common::{
    Ipv4Octets, Ipv6Octets, PodRoute, PodStats,
    maps::{
        MAX_STACK_CIDRS, NODE_ADDRS, NODE_ADDRS_V6, POD_ROUTES_V4, POD_ROUTES_V6, POD_STATS, POD_STATS_V6,
        STACK_CIDR_PRESENT, STACK_CIDRS, STACK_CIDRS_V6,
    },
};
use ipnet::IpNet;

use super::{failed, typed};
use crate::dataplane::DataplaneError;

/// `BPF_NOEXIST` of `linux/bpf.h`: insert, but never overwrite.
const NO_EXIST: u64 = 1;

/// An address of one family as it stands in the maps of that family.
pub trait Octets: Pod {
    /// Name of the map of routes.
    const ROUTES: &'static str;
    /// Name of the map of destinations that belong to the stack.
    const STACK_CIDRS: &'static str;
    /// Name of the map of the node's own addresses.
    const NODE_ADDRS: &'static str;
    /// Name of the map of counters.
    const STATS: &'static str;

    /// `None` when the address is of the other family.
    fn of(ip: IpAddr) -> Option<Self>;

    /// The address.
    fn ip(self) -> IpAddr;
}

impl Octets for Ipv4Octets {
    const ROUTES: &'static str = POD_ROUTES_V4;
    const STACK_CIDRS: &'static str = STACK_CIDRS;
    const NODE_ADDRS: &'static str = NODE_ADDRS;
    const STATS: &'static str = POD_STATS;

    fn of(ip: IpAddr) -> Option<Self> {
        if let IpAddr::V4(ip) = ip { Some(ip.into()) } else { None }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }
}

impl Octets for Ipv6Octets {
    const ROUTES: &'static str = POD_ROUTES_V6;
    const STACK_CIDRS: &'static str = STACK_CIDRS_V6;
    const NODE_ADDRS: &'static str = NODE_ADDRS_V6;
    const STATS: &'static str = POD_STATS_V6;

    fn of(ip: IpAddr) -> Option<Self> {
        if let IpAddr::V6(ip) = ip { Some(ip.into()) } else { None }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }
}

/// Handles to the maps of one family.
pub struct FamilyMaps<O: Pod> {
    routes: HashMap<MapData, O, PodRoute>,
    stack_cidrs: LpmTrie<MapData, O, u32>,
    node_addrs: HashMap<MapData, O, u32>,
    stats: PerCpuHashMap<MapData, O, PodStats>,
}

impl<O: Octets> FamilyMaps<O> {
    /// Takes the family's maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            routes: typed(ebpf, O::ROUTES)?,
            stack_cidrs: typed(ebpf, O::STACK_CIDRS)?,
            node_addrs: typed(ebpf, O::NODE_ADDRS)?,
            stats: typed(ebpf, O::STATS)?,
        })
    }

    pub fn set_route(&mut self, ip: O, route: &PodRoute) -> Result<(), DataplaneError> {
        // Counters first: no packet that a route lets pass goes uncounted.
        let new_stats = self.add_stats(ip)?;
        self.routes.insert(ip, route, 0).map_err(|error| {
            if new_stats {
                // Keeps the first error: this one only leaves counters that nobody reads.
                let _ = self.stats.remove(&ip);
            }
            failed("insert", O::ROUTES)(error)
        })
    }

    /// Makes zero counters, unless there are some.
    fn add_stats(&mut self, ip: O) -> Result<bool, DataplaneError> {
        let mut insert = || {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            let zero = PerCpuValues::try_from(vec![PodStats::default(); cpus])?;
            self.stats.insert(ip, zero, NO_EXIST)
        };
        match insert() {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(failed("insert", O::STATS)(error)),
        }
    }

    pub fn remove_route(&mut self, ip: O, ifindex: Option<u32>) -> Result<bool, DataplaneError> {
        let Some(route) = self.route(ip)? else { return Ok(false) };
        if ifindex.is_some_and(|ifindex| ifindex != route.ifindex) {
            return Ok(false);
        }
        let removed = present(self.routes.remove(&ip)).map_err(failed("remove", O::ROUTES))?.is_some();
        present(self.stats.remove(&ip)).map_err(failed("remove", O::STATS))?;
        Ok(removed)
    }

    pub fn route(&self, ip: O) -> Result<Option<PodRoute>, DataplaneError> {
        present(self.routes.get(&ip, 0)).map_err(failed("read", O::ROUTES))
    }

    pub fn routes(&self) -> Result<Vec<(IpAddr, PodRoute)>, DataplaneError> {
        let routes = self.routes.iter().map(|entry| entry.map(|(ip, route)| (ip.ip(), route)));
        routes.collect::<Result<_, _>>().map_err(failed("read", O::ROUTES))
    }

    /// The prefixes of this family in their shortest form.
    fn wanted(cidrs: &[IpNet]) -> BTreeSet<IpNet> {
        cidrs.iter().filter(|cidr| O::of(cidr.addr()).is_some()).map(IpNet::trunc).collect()
    }

    /// Refuses more prefixes than the map holds.
    pub fn check_stack_cidrs(&self, cidrs: &[IpNet]) -> Result<(), DataplaneError> {
        let count = Self::wanted(cidrs).len();
        if count > MAX_STACK_CIDRS { Err(DataplaneError::TooManyStackCidrs { count }) } else { Ok(()) }
    }

    pub fn set_stack_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), DataplaneError> {
        let wanted = Self::wanted(cidrs);
        let present_now: BTreeSet<_> = self.stack_cidrs()?.into_iter().collect();
        let key =
            |cidr: &IpNet| O::of(cidr.network()).map(|octets| Key::new(cidr.prefix_len().into(), octets));
        let (missing, stale) = (&wanted - &present_now, &present_now - &wanted);
        // Nearly full of stale prefixes, the map has no room for the new ones beside them.
        let make_room = wanted.len().max(present_now.len()) + missing.len() > MAX_STACK_CIDRS;
        let add = |maps: &mut Self| {
            let mut keys = missing.iter().filter_map(key);
            keys.try_for_each(|key| maps.stack_cidrs.insert(&key, STACK_CIDR_PRESENT, 0))
        };
        let remove = |maps: &mut Self| {
            let mut keys = stale.iter().filter_map(key);
            keys.try_for_each(|key| present(maps.stack_cidrs.remove(&key)).map(|_| ()))
        };
        if make_room { remove(self).and_then(|()| add(self)) } else { add(self).and_then(|()| remove(self)) }
            .map_err(failed("write", O::STACK_CIDRS))
    }

    /// Sorted.
    pub fn stack_cidrs(&self) -> Result<Vec<IpNet>, DataplaneError> {
        let mut cidrs = Vec::new();
        for key in self.stack_cidrs.keys() {
            let key = key.map_err(failed("read", O::STACK_CIDRS))?;
            let prefix_len = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            // The kernel keeps no prefix longer than the address.
            cidrs.extend(IpNet::new(key.data().ip(), prefix_len));
        }
        cidrs.sort();
        Ok(cidrs)
    }

    /// Those of the other family are passed over.
    pub fn set_node_addrs(&mut self, wanted: &BTreeMap<IpAddr, u32>) -> Result<(), DataplaneError> {
        let found = self.node_addrs()?;
        let mut write = || -> Result<(), MapError> {
            for octets in found.keys().filter(|ip| !wanted.contains_key(ip)).filter_map(|ip| O::of(*ip)) {
                present(self.node_addrs.remove(&octets))?;
            }
            for (ip, slot) in wanted.iter().filter(|(ip, slot)| found.get(ip) != Some(slot)) {
                if let Some(octets) = O::of(*ip) {
                    self.node_addrs.insert(octets, slot, 0)?;
                }
            }
            Ok(())
        };
        write().map_err(failed("write", O::NODE_ADDRS))
    }

    pub fn node_addrs(&self) -> Result<BTreeMap<IpAddr, u32>, DataplaneError> {
        let addrs = self.node_addrs.iter().map(|entry| entry.map(|(ip, slot)| (ip.ip(), slot)));
        addrs.collect::<Result<_, _>>().map_err(failed("read", O::NODE_ADDRS))
    }

    pub fn pod_stats(&self, ip: O) -> Result<Option<PodStats>, DataplaneError> {
        let per_cpu = present(self.stats.get(&ip, 0)).map_err(failed("read", O::STATS))?;
        Ok(per_cpu.map(|values| values.iter().copied().sum()))
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
