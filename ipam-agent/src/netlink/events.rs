//! What changes in the namespace, told by the kernel.

use std::{net::IpAddr, pin::Pin, task::Poll};

use futures::{Stream, StreamExt as _};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;

use super::{Link, NetlinkError, neighbour, route};

/// A change. Says where to look, not what is there: by the time it is read more may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device came, went or changed.
    Link {
        /// What it is, or was.
        link: Box<Link>,
        /// It went.
        gone: bool,
    },
    /// An address came or went.
    Address,
    /// A neighbour came, went or changed.
    Neighbour {
        /// Index of the device.
        ifindex: u32,
        /// The neighbour's address.
        ip: IpAddr,
    },
    /// A default route came or went.
    DefaultRoute,
    /// A route to a single address in the main table came or went.
    Route {
        /// The address.
        ip: IpAddr,
        /// Index of its device.
        ifindex: Option<u32>,
        /// Whether it bears the mark of ours, [`super::ROUTE_PROTOCOL`].
        ours: bool,
        /// It went.
        gone: bool,
    },
    /// Events were lost: look everywhere.
    Overrun,
}

/// The stream of events of links, addresses, neighbours and routes.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| NetlinkError {
                action: "subscribe to",
                object: "link, address, neighbour and route events".into(),
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
            RouteNetlinkMessage::NewLink(link) => {
                Some(Event::Link { link: Box::new(link.into()), gone: false })
            }
            RouteNetlinkMessage::DelLink(link) => {
                Some(Event::Link { link: Box::new(link.into()), gone: true })
            }
            RouteNetlinkMessage::NewRoute(route) => route::event(&route, false),
            RouteNetlinkMessage::DelRoute(route) => route::event(&route, true),
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
