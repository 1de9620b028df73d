//! What the plugin and the node agent say to each other over the agent's unix socket.
//!
//! One connection serves one CNI call. Each message is one line of JSON. The first request of an ADD carries
//! the pod's network namespace as a file descriptor (`SCM_RIGHTS`): the agent creates the veth pair with its
//! pod end already there, so it needs no right to enter a namespace. What must be done inside is the
//! plugin's, which the runtime starts as root anyway.
//!
//! ```text
//! ADD    plugin: Add + fd → agent: Wire → plugin configures the pod's side: Wired → agent: Done
//! CHECK  plugin: Check    → agent: Wire → plugin compares the pod's side with it
//! other  plugin: Del/Gc/Status → agent: Done
//! ```
//!
//! The agent answers [`Reply::Failed`] at any point. When the connection ends before `Wired`, the agent undoes the ADD.

use serde::{Deserialize, Serialize};

use crate::error::CniError;

/// Version of this protocol. Plugin and agent of different builds meet during an upgrade.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/eni-ipam/cni.sock";

/// What identifies an attachment, by the CNI specification.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// Name of the network in the configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The pod behind an attachment, from `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodIdentity {
    /// `K8S_POD_NAMESPACE`; absent outside Kubernetes.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`; absent for a bare container.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

/// A message of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Give the pod an interface. The namespace's descriptor comes with it.
    Add {
        /// [`PROTOCOL_VERSION`] of the plugin.
        protocol: u32,
        /// The attachment.
        key: AttachmentKey,
        /// The pod.
        pod: PodIdentity,
        /// `CNI_NETNS`, for the journal; the descriptor is what is used.
        netns: String,
    },
    /// The pod's side is configured.
    Wired,
    /// Take the interface away. Succeeds when there is none.
    Del {
        /// [`PROTOCOL_VERSION`] of the plugin.
        protocol: u32,
        /// The attachment.
        key: AttachmentKey,
    },
    /// Is everything on the node's side as it should be?
    Check {
        /// [`PROTOCOL_VERSION`] of the plugin.
        protocol: u32,
        /// The attachment.
        key: AttachmentKey,
    },
    /// Can an ADD be served now?
    Status {
        /// [`PROTOCOL_VERSION`] of the plugin.
        protocol: u32,
    },
    /// Take away every attachment of the network that is not in `valid`.
    Gc {
        /// [`PROTOCOL_VERSION`] of the plugin.
        protocol: u32,
        /// Name of the network.
        network: String,
        /// `cni.dev/valid-attachments`; the network's name is filled in.
        valid: Vec<AttachmentKey>,
    },
}

/// A message of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// How the pod's side must be.
    Wire(PodInterface),
    /// Done; nothing follows.
    Done,
    /// Not done; nothing follows and nothing is left behind.
    Failed(CniError),
}

/// An interface of a pod, from both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInterface {
    /// Name in the pod.
    pub ifname: String,
    /// MAC in the pod, lower case with colons.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses of the pod, each alone (/32, /128).
    pub addresses: Vec<std::net::IpAddr>,
    /// Next hop of the default route of each family of `addresses`, on-link.
    pub gateways: Vec<std::net::IpAddr>,
    /// MAC of the next hops: that of the veth's end on the node. Written as permanent neighbour entries.
    pub gateway_mac: String,
    /// Name of the veth's end on the node.
    pub host_ifname: String,
}
