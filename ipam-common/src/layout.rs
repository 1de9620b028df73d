//! Compile-time proof of the layout: size, offset of each field and absence of padding, and in user
//! space the `aya::Pod` that follows from it.

use crate::{
    DropCount, DropEvent, Eni, FlowStats, Ipv4Octets, Ipv6Octets, Mac, PodRoute, PodStats, StackFlow,
};

/// A field of a map's key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, which keeps its meaning in every version.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Its size in bytes.
    pub len: usize,
}

/// What a map's keys or values consist of.
pub trait Layout {
    /// The fields in their order, without holes.
    const FIELDS: &'static [Field];
}

/// Integers have one field.
macro_rules! integer_layout {
    ($($type:ty),+) => {
        $(impl Layout for $type {
            const FIELDS: &'static [Field] = &[Field { name: "value", offset: 0, len: size_of::<Self>() }];
        })+
    };
}

integer_layout!(u32, u64);

/// Keys of an LPM trie: `struct bpf_lpm_trie_key` of `linux/bpf.h`.
#[cfg(feature = "user")]
impl<T> Layout for aya::maps::lpm_trie::Key<T> {
    const FIELDS: &'static [Field] = &[
        Field { name: "prefix_len", offset: 0, len: 4 },
        Field { name: "data", offset: 4, len: size_of::<T>() },
    ];
}

/// Asserts that fields follow each other without a hole, and that their sizes add up to the type's.
macro_rules! assert_layout {
    ($type:ty, size $size:literal, { $($field:ident: $offset:literal + $len:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
            assert!(0 $(+ $len)+ == $size, "padding");
        };
        impl Layout for $type {
            const FIELDS: &'static [Field] =
                &[$(Field { name: stringify!($field), offset: $offset, len: $len }),+];
        }
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)` of integers and octets, valid for every bit pattern; the assertions above
        // prove that it has no padding.
        unsafe impl aya::Pod for $type {}
    };
}

assert_layout!(Ipv4Octets, size 4, { octets: 0 + 4 });
assert_layout!(Ipv6Octets, size 16, { octets: 0 + 16 });
assert_layout!(Mac, size 6, { octets: 0 + 6 });
#[cfg(not(feature = "next-abi"))]
assert_layout!(PodRoute, size 20, { ifindex: 0 + 4, epoch: 4 + 4, eni: 8 + 2, flags: 10 + 2, mac: 12 + 6, reserved: 18 + 2 });
#[cfg(not(feature = "next-abi"))]
assert_layout!(Eni, size 32, {
    ifindex: 0 + 4, mtu: 4 + 4, flags: 8 + 4, mac: 12 + 6, gateway_mac: 18 + 6, gateway_mac_v6: 24 + 6, reserved: 30 + 2
});
assert_layout!(StackFlow, size 40, {
    pod: 0 + 16, peer: 16 + 16, pod_port: 32 + 2, peer_port: 34 + 2, protocol: 36 + 1, family: 37 + 1, reserved: 38 + 2
});
assert_layout!(PodStats, size 32, { rx_packets: 0 + 8, rx_bytes: 8 + 8, tx_packets: 16 + 8, tx_bytes: 24 + 8 });
assert_layout!(DropCount, size 16, { packets: 0 + 8, bytes: 8 + 8 });
assert_layout!(FlowStats, size 8, { inserted: 0 + 8 });
assert_layout!(DropEvent, size 120, { time_ns: 0 + 8, ifindex: 8 + 4, reason: 12 + 4, len: 16 + 4, captured: 20 + 4, head: 24 + 96 });

#[cfg(feature = "next-abi")]
assert_layout!(PodRoute, size 24, {
    ifindex: 0 + 4, generation: 4 + 4, epoch: 8 + 4, eni: 12 + 2, flags: 14 + 2, mac: 16 + 6, reserved: 22 + 2
});
#[cfg(feature = "next-abi")]
assert_layout!(Eni, size 36, {
    ifindex: 0 + 4, generation: 4 + 4, mtu: 8 + 4, flags: 12 + 4, mac: 16 + 6, gateway_mac: 22 + 6,
    gateway_mac_v6: 28 + 6, reserved: 34 + 2
});
