//! The maps: reading and writing their entries.

mod family;
pub mod layout;
pub mod pinned;

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use ipam_common::{
    ABI_VERSION, DropCount, DropReason, Eni, FlowStats, Ipv4Octets, Ipv6Octets, MAX_ENIS, PodRoute, PodStats,
    StackFlow,
    maps::{ABI, DROP_EVENTS, DROPS, ENIS, FLOW_STATS, LAYOUT, LAYOUT_LINE_BYTES, STACK_FLOWS},
};
use ipnet::IpNet;

use self::family::FamilyMaps;
pub use self::pinned::{layouts, names, open_pinned};
use super::DataplaneError;

fn failed(action: &'static str, map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { action, map, source: Box::new(source) }
}

/// Takes a map out of a loaded object.
fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DataplaneError> {
    let map = ebpf.take_map(name).ok_or(MapError::InvalidName { name: name.to_owned() });
    map.and_then(T::try_from).map_err(failed("find the type", name))
}

/// Writes into `LAYOUT` what the maps consist of.
pub fn describe(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    let mut lines: Array<_, [u8; LAYOUT_LINE_BYTES]> = borrowed(ebpf, LAYOUT)?;
    for (index, layout) in (0..).zip(layouts()) {
        let text = layout.to_string();
        let mut line = [0; LAYOUT_LINE_BYTES];
        // All fit: a unit test says so.
        for (to, from) in line.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        lines.set(index, line, 0).map_err(failed("write", LAYOUT))?;
    }
    Ok(())
}

/// Writes our ABI version: from then on the maps are complete.
pub fn mark(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    let mut abi: Array<_, u32> = borrowed(ebpf, ABI)?;
    abi.set(0, ABI_VERSION, 0).map_err(failed("write", ABI))
}

fn borrowed<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<T, DataplaneError> {
    let map = ebpf.map_mut(name).ok_or(MapError::InvalidName { name: name.to_owned() });
    map.and_then(T::try_from).map_err(failed("find the type", name))
}

/// Handles to the maps, typed.
pub struct Maps {
    v4: FamilyMaps<Ipv4Octets>,
    v6: FamilyMaps<Ipv6Octets>,
    enis: Array<MapData, Eni>,
    stack_flows: HashMap<MapData, StackFlow, u32>,
    flow_stats: PerCpuArray<MapData, FlowStats>,
    drops: PerCpuArray<MapData, DropCount>,
    drop_events: Option<RingBuf<MapData>>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            v4: FamilyMaps::take(ebpf)?,
            v6: FamilyMaps::take(ebpf)?,
            enis: typed(ebpf, ENIS)?,
            stack_flows: typed(ebpf, STACK_FLOWS)?,
            flow_stats: typed(ebpf, FLOW_STATS)?,
            drops: typed(ebpf, DROPS)?,
            drop_events: Some(typed(ebpf, DROP_EVENTS)?),
        })
    }

    pub fn set_route(&mut self, ip: IpAddr, route: &PodRoute) -> Result<(), DataplaneError> {
        match ip {
            IpAddr::V4(ip) => self.v4.set_route(ip.into(), route),
            IpAddr::V6(ip) => self.v6.set_route(ip.into(), route),
        }
    }

    pub fn remove_route(&mut self, ip: IpAddr, ifindex: Option<u32>) -> Result<bool, DataplaneError> {
        match ip {
            IpAddr::V4(ip) => self.v4.remove_route(ip.into(), ifindex),
            IpAddr::V6(ip) => self.v6.remove_route(ip.into(), ifindex),
        }
    }

    pub fn route(&self, ip: IpAddr) -> Result<Option<PodRoute>, DataplaneError> {
        match ip {
            IpAddr::V4(ip) => self.v4.route(ip.into()),
            IpAddr::V6(ip) => self.v6.route(ip.into()),
        }
    }

    pub fn routes(&self) -> Result<Vec<(IpAddr, PodRoute)>, DataplaneError> {
        let mut routes = self.v4.routes()?;
        routes.extend(self.v6.routes()?);
        Ok(routes)
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

    pub fn set_stack_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), DataplaneError> {
        self.v4.check_stack_cidrs(cidrs)?;
        self.v6.check_stack_cidrs(cidrs)?;
        self.v4.set_stack_cidrs(cidrs)?;
        self.v6.set_stack_cidrs(cidrs)
    }

    pub fn stack_cidrs(&self) -> Result<Vec<IpNet>, DataplaneError> {
        Ok(self.v4.stack_cidrs()?.into_iter().chain(self.v6.stack_cidrs()?).collect())
    }

    pub fn set_node_addrs(&mut self, addrs: &BTreeMap<IpAddr, u32>) -> Result<(), DataplaneError> {
        self.v4.set_node_addrs(addrs)?;
        self.v6.set_node_addrs(addrs)
    }

    pub fn node_addrs(&self) -> Result<BTreeMap<IpAddr, u32>, DataplaneError> {
        let mut addrs = self.v4.node_addrs()?;
        addrs.extend(self.v6.node_addrs()?);
        Ok(addrs)
    }

    pub fn stack_flows(&self) -> Result<Vec<StackFlow>, DataplaneError> {
        self.stack_flows.keys().collect::<Result<_, _>>().map_err(failed("read", STACK_FLOWS))
    }

    pub fn flow_stats(&self) -> Result<FlowStats, DataplaneError> {
        let per_cpu = self.flow_stats.get(&0, 0).map_err(failed("read", FLOW_STATS))?;
        Ok(FlowStats { inserted: per_cpu.iter().map(|cpu| cpu.inserted).sum() })
    }

    pub fn pod_stats(&self, ip: IpAddr) -> Result<Option<PodStats>, DataplaneError> {
        match ip {
            IpAddr::V4(ip) => self.v4.pod_stats(ip.into()),
            IpAddr::V6(ip) => self.v6.pod_stats(ip.into()),
        }
    }

    pub fn drops(&self) -> Result<Vec<(DropReason, DropCount)>, DataplaneError> {
        DropReason::ALL
            .into_iter()
            .map(|reason| Ok((reason, self.drops.get(&(reason as u32), 0)?.iter().copied().sum())))
            .collect::<Result<_, _>>()
            .map_err(failed("read", DROPS))
    }

    /// The ring buffer of drop events, for one reader: `None` the second time.
    pub fn take_drop_events(&mut self) -> Option<RingBuf<MapData>> {
        self.drop_events.take()
    }
}
