//! Flows that the host stack has touched (stack affinity). Written by the egress programs, read by the
//! ingress programs.

/// The only value of `STACK_FLOWS`.
pub const STACK_FLOW_SEEN: u32 = 1;

/// A flow as the pod's side sees it. The key of `STACK_FLOWS`; room for both families: an IPv4 address
/// stands in the first four octets, the rest being zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackFlow {
    /// The pod's address, network byte order.
    pub pod: [u8; 16],
    /// The other side's address, network byte order.
    pub peer: [u8; 16],
    /// The pod's port, network byte order; for ICMP echo the identifier. Both ports zero: the pair of addresses, which
    /// is what fragments belong to.
    pub pod_port: [u8; 2],
    /// The other side's port, network byte order; for ICMP echo zero.
    pub peer_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Always zero.
    pub reserved: [u8; 2],
}

/// Counters of `STACK_FLOWS`. The only value of `FLOW_STATS`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Entries that were made. Less those that are there, it is those that the LRU gave up.
    pub inserted: u64,
}
