//! The maps. The names of the statics are those of `ipam_common::maps`; user space pins each under its name.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use ipam_common::{
    DROP_REASONS, DropCount, DropEvent, Eni, FlowStats, Ipv4Octets, Ipv6Octets, MAX_ENIS, PodRoute, PodStats,
    StackFlow,
    maps::{
        DROP_EVENTS_BYTES, LAYOUT_LINE_BYTES, MAX_LAYOUT_LINES, MAX_NODE_ADDRS, MAX_PODS, MAX_STACK_CIDRS,
        MAX_STACK_FLOWS,
    },
};

/// Pod address to route: the pod-IP-to-ENI map.
#[btf_map]
pub static POD_ROUTES_V4: HashMap<Ipv4Octets, PodRoute, MAX_PODS> = HashMap::new();

/// The same for IPv6.
#[btf_map]
pub static POD_ROUTES_V6: HashMap<Ipv6Octets, PodRoute, MAX_PODS> = HashMap::new();

/// Slot to ENI.
#[btf_map]
pub static ENIS: Array<Eni, { MAX_ENIS as usize }> = Array::new();

/// Destinations that belong to the stack.
#[btf_map]
pub static STACK_CIDRS: LpmTrie<Ipv4Octets, u32, MAX_STACK_CIDRS> = LpmTrie::new();

/// The same for IPv6.
#[btf_map]
pub static STACK_CIDRS_V6: LpmTrie<Ipv6Octets, u32, MAX_STACK_CIDRS> = LpmTrie::new();

/// Flows that the stack has touched.
#[btf_map]
pub static STACK_FLOWS: LruHashMap<StackFlow, u32, MAX_STACK_FLOWS> = LruHashMap::new();

/// Counters of the flows.
#[btf_map]
pub static FLOW_STATS: PerCpuArray<FlowStats, 1> = PerCpuArray::new();

/// The node's own addresses, each with the slot of its ENI; 0 for the primary's.
#[btf_map]
pub static NODE_ADDRS: HashMap<Ipv4Octets, u32, MAX_NODE_ADDRS> = HashMap::new();

/// The same for IPv6.
#[btf_map]
pub static NODE_ADDRS_V6: HashMap<Ipv6Octets, u32, MAX_NODE_ADDRS> = HashMap::new();

/// Counters by pod.
#[btf_map]
pub static POD_STATS: PerCpuHashMap<Ipv4Octets, PodStats, MAX_PODS> = PerCpuHashMap::new();

/// The same for IPv6.
#[btf_map]
pub static POD_STATS_V6: PerCpuHashMap<Ipv6Octets, PodStats, MAX_PODS> = PerCpuHashMap::new();

/// Counters by drop reason.
#[btf_map]
pub static DROPS: PerCpuArray<DropCount, { DROP_REASONS as usize }> = PerCpuArray::new();

/// Samples of dropped packets.
#[btf_map]
pub static DROP_EVENTS: RingBuf<DropEvent, DROP_EVENTS_BYTES> = RingBuf::new();

/// When a drop of each reason was last sampled.
#[btf_map]
pub static DROP_SAMPLES: PerCpuArray<u64, { DROP_REASONS as usize }> = PerCpuArray::new();

/// The fields of all maps, for user space only.
#[btf_map]
pub static LAYOUT: Array<[u8; LAYOUT_LINE_BYTES], MAX_LAYOUT_LINES> = Array::new();

/// The ABI version, for user space only.
#[btf_map]
pub static ABI: Array<u32, 1> = Array::new();
