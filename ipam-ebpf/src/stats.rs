//! Counters per pod. User space makes the entries: an address without one is not counted.

use ipam_common::PodStats;

use crate::{ip::Frame, packet::Packet};

/// Counts a packet that is delivered to the pod.
#[inline(always)]
pub fn count_rx<F: Frame>(packet: &Packet, pod: &F::Addr) {
    with_stats::<F>(pod, |stats| {
        stats.rx_packets += 1;
        stats.rx_bytes += u64::from(packet.len());
    });
}

/// Counts a packet that passed the source check of the pod.
#[inline(always)]
pub fn count_tx<F: Frame>(packet: &Packet, pod: &F::Addr) {
    with_stats::<F>(pod, |stats| {
        stats.tx_packets += 1;
        stats.tx_bytes += u64::from(packet.len());
    });
}

#[inline(always)]
fn with_stats<F: Frame>(pod: &F::Addr, count: impl FnOnce(&mut PodStats)) {
    if let Some(stats) = F::stats(pod) {
        // SAFETY: the pointer is this CPU's own copy, and programs are not preempted by each other
        // at one hook; the verifier has seen the null check.
        count(unsafe { &mut *stats });
    }
}
