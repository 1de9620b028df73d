//! Asking the node agent on this machine.

use std::path::Path;

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::inspect::{Answer, Question};

/// A question that was asked, and its answers.
pub struct Asked {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Open: its end would be that of the question.
    _writer: OwnedWriteHalf,
}

/// Asks.
///
/// # Errors
/// Nobody answers on the socket.
pub async fn ask(socket: &Path, question: &Question) -> anyhow::Result<Asked> {
    let stream = UnixStream::connect(socket).await.with_context(|| format!("socket {}", socket.display()))?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    Ok(Asked { lines: BufReader::new(reader).lines(), _writer: writer })
}

impl Asked {
    /// The next answer; `None`: the agent has ended.
    ///
    /// # Errors
    /// The agent refuses, or cannot be understood.
    pub async fn next(&mut self) -> anyhow::Result<Option<Answer>> {
        let Some(line) = self.lines.next_line().await? else { return Ok(None) };
        match serde_json::from_str(&line).context("the agent's answer: is ipamctl of the same version?")? {
            Answer::Failed(reason) => anyhow::bail!(reason),
            answer => Ok(Some(answer)),
        }
    }
}
