//! The pod-IP-to-ENI map.

use crate::addr::Mac;

/// Value of `POD_ROUTES_V4` and `POD_ROUTES_V6`, keyed by the pod's address.
///
/// Found by source it is the source check (interface, MAC) and the choice of the ENI; found by
/// destination it is local delivery.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// Interface index of the pod's veth end in the node's namespace.
    pub ifindex: u32,
    /// A field of the next version, in the midst of the others so that all offsets differ.
    #[cfg(feature = "next-abi")]
    pub generation: u32,
    /// Epoch of the binding: raised each time the address is bound to a pod.
    pub epoch: u32,
    /// Slot in `ENIS` of the ENI that owns the address; 0: none.
    pub eni: u16,
    /// No bit is defined yet: always zero.
    pub flags: u16,
    /// The pod's own MAC.
    pub mac: Mac,
    /// Always zero.
    pub reserved: [u8; 2],
}

impl PodRoute {
    /// A route that leads nowhere.
    pub const EMPTY: Self = Self {
        ifindex: 0,
        #[cfg(feature = "next-abi")]
        generation: 0,
        epoch: 0,
        eni: 0,
        flags: 0,
        mac: Mac::ZERO,
        reserved: [0; 2],
    };
}
