//! Names (also the names of the pins) and capacities of the maps.

/// Pod address to route, IPv4. Hash.
pub const POD_ROUTES_V4: &str = "POD_ROUTES_V4";
/// Slot to ENI. Array of [`crate::MAX_ENIS`].
pub const ENIS: &str = "ENIS";
/// Destinations that belong to the host stack. LPM trie: prefix to [`STACK_CIDR_PRESENT`].
pub const STACK_CIDRS: &str = "STACK_CIDRS";
/// Flows that the host stack has touched. LRU hash: [`crate::StackFlow`] to [`crate::flow::STACK_FLOW_SEEN`].
pub const STACK_FLOWS: &str = "STACK_FLOWS";
/// The node's own IPv4 addresses. Hash: address to the slot of its ENI, 0 for those of no slot.
pub const NODE_ADDRS: &str = "NODE_ADDRS";
/// Counters by pod address. Per-CPU hash.
pub const POD_STATS: &str = "POD_STATS";
/// Counters by drop reason. Per-CPU array.
pub const DROPS: &str = "DROPS";
/// One entry: [`crate::ABI_VERSION`] of the programs that use these maps. Array.
pub const ABI: &str = "ABI";

/// Pods that one node can hold.
pub const MAX_PODS: usize = 4096;
/// Entries of `STACK_FLOWS`; a connection takes one or two, and each pair of addresses as many again.
pub const MAX_STACK_FLOWS: usize = 65536;
/// Own addresses that a node can have.
pub const MAX_NODE_ADDRS: usize = 1024;
/// Prefixes that `STACK_CIDRS` can hold.
pub const MAX_STACK_CIDRS: usize = 1024;
/// The only value of `STACK_CIDRS`.
pub const STACK_CIDR_PRESENT: u32 = 1;
