//! A connection of the plugin: lines of JSON, and with the first of them perhaps a descriptor.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use ipam_cni::{
    error::{CniError, code},
    protocol::{Reply, Request},
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
};

/// The longest message, in bytes. A GC of the biggest node names some thousand attachments.
const MAX_MESSAGE: usize = 4 << 20;

/// A connection of the plugin.
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Connection {
    /// Takes over a stream that was accepted.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptor: None }
    }

    /// The next request; `None` when the plugin is gone.
    ///
    /// # Errors
    /// When the message cannot be read.
    pub async fn receive(&mut self) -> Result<Option<Request>, CniError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    CniError::new(code::DECODE, "the agent cannot read the plugin's request")
                        .details(error.to_string())
                });
            }
            if self.received.len() > MAX_MESSAGE {
                return Err(CniError::new(code::DECODE, "the plugin's request is too long")
                    .details(format!("more than {MAX_MESSAGE} bytes")));
            }
            let read = self.read().await.map_err(|error| {
                CniError::new(code::IO, "the agent cannot read from the plugin").details(error.to_string())
            })?;
            if read == 0 {
                return Ok(None);
            }
        }
    }

    /// The descriptor that came with the last request.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the plugin is gone.
    pub async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.stream.write_all(&line).await
    }

    /// Reads once, and keeps a descriptor that comes along.
    async fn read(&mut self) -> io::Result<usize> {
        let Self { stream, received, descriptor } = self;
        stream
            .async_io(Interest::READABLE, || {
                let mut buffer = [0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let message = recvmsg(
                    stream.as_fd(),
                    &mut [IoSliceMut::new(&mut buffer)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                for ancillary in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
                        // Those that are not kept are closed.
                        *descriptor = descriptors.last();
                    }
                }
                received.extend_from_slice(&buffer[..message.bytes]);
                Ok(message.bytes)
            })
            .await
    }
}
