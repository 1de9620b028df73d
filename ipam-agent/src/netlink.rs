//! rtnetlink and sysctls of the network namespace in which the process (for [`Netlink::open`]: the thread) runs.
//! Knows nothing of Kubernetes, and never deletes a route that it did not make: see [`ROUTE_PROTOCOL`].

mod address;
mod devconf;
mod events;
mod link;
mod mac;
mod neighbour;
pub mod nftables;
mod route;
mod setting_events;
pub mod sysctl;

use std::io;

use futures::{Stream, StreamExt as _};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

pub use self::{
    devconf::{DeviceSettings, DeviceSettingsV6, RP_FILTER_LOOSE},
    events::{Event, Events},
    link::{Link, NewVeth},
    mac::{MacText, parse_mac},
    neighbour::Neighbour,
    route::{PodHostRoute, ROUTE_PROTOCOL},
    setting_events::{SettingEvent, SettingEvents, SettingOf},
};

/// A request that the kernel refused, or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("netlink: cannot {action} {object}: {source}")]
pub struct NetlinkError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub object: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// Whether the kernel's answer was this error number.
    #[must_use]
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }

    /// Whether the object did not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        use rustix::io::Errno;
        [Errno::NODEV, Errno::NOENT, Errno::SRCH].into_iter().any(|errno| self.is(errno))
    }
}

/// A connection to rtnetlink. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// The kernel answers EBUSY to a list that is asked for while another is being sent on the same socket.
    listing: std::sync::Arc<tokio::sync::Mutex<()>>,
    /// What [`Self::keeps_neighbours`] found out.
    keeps_neighbours: std::sync::Arc<tokio::sync::OnceCell<bool>>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread, and serves it on the current runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetlinkError {
            action: "open",
            object: "a socket".into(),
            source,
        })?;
        tokio::spawn(connection);
        Ok(Self { handle, listing: Default::default(), keeps_neighbours: Default::default() })
    }

    /// Sends a request of our own making and waits for the kernel's acknowledgement.
    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
        }
        Ok(())
    }
}

/// Gives a failed request its name.
fn failed(action: &'static str, object: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let object = object.into();
    move |error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        NetlinkError { action, object, source }
    }
}

/// Collects a dump.
async fn collect<T>(
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
    object: &'static str,
) -> Result<Vec<T>, NetlinkError> {
    let mut dump = std::pin::pin!(dump);
    let mut all = Vec::new();
    while let Some(item) = dump.next().await {
        all.push(item.map_err(failed("list", object))?);
    }
    Ok(all)
}
