//! What changes in the namespace, told by the kernel.

use std::{net::Ipv4Addr, pin::Pin, task::Poll};

use futures::{Stream, StreamExt as _};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};
use rtnetlink::MulticastGroup;

use super::{NetlinkError, neighbour};

/// A change. Says where to look, not what is there: by the time it is read more may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device came, went or changed.
    Link {
        /// Its name.
        name: String,
    },
    /// An address came or went.
    Address,
    /// A neighbour came, went or changed.
    Neighbour {
        /// Index of the device.
        ifindex: u32,
        /// The neighbour's address.
        ip: Ipv4Addr,
    },
    /// Events were lost: look everywhere.
    Overrun,
}

/// The stream of events of links, IPv4 addresses and neighbours.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Ifaddr];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| NetlinkError {
                action: "subscribe to",
                object: "link, address and neighbour events".into(),
                source,
            })?;
        tokio::spawn(connection);
        let events = messages.filter_map(move |(message, _)| {
            // The connection lives as long as its handle.
            let _ = &handle;
            std::future::ready(event(message.payload))
        });
        Ok(Self(Box::pin(events)))
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_next_unpin(cx)
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                Some(Event::Link { name: name? })
            }
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Event::Address),
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message) => {
                let (ifindex, ip, _) = neighbour::parse(&message)?;
                Some(Event::Neighbour { ifindex, ip })
            }
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Event::Overrun),
        _ => None,
    }
}
