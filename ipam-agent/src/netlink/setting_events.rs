//! Changes of devices' settings (`rp_filter`, `forwarding`, …), told by the kernel.
//!
//! Read from a socket of their own, since netlink-packet-route does not know `RTM_NEWNETCONF`.

use std::io;

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::MulticastGroup;

use super::NetlinkError;

/// `RTM_NEWNETCONF` of `linux/rtnetlink.h`.
const RTM_NEWNETCONF: u16 = 80;
/// `NETCONFA_IFINDEX` of `linux/netconf.h`.
const NETCONFA_IFINDEX: u16 = 1;
/// Length of `struct netconfmsg` with its padding.
const NETCONFMSG_LEN: usize = 4;

/// `NETCONFA_FORWARDING`.
const NETCONFA_FORWARDING: u16 = 2;

/// A setting has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingEvent {
    /// Whose.
    pub of: SettingOf,
    /// Whether it forwards now, if that has changed.
    pub forwarding: Option<bool>,
}

/// Whose setting has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingOf {
    /// The device of this index.
    Device(u32),
    /// `all` or `default`; or events were lost: look everywhere.
    All,
}

/// The stream of changed settings, IPv4 and IPv6.
pub struct SettingEvents(TokioSocket);

impl SettingEvents {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in [MulticastGroup::Ipv4Netconf, MulticastGroup::Ipv6Netconf] {
                socket.socket_mut().add_membership(group as u32)?;
            }
            Ok(Self(socket))
        };
        open().map_err(|source: io::Error| NetlinkError {
            action: "subscribe to",
            object: "changes of devices' settings".into(),
            source,
        })
    }

    /// The next changes. Dropping the future loses none.
    ///
    /// # Errors
    /// When the socket is no longer of use.
    pub async fn next(&mut self) -> io::Result<Vec<SettingEvent>> {
        match self.0.recv_from_full().await {
            Ok((datagram, _)) => Ok(parse(&datagram)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                Ok(vec![SettingEvent { of: SettingOf::All, forwarding: None }])
            }
            Err(error) => Err(error),
        }
    }
}

fn parse(datagram: &[u8]) -> Vec<SettingEvent> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        if message.message_type() == RTM_NEWNETCONF {
            found.extend(message.payload().get(NETCONFMSG_LEN..).and_then(event));
        }
        // Messages are padded to four bytes.
        let length = (message.length() as usize).next_multiple_of(4).max(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

fn event(attributes: &[u8]) -> Option<SettingEvent> {
    let mut of = None;
    let mut forwarding = None;
    for attribute in NlasIterator::new(attributes).flatten() {
        let attribute: NlaBuffer<&[u8]> = attribute;
        let Ok(value) = attribute.value().try_into().map(i32::from_ne_bytes) else { continue };
        match attribute.kind() {
            // `NETCONFA_IFINDEX_ALL` and `…_DEFAULT` are negative.
            NETCONFA_IFINDEX => of = Some(u32::try_from(value).map_or(SettingOf::All, SettingOf::Device)),
            NETCONFA_FORWARDING => forwarding = Some(value != 0),
            _ => {}
        }
    }
    Some(SettingEvent { of: of?, forwarding })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel writes it (`inet_netconf_notify_devconf`): family, padding, index, `forwarding` = 0.
    fn message(ifindex: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(36_u32.to_ne_bytes());
        bytes.extend(RTM_NEWNETCONF.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([2, 0, 0, 0]);
        for (kind, value) in [(NETCONFA_IFINDEX, ifindex), (NETCONFA_FORWARDING, 0)] {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn changes_are_told_by_device() {
        let datagram = [message(7), message(-1)].concat();
        let wanted = [SettingOf::Device(7), SettingOf::All];
        assert_eq!(parse(&datagram), wanted.map(|of| SettingEvent { of, forwarding: Some(false) }));
        for cut in 0..datagram.len() {
            // Never more than what is there, and no panic.
            assert!(parse(&datagram[..cut]).len() <= 1);
        }
    }
}
