//! The eBPF map ABI: every type that the TC programs and user space both read.
//!
//! Rules of this crate: `#[repr(C)]`, no padding (asserted at compile time in [`layout`]), addresses as
//! octets in network byte order so that `bpftool map dump` is readable, every other integer in the
//! byte order of the machine. A change to any type here raises [`ABI_VERSION`].
#![no_std]

pub mod addr;
pub mod drops;
pub mod eni;
pub mod flow;
pub mod layout;
pub mod maps;
#[cfg(feature = "model")]
pub mod model;
pub mod route;
pub mod stats;

pub use addr::{Ipv4Octets, Ipv6Octets, Mac};
pub use drops::{DROP_REASONS, DropEvent, DropReason};
pub use eni::{Eni, MAX_ENIS};
pub use flow::{FlowStats, StackFlow};
pub use route::PodRoute;
pub use stats::{DropCount, PodStats};

/// Version of the layout of all pinned maps. An agent migrates maps of another version if it can read it, and refuses them
/// otherwise.
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 3 } else { 2 };
