//! DHCP: a pod may ask (RFC 2131, RFC 8415), but not answer.

use ipam_common::DropReason;

use crate::{
    ip::Frame,
    transport::{Transport, UDP},
};

/// Refuses what a server says to its clients.
#[inline(always)]
pub fn check<F: Frame>(transport: &Transport) -> Result<(), DropReason> {
    match transport.head() {
        Some([o0, o1, o2, o3, ..])
            if transport.protocol == UDP
                && u32::from_ne_bytes([o0, o1, o2, o3]) == u32::from_ne_bytes(answer::<F>()) =>
        {
            Err(DropReason::DhcpServer)
        }
        _ => Ok(()),
    }
}

#[inline(always)]
fn answer<F: Frame>() -> [u8; 4] {
    let [[s0, s1], [d0, d1]] = F::DHCP_ANSWER.map(u16::to_be_bytes);
    [s0, s1, d0, d1]
}
