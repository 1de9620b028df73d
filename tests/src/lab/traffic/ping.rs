//! ICMP echo.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::lab::netns::Netns;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Sends one echo request of 56 bytes and returns the round trip's time.
///
/// # Errors
/// No answer within `timeout`, no route, or an ICMP error.
pub fn ping(from: &Netns, to: Ipv4Addr, timeout: Duration) -> anyhow::Result<Duration> {
    ping_sized(from, to, 56, timeout)
}

/// [`ping`] with so many bytes after the ICMP header (the IPv4 packet has 28 more). The packet may not be
/// fragmented unless it exceeds the MTU of the interface it leaves by.
///
/// # Errors
/// As [`ping`], and an answer that differs from the request.
pub fn ping_sized(from: &Netns, to: Ipv4Addr, bytes: usize, timeout: Duration) -> anyhow::Result<Duration> {
    let what = || format!("ping {to} from {}", from.name());
    let socket = from.run(icmp_socket).with_context(what)?;
    socket.set_read_timeout(Some(timeout)).with_context(what)?;
    // The kernel fills in checksum and identifier, and hands over only answers to this socket.
    let mut request = vec![ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1];
    request.extend((0..bytes).map(|i| (i % 251) as u8));
    let start = Instant::now();
    let mut reply = vec![0; request.len() + 1];
    let answer =
        socket.connect((to, 0)).and_then(|()| socket.send(&request)).and_then(|_| socket.recv(&mut reply));
    let took = start.elapsed();
    let length = match answer {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => bail!("{}: no answer in {timeout:?}", what()),
        other => other.with_context(what)?,
    };
    if reply[0] != ECHO_REPLY || reply[6..length] != request[6..] {
        bail!("{}: the answer is not the request", what());
    }
    Ok(took)
}

/// A datagram ICMP socket (icmp(7)); [`Netns::create`] allows them. It takes every call a UDP socket takes.
fn icmp_socket() -> io::Result<UdpSocket> {
    let icmp = Some(ipproto::ICMP);
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, icmp)?.into())
}
