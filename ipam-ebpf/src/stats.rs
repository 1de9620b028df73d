//! Counters per pod. User space makes the entries: an address without one is not counted.

use ipam_common::{Ipv4Octets, PodStats};

use crate::{maps::POD_STATS, packet::Packet};

/// Counts a packet that is delivered to the pod.
#[inline(always)]
pub fn count_rx(packet: &Packet, pod: &Ipv4Octets) {
    with_stats(pod, |stats| {
        stats.rx_packets += 1;
        stats.rx_bytes += u64::from(packet.len());
    });
}

/// Counts a packet that passed the source check of the pod.
#[inline(always)]
pub fn count_tx(packet: &Packet, pod: &Ipv4Octets) {
    with_stats(pod, |stats| {
        stats.tx_packets += 1;
        stats.tx_bytes += u64::from(packet.len());
    });
}

#[inline(always)]
fn with_stats(pod: &Ipv4Octets, count: impl FnOnce(&mut PodStats)) {
    if let Some(stats) = POD_STATS.get_ptr_mut(pod) {
        // SAFETY: the pointer is this CPU's own copy, and programs are not preempted by each other
        // at one hook; the verifier has seen the null check.
        count(unsafe { &mut *stats });
    }
}
