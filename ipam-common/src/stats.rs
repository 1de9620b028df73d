//! Counters. All maps of counters are per CPU: user space adds the CPUs up.

use core::iter::Sum;

/// Packets and bytes (Ethernet header included) of one address of a pod. Value of `POD_STATS` and `POD_STATS_V6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodStats {
    /// Packets delivered to the pod by the programs.
    pub rx_packets: u64,
    /// Bytes delivered to the pod by the programs.
    pub rx_bytes: u64,
    /// Packets of the pod that passed its source check, wherever they went then.
    pub tx_packets: u64,
    /// Bytes of the pod that passed its source check.
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

impl Sum for PodStats {
    fn sum<I: Iterator<Item = Self>>(cpus: I) -> Self {
        cpus.fold(Self::default(), |a, b| Self {
            rx_packets: a.rx_packets + b.rx_packets,
            rx_bytes: a.rx_bytes + b.rx_bytes,
            tx_packets: a.tx_packets + b.tx_packets,
            tx_bytes: a.tx_bytes + b.tx_bytes,
        })
    }
}

impl Sum for DropCount {
    fn sum<I: Iterator<Item = Self>>(cpus: I) -> Self {
        cpus.fold(Self::default(), |a, b| Self { packets: a.packets + b.packets, bytes: a.bytes + b.bytes })
    }
}
