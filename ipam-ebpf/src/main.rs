//! The TC programs of the ENI dataplane.
//!
//! | program | hook | job |
//! |---|---|---|
//! | [`from_pod`] | ingress of the node's end of a pod's veth | source check; to a local pod, out of the pod's ENI, or to the stack |
//! | [`from_eni`] | ingress of an ENI | to a local pod, or to the stack |
//! | [`to_pod`] | egress of the node's end of a pod's veth | marks the flow of what the stack sends |
//! | [`to_eni`] | egress of an ENI, the primary one too | marks the flow of what the stack sends for a pod; to the ENI that owns the source |
//!
//! None changes anything of a packet but its two MACs (on the way out of an ENI). Redirected packets pass no egress hook
//! but that of an ENI, where they are let alone.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod arp;
mod dhcp;
mod drops;
mod ether;
mod flow;
mod forward;
mod from_eni;
mod from_pod;
mod ip;
mod ipv4;
mod ipv6;
#[cfg(feature = "log")]
mod log;
mod maps;
mod packet;
mod source;
mod stats;
mod to_eni;
mod to_pod;
mod transport;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};

use crate::packet::Packet;

/// What a program answers: a `TC_ACT_*`.
type Action = i32;

/// Ingress of the node's end of a pod's veth.
#[classifier]
fn from_pod(ctx: TcContext) -> Action {
    let packet = Packet::new(ctx);
    match from_pod::judge(&packet) {
        Ok(action) => action,
        Err(reason) => {
            drops::count(&packet, reason);
            TC_ACT_SHOT
        }
    }
}

/// Ingress of an ENI.
#[classifier]
fn from_eni(ctx: TcContext) -> Action {
    from_eni::judge(&Packet::new(ctx))
}

/// Egress of the node's end of a pod's veth. Other programs of the hook have their turn.
#[classifier]
fn to_pod(ctx: TcContext) -> Action {
    to_pod::observe(&Packet::new(ctx));
    TC_ACT_UNSPEC
}

/// Egress of an ENI. Unless the packet is redirected, other programs of the hook have their turn.
#[classifier]
fn to_eni(ctx: TcContext) -> Action {
    to_eni::judge(&Packet::new(ctx))
}

/// Never called: nothing here panics, and the verifier would refuse a loop without an end.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// For `cargo check` and `clippy` of the whole workspace, which look at this crate as a program of the host.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The helpers used (`bpf_redirect_peer` among them) are open to programs of this licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
