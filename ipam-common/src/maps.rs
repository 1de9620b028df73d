//! Names (also the names of the pins) and capacities of the maps.

/// Pod address to route, IPv4. Hash.
pub const POD_ROUTES_V4: &str = "POD_ROUTES_V4";
/// Pod address to route, IPv6. Hash.
pub const POD_ROUTES_V6: &str = "POD_ROUTES_V6";
/// Slot to ENI. Array of [`crate::MAX_ENIS`].
pub const ENIS: &str = "ENIS";
/// IPv4 destinations that belong to the host stack. LPM trie: prefix to [`STACK_CIDR_PRESENT`].
pub const STACK_CIDRS: &str = "STACK_CIDRS";
/// The same for IPv6.
pub const STACK_CIDRS_V6: &str = "STACK_CIDRS_V6";
/// Flows that the host stack has touched. LRU hash: [`crate::StackFlow`] to [`crate::flow::STACK_FLOW_SEEN`].
pub const STACK_FLOWS: &str = "STACK_FLOWS";
/// Counters of `STACK_FLOWS`: one [`crate::FlowStats`]. Per-CPU array.
pub const FLOW_STATS: &str = "FLOW_STATS";
/// The node's own IPv4 addresses. Hash: address to the slot of its ENI, 0 for those of no slot.
pub const NODE_ADDRS: &str = "NODE_ADDRS";
/// The same for IPv6.
pub const NODE_ADDRS_V6: &str = "NODE_ADDRS_V6";
/// Counters by pod address, IPv4. Per-CPU hash.
pub const POD_STATS: &str = "POD_STATS";
/// The same for IPv6.
pub const POD_STATS_V6: &str = "POD_STATS_V6";
/// Counters by drop reason. Per-CPU array.
pub const DROPS: &str = "DROPS";
/// Samples of dropped packets: [`crate::DropEvent`]. Ring buffer.
pub const DROP_EVENTS: &str = "DROP_EVENTS";
/// When a drop of each reason was last sampled, `CLOCK_MONOTONIC` in nanoseconds. Per-CPU array.
pub const DROP_SAMPLES: &str = "DROP_SAMPLES";
/// The fields of every map, in words: an agent of another version reads from it how to convert their entries. Array of
/// [`MAX_LAYOUT_LINES`] lines of [`LAYOUT_LINE_BYTES`], padded with zeros. Its own shape never changes.
pub const LAYOUT: &str = "LAYOUT";
/// One entry: [`crate::ABI_VERSION`] of the programs that use these maps. Array.
pub const ABI: &str = "ABI";

/// Pods that one node can hold.
pub const MAX_PODS: usize = 4096;
/// Entries of `STACK_FLOWS`; a connection takes one or two, and each pair of addresses as many again.
pub const MAX_STACK_FLOWS: usize = 65536;
/// Own addresses of one family that a node can have.
pub const MAX_NODE_ADDRS: usize = 1024;
/// Prefixes of one family that `STACK_CIDRS` can hold.
pub const MAX_STACK_CIDRS: usize = 1024;
/// The only value of `STACK_CIDRS`.
pub const STACK_CIDR_PRESENT: u32 = 1;
/// Size of `DROP_EVENTS` in bytes: a power of two and whole pages.
pub const DROP_EVENTS_BYTES: usize = 256 * 1024;
/// Lines of `LAYOUT`: one for each map.
pub const MAX_LAYOUT_LINES: usize = 64;
/// Bytes of a line of `LAYOUT`.
pub const LAYOUT_LINE_BYTES: usize = 256;
