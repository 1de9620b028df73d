//! What the maps hold: routes, ENIs, the host stack's destinations, flows and counters.

use std::{collections::BTreeMap, net::IpAddr};

use aya::maps::{MapData, RingBuf};
use ipam_common::{DropCount, DropReason, Eni, FlowStats, PodRoute, PodStats, StackFlow};
use ipnet::IpNet;

use super::{Dataplane, DataplaneError, FlowTable};

impl Dataplane {
    /// Sets the route of a pod's address, and makes its counters if it has none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does beyond [`ipam_common::maps::MAX_PODS`] pods; nothing is left half-done then.
    pub fn set_route(&mut self, ip: impl Into<IpAddr>, route: &PodRoute) -> Result<(), DataplaneError> {
        self.maps.set_route(ip.into(), route)
    }

    /// Removes the route of an address and its counters; with an `ifindex` only if the route still leads to that
    /// interface. Answers whether it was removed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_route(
        &mut self,
        ip: impl Into<IpAddr>,
        ifindex: Option<u32>,
    ) -> Result<bool, DataplaneError> {
        self.maps.remove_route(ip.into(), ifindex)
    }

    /// The route of an address.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn route(&self, ip: impl Into<IpAddr>) -> Result<Option<PodRoute>, DataplaneError> {
        self.maps.route(ip.into())
    }

    /// Every route, of both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn routes(&self) -> Result<Vec<(IpAddr, PodRoute)>, DataplaneError> {
        self.maps.routes()
    }

    /// Sets what `from_pod` knows of the ENI in a slot; [`Eni::EMPTY`] empties it.
    ///
    /// # Errors
    ///
    /// When `slot` is not within `1..MAX_ENIS`.
    pub fn set_eni(&mut self, slot: u32, eni: &Eni) -> Result<(), DataplaneError> {
        self.maps.set_eni(slot, eni)
    }

    /// The slots that are not empty.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enis(&self) -> Result<Vec<(u32, Eni)>, DataplaneError> {
        self.maps.enis()
    }

    /// Makes these the destinations that belong to the host stack: adds what is missing, then removes the rest.
    ///
    /// # Errors
    ///
    /// When there are more than [`ipam_common::maps::MAX_STACK_CIDRS`] of a family (nothing is changed then), or the kernel refuses.
    pub fn set_stack_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), DataplaneError> {
        self.maps.set_stack_cidrs(cidrs)
    }

    /// The destinations that belong to the host stack, IPv4 first, each family sorted.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn stack_cidrs(&self) -> Result<Vec<IpNet>, DataplaneError> {
        self.maps.stack_cidrs()
    }

    /// Makes these the node's own addresses, each with the slot of its ENI (0: none).
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does beyond [`ipam_common::maps::MAX_NODE_ADDRS`] addresses.
    pub fn set_node_addrs(&mut self, addrs: &BTreeMap<IpAddr, u32>) -> Result<(), DataplaneError> {
        self.maps.set_node_addrs(addrs)
    }

    /// The flows that the host stack has touched, in no order.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn stack_flows(&self) -> Result<Vec<StackFlow>, DataplaneError> {
        self.maps.stack_flows()
    }

    /// The same flows, by a handle that needs nobody to hold the dataplane.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn flow_table(&self) -> Result<FlowTable, DataplaneError> {
        FlowTable::open(&self.dir)
    }

    /// The node's own addresses, each with the slot of its ENI (0: none).
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn node_addrs(&self) -> Result<BTreeMap<IpAddr, u32>, DataplaneError> {
        self.maps.node_addrs()
    }

    /// Counters of the flow table, all CPUs together.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn flow_stats(&self) -> Result<FlowStats, DataplaneError> {
        self.maps.flow_stats()
    }

    /// The ring buffer of [`ipam_common::DropEvent`]s. It has one reader: `None` when it was taken before.
    pub fn take_drop_events(&mut self) -> Option<RingBuf<MapData>> {
        self.maps.take_drop_events()
    }

    /// Counters of a pod's address since [`Self::set_route`] made them, all CPUs together; `None`: it has none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn pod_stats(&self, ip: impl Into<IpAddr>) -> Result<Option<PodStats>, DataplaneError> {
        self.maps.pod_stats(ip.into())
    }

    /// Counters of every drop reason, all CPUs together.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn drops(&self) -> Result<Vec<(DropReason, DropCount)>, DataplaneError> {
        self.maps.drops()
    }
}
