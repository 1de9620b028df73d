//! The CNI plugin's library: the types of the CNI specification and the protocol between the plugin and the
//! node agent. No async runtime: `cargo tree -p ipam-cni` shows it.

pub mod error;
pub mod protocol;
