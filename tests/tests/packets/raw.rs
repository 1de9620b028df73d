//! Sending whole frames out of a veth, for what `BPF_PROG_TEST_RUN` refuses to make: runts of IPv4, and tags that the
//! kernel takes off before the program sees the frame.

use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    bind, send, socket_with,
};

use crate::fixture::Netns;

/// `struct sockaddr_ll` of `linux/if_packet.h`, for binding to an interface.
#[repr(C)]
struct LinkAddr {
    family: u16,
    protocol: u16,
    ifindex: i32,
    unused: [u8; 12],
}

// SAFETY: the pointer and the length are those of a whole `sockaddr_ll`, which lives as long as the call.
unsafe impl SocketAddrArg for LinkAddr {
    unsafe fn with_sockaddr<R>(&self, call: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        call(std::ptr::from_ref(self).cast(), 20)
    }
}

/// A raw socket on one interface.
pub struct Raw(OwnedFd);

impl Raw {
    pub fn new(netns: &Netns, ifname: &str) -> Self {
        let addr = LinkAddr {
            family: AddressFamily::PACKET.as_raw(),
            protocol: 0,
            ifindex: netns.ifindex(ifname).try_into().unwrap(),
            unused: [0; 12],
        };
        netns.scoped(|| {
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
            bind(&socket, &addr).unwrap();
            Self(socket)
        })
    }

    pub fn send(&self, frame: &[u8]) {
        assert_eq!(send(&self.0, frame, SendFlags::empty()), Ok(frame.len()));
    }
}
