//! The agent asks itself what the plugin asks it, by the same socket.

use std::{path::PathBuf, time::Duration};

use ipam_cni::{
    agent_client::Agent,
    error::{CniError, code},
    protocol::{PROTOCOL_VERSION, Request},
};

/// How long the socket has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the runtime would hear that this node can take pods.
///
/// # Errors
/// What it would hear instead.
pub async fn ask(socket: PathBuf) -> Result<(), String> {
    let asked = tokio::task::spawn_blocking(move || -> Result<(), CniError> {
        let mut agent = Agent::connect(&socket, PATIENCE, code::NOT_AVAILABLE)?;
        agent.send(&Request::Status { protocol: PROTOCOL_VERSION }, None)?;
        agent.expect_done()
    });
    match asked.await {
        Ok(answer) => answer.map_err(|error| format!("STATUS: {error}")),
        Err(error) => Err(error.to_string()),
    }
}
