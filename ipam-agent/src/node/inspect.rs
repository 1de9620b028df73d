//! Answers the questions of `ipamctl`, on a socket that only root may use.

mod pod;
mod trial;

use std::sync::Arc;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::broadcast::error::RecvError,
};
use tracing::{debug, warn};

use crate::{
    inspect::{Answer, Question},
    node::{context::Node, server},
};

/// The longest question, in bytes.
const MAX_QUESTION: u64 = 64 << 10;

/// Answers until the process ends. A socket that cannot be had is only told of: pods do not wait for questions.
pub async fn serve(node: Arc<Node>) {
    let listener = match server::listen(&node.config.debug_socket) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "`ipamctl drops` and `ipamctl explain` will not be answered");
            return std::future::pending().await;
        }
    };
    accept(&node, listener).await
}

async fn accept(node: &Arc<Node>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(node);
                // Not among the calls that the end of the agent waits for.
                tokio::spawn(async move {
                    if let Err(error) = converse(&node, stream).await {
                        debug!(%error, "whoever asked has left");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: a pause lets some go.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(node: &Node, stream: UnixStream) -> std::io::Result<()> {
    let root = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let (reader, mut writer) = stream.into_split();
    if !root {
        return send(&mut writer, &Answer::Failed("only root may ask the node agent".into())).await;
    }
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_QUESTION));
    if reader.read_line(&mut line).await? == 0 {
        return Ok(());
    }
    let mut rest = String::new();
    match serde_json::from_str(&line) {
        Ok(Question::Drops) => tokio::select! {
            result = follow_drops(node, &mut writer) => result,
            // Nothing more is asked: the end of the stream is that of the follower.
            end = reader.read_line(&mut rest) => end.map(|_| ()),
        },
        Ok(Question::Pod { pod, to }) => {
            let answer = match pod::view(node, &pod, to).await {
                Ok(view) => Answer::Pod(Box::new(view)),
                Err(failure) => Answer::Failed(failure.to_string()),
            };
            send(&mut writer, &answer).await
        }
        Err(error) => {
            let answer =
                format!("the agent does not know this question ({error}): is ipamctl of the same version?");
            send(&mut writer, &Answer::Failed(answer)).await
        }
    }
}

async fn follow_drops(node: &Node, writer: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    let mut samples = node.drops.follow();
    send(writer, &Answer::Following).await?;
    loop {
        let answer = match samples.recv().await {
            Ok(dropped) => Answer::Dropped(Box::new((*dropped).clone())),
            Err(RecvError::Lagged(count)) => {
                node.drops.lost(count);
                Answer::Lost(count)
            }
            Err(RecvError::Closed) => return Ok(()),
        };
        send(writer, &answer).await?;
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
