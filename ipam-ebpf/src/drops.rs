//! Counters by drop reason.

use ipam_common::DropReason;

use crate::{maps::DROPS, packet::Packet};

/// Counts a dropped packet.
#[inline(always)]
pub fn count(packet: &Packet, reason: DropReason) {
    if let Some(drops) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is this CPU's own copy; the verifier has seen the null check.
        let drops = unsafe { &mut *drops };
        drops.packets += 1;
        drops.bytes += u64::from(packet.len());
    }
}
