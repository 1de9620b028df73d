//! The socket that the plugin talks to. Root only: whoever can write to it decides which namespace gets which address.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use ipam_cni::{
    error::{CniError, code},
    protocol::{PROTOCOL_VERSION, Reply, Request},
};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use crate::node::{
    attach::{self, Add},
    connection::Connection,
    context::Node,
};

/// A socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("socket `{}`: {problem}", path.display())]
pub struct SocketError {
    path: PathBuf,
    problem: String,
}

/// Listens on `path`, with mode 0600 in a directory that is made with mode 0700. A socket that nobody answers on is
/// what an agent left that died, and is replaced.
///
/// # Errors
/// When another agent answers there, when something that is no socket is in the way, or when it cannot be made.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let error = |problem: String| SocketError { path: path.to_owned(), problem };
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|cause| error(format!("cannot make its directory: {cause}")))?;
    }
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
        Err(cause) => return Err(error(cause.to_string())),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(error("is no socket; give another path, or remove it".into()));
        }
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => {
                return Err(error(
                    "another agent answers there; stop that agent, or give another path".into(),
                ));
            }
            Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
                .map_err(|cause| error(format!("cannot remove what a former agent left: {cause}")))?,
            Err(cause) => return Err(error(format!("cannot tell whether an agent answers there: {cause}"))),
        },
    }
    let bind = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|cause| error(format!("cannot listen: {cause}")))
}

/// Answers calls until the process ends; each in a task of its own.
pub async fn serve(node: Arc<Node>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = Arc::clone(&node);
                node.background.spawn(async move { serve_call(&serving, stream).await });
            }
            Err(error) => {
                // Out of descriptors, most likely: a pause lets some go.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers one call.
async fn serve_call(node: &Arc<Node>, stream: UnixStream) {
    let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let mut connection = Connection::new(stream);
    let result = if root {
        answer(node, &mut connection).await
    } else {
        Err(CniError::new(code::NOT_AVAILABLE, "only root may talk to the node agent"))
    };
    if let Err(error) = result {
        debug!(%error, "call failed");
        // The plugin may be gone; then nobody is left to tell.
        let _ = connection.send(&Reply::Failed(error)).await;
    }
}

async fn answer(node: &Arc<Node>, connection: &mut Connection) -> Result<(), CniError> {
    // A connection that is closed without a request is how one asks whether somebody is there.
    let Some(request) = connection.receive().await? else { return Ok(()) };
    let call = node.metrics.cni_call(&request);
    let result = answer_request(node, connection, request).await;
    call.ended(result.as_ref().err());
    result
}

async fn answer_request(
    node: &Arc<Node>,
    connection: &mut Connection,
    request: Request,
) -> Result<(), CniError> {
    check_protocol(&request)?;
    let reply = match request {
        Request::Add { key, pod, netns, .. } => {
            return attach::serve(node, connection, Add { key, pod, netns }).await;
        }
        Request::Del { key, .. } => node.delete(&key).await.map(|()| Reply::Done)?,
        Request::Check { key, .. } => node.check(&key).await.map(Reply::Wire)?,
        Request::Status { .. } => node.status().await.map(|()| Reply::Done)?,
        Request::Gc { network, valid, .. } => {
            node.collect_garbage(&network, &valid).await.map(|()| Reply::Done)?
        }
        Request::Wired => return Err(CniError::new(code::DECODE, "`Wired` without an ADD")),
    };
    // A plugin that went away asks again.
    let _ = connection.send(&reply).await;
    Ok(())
}

fn check_protocol(request: &Request) -> Result<(), CniError> {
    let (Request::Add { protocol, .. }
    | Request::Del { protocol, .. }
    | Request::Check { protocol, .. }
    | Request::Status { protocol }
    | Request::Gc { protocol, .. }) = request
    else {
        return Ok(());
    };
    if *protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(CniError::new(code::TRY_AGAIN_LATER, "plugin and node agent are of different versions").details(
        format!(
            "the plugin speaks protocol {protocol}, the agent {PROTOCOL_VERSION}: finish the upgrade of the node"
        ),
    ))
}
