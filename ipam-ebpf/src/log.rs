//! Every drop in the log of the agent, sampled by nobody: only for whoever changes the programs.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use ipam_common::DropReason;

use crate::packet::Packet;

/// Logs a dropped packet.
#[inline(always)]
pub fn dropped(packet: &Packet, reason: DropReason) {
    let context = TcContext::new(packet.as_raw());
    info!(
        &context,
        "dropped: reason {}, interface {}, {} bytes",
        reason as u32,
        packet.ifindex(),
        packet.len()
    );
}
