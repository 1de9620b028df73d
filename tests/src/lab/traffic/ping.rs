//! ICMP echo, of both families.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::lab::{netns::Netns, patience::patient};

/// Types of echo request and reply.
const ECHO_V4: (u8, u8) = (8, 0);
/// Likewise of ICMPv6.
const ECHO_V6: (u8, u8) = (128, 129);

/// Sends one echo request of 56 bytes and returns the round trip's time.
///
/// # Errors
/// No answer within `timeout`, no route, or an ICMP error.
pub fn ping(from: &Netns, to: impl Into<IpAddr>, timeout: Duration) -> anyhow::Result<Duration> {
    ping_sized(from, to, 56, timeout)
}

/// [`ping`] with so many bytes after the ICMP header (the IPv4 packet has 28 more, the IPv6 packet 48). The packet may not be
/// fragmented unless it exceeds the MTU of the interface it leaves by.
///
/// # Errors
/// As [`ping`], and an answer that differs from the request.
pub fn ping_sized(
    from: &Netns,
    to: impl Into<IpAddr>,
    bytes: usize,
    timeout: Duration,
) -> anyhow::Result<Duration> {
    let to = to.into();
    let (request_type, reply_type) = if to.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let what = || format!("ping {to} from {}", from.name());
    let timeout = patient(timeout);
    let socket = from.run(|| icmp_socket(to)).with_context(what)?;
    socket.set_read_timeout(Some(timeout)).with_context(what)?;
    // The kernel fills in checksum and identifier, and hands over only answers to this socket.
    let mut request = vec![request_type, 0, 0, 0, 0, 0, 0, 1];
    request.extend((0..bytes).map(|i| (i % 251) as u8));
    let start = Instant::now();
    let mut reply = vec![0; request.len() + 1];
    let answer = socket
        .connect((to, 0))
        .and_then(|()| socket.send(&request))
        .and_then(|_| receive(&socket, &mut reply));
    let took = start.elapsed();
    let length = match answer {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => bail!("{}: no answer in {timeout:?}", what()),
        other => other.with_context(what)?,
    };
    if reply[0] != reply_type || reply[6..length] != request[6..] {
        bail!("{}: the answer is not the request", what());
    }
    Ok(took)
}

/// A signal for another of the process's children may come to this thread.
fn receive(socket: &UdpSocket, reply: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(reply) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A datagram ICMP socket (icmp(7)); [`Netns::create`] allows them. It takes every call a UDP socket takes.
fn icmp_socket(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, icmp) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    Ok(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(icmp))?.into())
}
