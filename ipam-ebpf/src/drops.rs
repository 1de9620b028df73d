//! Counters by drop reason, and samples of what is dropped.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use ipam_common::{DropEvent, DropReason, drops::DROP_SAMPLE_INTERVAL_NS};

use crate::{
    maps::{DROP_EVENTS, DROP_SAMPLES, DROPS},
    packet::Packet,
};

/// Counts a dropped packet, and shows it to user space if it is time for another sample.
#[inline(always)]
pub fn count(packet: &Packet, reason: DropReason) {
    if let Some(drops) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is this CPU's own copy; the verifier has seen the null check.
        let drops = unsafe { &mut *drops };
        drops.packets += 1;
        drops.bytes += u64::from(packet.len());
    }
    sample(packet, reason);
    #[cfg(feature = "log")]
    crate::log::dropped(packet, reason);
}

/// At most one sample of each reason on each CPU within [`DROP_SAMPLE_INTERVAL_NS`]: a flood must not cost more than its
/// count. The time is taken even if there is no room for the sample: a reader that does not read would not do so sooner.
#[inline(always)]
fn sample(packet: &Packet, reason: DropReason) {
    // SAFETY: a helper call without memory.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let Some(last) = DROP_SAMPLES.get_ptr_mut(reason as u32) else { return };
    // SAFETY: as in `count`.
    let last = unsafe { &mut *last };
    if time_ns.wrapping_sub(*last) < DROP_SAMPLE_INTERVAL_NS {
        return;
    }
    *last = time_ns;
    let Some(mut entry) = DROP_EVENTS.reserve(0) else { return };
    let event: *mut DropEvent = entry.as_mut_ptr();
    // SAFETY: the entry is as long as the event and aligned to eight bytes, and every field is written.
    unsafe {
        (*event).time_ns = time_ns;
        (*event).ifindex = packet.ifindex();
        (*event).reason = reason as u32;
        (*event).len = packet.len();
        (*event).captured = packet.copy_head(&raw mut (*event).head);
    }
    entry.submit(0);
}
