//! Whole frames, sent and seen.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipam_common::Mac;
use ipam_lab::lab::netns::Netns;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    bind, eth, recv, send, socket_with,
};

/// In every frame of a test, to be known by wherever it turns up.
pub const MARK: &[u8] = b"rough packet of a lab test";

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

/// What a process with NET_RAW has.
pub struct Raw(OwnedFd);

impl Raw {
    pub fn new(ns: &Netns, ifname: &str) -> Self {
        let ifindex = ns.rtnl().index(ifname).unwrap().try_into().unwrap();
        let addr = LinkAddr { family: AddressFamily::PACKET.as_raw(), protocol: 0, ifindex, unused: [0; 12] };
        ns.run(|| {
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

/// Sees every frame of every interface of a namespace.
pub struct Tap {
    socket: OwnedFd,
    name: String,
}

impl Tap {
    pub fn new(ns: &Netns) -> Self {
        let socket = ns.run(|| {
            socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(eth::ALL)).unwrap()
        });
        Self { socket, name: ns.name().to_owned() }
    }

    /// How many frames with the mark came since the last call.
    pub fn marked(&self) -> usize {
        let mut frame = vec![0; 1 << 16];
        let mut count = 0;
        while let Ok((_, length)) = recv(&self.socket, &mut frame[..], RecvFlags::DONTWAIT) {
            count += usize::from(frame[..length].windows(MARK.len()).any(|part| part == MARK));
        }
        count
    }

    /// Waits for a frame with the mark.
    pub fn wait_for_mark(&self) {
        let start = Instant::now();
        while self.marked() == 0 {
            assert!(start.elapsed() < Duration::from_secs(3), "{}: the frame has not come", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The MAC of an interface.
pub fn mac(ns: &Netns, ifname: &str) -> Mac {
    use netlink_packet_route::link::LinkAttribute;
    let link = ns.rtnl().link(ifname).unwrap().unwrap();
    let octets = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(octets) => octets.as_slice().try_into().ok(),
        _ => None,
    });
    Mac { octets: octets.unwrap() }
}

/// A value of `/proc/net/snmp`, such as `Icmp` `InDestUnreachs`.
pub fn snmp(ns: &Netns, group: &str, name: &str) -> u64 {
    let text = ns.read("/proc/net/snmp").unwrap();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let column = names.split_whitespace().position(|column| column == name).unwrap();
    values.split_whitespace().nth(column).unwrap().parse().unwrap()
}
