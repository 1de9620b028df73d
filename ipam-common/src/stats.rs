//! Counters. All maps of counters are per CPU: user space adds the CPUs up.

/// Packets and bytes (Ethernet header included) of one pod. Value of `POD_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodStats {
    /// Packets delivered to the pod by the programs.
    pub rx_packets: u64,
    /// Bytes delivered to the pod by the programs.
    pub rx_bytes: u64,
    /// Packets accepted from the pod.
    pub tx_packets: u64,
    /// Bytes accepted from the pod.
    pub tx_bytes: u64,
}

/// Dropped packets of one [`crate::DropReason`]. Value of `DROPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Packets dropped.
    pub packets: u64,
    /// Bytes dropped, Ethernet header included.
    pub bytes: u64,
}
