//! Compile-time proof of the layout: size, offset of each field and absence of padding, and in user
//! space the `aya::Pod` that follows from it.

use crate::{DropCount, Eni, Ipv4Octets, Ipv6Octets, Mac, PodRoute, PodStats, StackFlow};

/// Asserts that fields follow each other without a hole, and that their sizes add up to the type's.
macro_rules! assert_layout {
    ($type:ty, size $size:literal, { $($field:ident: $offset:literal + $len:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
            assert!(0 $(+ $len)+ == $size, "padding");
        };
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)` of integers and octets, valid for every bit pattern; the assertions above
        // prove that it has no padding.
        unsafe impl aya::Pod for $type {}
    };
}

assert_layout!(Ipv4Octets, size 4, { octets: 0 + 4 });
assert_layout!(Ipv6Octets, size 16, { octets: 0 + 16 });
assert_layout!(Mac, size 6, { octets: 0 + 6 });
assert_layout!(PodRoute, size 20, { ifindex: 0 + 4, epoch: 4 + 4, eni: 8 + 2, flags: 10 + 2, mac: 12 + 6, reserved: 18 + 2 });
assert_layout!(Eni, size 24, { ifindex: 0 + 4, mtu: 4 + 4, flags: 8 + 4, mac: 12 + 6, gateway_mac: 18 + 6 });
assert_layout!(StackFlow, size 40, {
    pod: 0 + 16, peer: 16 + 16, pod_port: 32 + 2, peer_port: 34 + 2, protocol: 36 + 1, family: 37 + 1, reserved: 38 + 2
});
assert_layout!(PodStats, size 32, { rx_packets: 0 + 8, rx_bytes: 8 + 8, tx_packets: 16 + 8, tx_bytes: 24 + 8 });
assert_layout!(DropCount, size 16, { packets: 0 + 8, bytes: 8 + 8 });
