//! The CNI plugin's library: the types of the CNI specification and the protocol between the plugin and the
//! node agent. No async runtime: `cargo tree -p ipam-cni` shows it.
//!
//! A call goes [`env`] and [`netconf`] (what the runtime wants) → [`agent_client`] (what the agent says) →
//! [`pod_netns`] (what the pod gets) → [`result`] (what the runtime hears); [`plugin`] is the thread through them.

pub mod agent_client;
pub mod check;
pub mod env;
pub mod error;
pub mod netconf;
pub mod netlink;
pub mod plugin;
pub mod pod_netns;
pub mod protocol;
pub mod result;
pub mod version;
