//! Questions about a node that `ipamctl` asks its agent, over a socket of its own: one line of JSON asks, lines of JSON
//! answer. The socket of the CNI plugin knows nothing of it.

mod dropped;
mod pod;

use serde::{Deserialize, Serialize};

pub use self::{
    dropped::{Dropped, Headers, Interface, PodId},
    pod::{AddressView, AttachmentView, EniEntry, EniView, Entry, LinkView, NodeView, Target, Trial},
};

/// Name of the socket in the directory of the CNI plugin's.
pub const DEBUG_SOCKET_NAME: &str = "agent.sock";

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// Follow the samples of dropped packets, until the connection is closed.
    Drops,
    /// What is there of a pod.
    Pod {
        /// The pod.
        pod: PodId,
        /// Where to a packet of it shall be tried.
        to: Option<Target>,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Samples of drops follow from here on.
    Following,
    /// A dropped packet.
    Dropped(Box<Dropped>),
    /// So many samples were not sent: whoever asked reads too slowly.
    Lost(u64),
    /// What is there of the pod.
    Pod(Box<NodeView>),
    /// The question cannot be answered.
    Failed(String),
}
