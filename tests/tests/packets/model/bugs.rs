//! Bugs planted in the model, each in one rule: what the comparison must notice.

use std::net::IpAddr;

use ipam_common::model::Rules;

/// Makes each its type, and `ALL` of them.
macro_rules! bugs {
    ($($name:ident { $($method:tt)* })+) => {
        $(
            pub struct $name;
            impl Rules for $name { $($method)* }
        )+
        /// Each with its name.
        pub const ALL: &[$crate::model::bugs::Bug] = &[$((stringify!($name), &$name)),+];
    };
}

pub mod blind;
pub mod checks;
pub mod flows;
pub mod ipv6;

/// A name, and the rules that are wrong in one.
pub type Bug = (&'static str, &'static (dyn Rules + Sync));

/// What must be noticed.
pub fn planted() -> impl Iterator<Item = Bug> {
    [checks::ALL, ipv6::ALL, flows::ALL].into_iter().flatten().copied()
}

/// The octets of an IPv4 address; none of IPv6.
fn v4(addr: IpAddr) -> Option<[u8; 4]> {
    match addr {
        IpAddr::V4(addr) => Some(addr.octets()),
        IpAddr::V6(_) => None,
    }
}

/// The groups of an IPv6 address; none of IPv4.
fn v6(addr: IpAddr) -> Option<[u16; 8]> {
    match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(addr.segments()),
    }
}
