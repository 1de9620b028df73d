//! The network configuration.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ipam_cni::{
    netconf::{Document, NetConf},
    plugin::PLUGIN_TYPE,
};
use serde_json::{Value, json};

/// Name of the network: part of the key of every attachment.
pub const NETWORK: &str = "eni-ipam";

/// Version of the specification that the configuration asks for: what containerd 1.6 and podman 4.3 know.
const CNI_VERSION: &str = "1.0.0";

/// The configuration as a file. Fails for a socket that the plugin would refuse.
pub fn build(socket: &Path, with_portmap: bool) -> Result<Vec<u8>> {
    let Some(socket) = socket.to_str() else {
        bail!("--socket {} is not UTF-8, which the network configuration must be", socket.display());
    };
    let plugin = json!({"type": PLUGIN_TYPE, "socket": socket});
    // As the runtime will hand it to the plugin.
    let mut netconf = plugin.clone();
    netconf["cniVersion"] = json!(CNI_VERSION);
    netconf["name"] = json!(NETWORK);
    Document::decode(netconf.to_string().as_bytes())
        .and_then(NetConf::new)
        .with_context(|| format!("--socket {socket}"))?;
    let mut plugins = vec![plugin];
    if with_portmap {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
    }
    let conflist = json!({"cniVersion": CNI_VERSION, "name": NETWORK, "plugins": plugins});
    Ok(format!("{conflist:#}\n").into_bytes())
}

/// Whether a configuration is of the plugin, whatever else people have put into it.
pub fn is_ours(content: &[u8]) -> bool {
    let Ok(conflist) = serde_json::from_slice::<Value>(content) else { return false };
    let plugins = conflist["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    plugins.iter().any(|plugin| plugin["type"] == PLUGIN_TYPE)
}
