//! The agent's side of the protocol, played by a test.

use std::{
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread::{self, JoinHandle},
};

use ipam_cni::protocol::{Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

/// An agent that serves the connections that its script is written for, one after another.
pub struct Agent<T> {
    pub socket: PathBuf,
    script: JoinHandle<T>,
    _dir: TempDir,
}

impl<T: Send + 'static> Agent<T> {
    /// Listens, and plays the script in a thread. The script asks for connections.
    pub fn play(script: impl FnOnce(&UnixListener) -> T + Send + 'static) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("cni.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self { socket, script: thread::spawn(move || script(&listener)), _dir: dir }
    }

    /// What the script returned. Its panics are the test's.
    pub fn finish(self) -> T {
        self.script.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Serves one connection: takes the first request and answers it.
pub fn serve(listener: &UnixListener, reply: &Reply) -> Request {
    let mut peer = Peer::accept(listener);
    let request = peer.request().expect("no request");
    peer.reply(reply);
    request
}

/// A plugin at the other end of a connection.
pub struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// The last descriptor received.
    pub fd: Option<OwnedFd>,
}

impl Peer {
    pub fn accept(listener: &UnixListener) -> Self {
        Self { stream: listener.accept().unwrap().0, buffer: Vec::new(), fd: None }
    }

    /// The next request; nothing when the plugin hung up.
    pub fn request(&mut self) -> Option<Request> {
        while !self.buffer.contains(&b'\n') {
            let mut chunk = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let iov = &mut [IoSliceMut::new(&mut chunk)];
            let received = recvmsg(self.stream.as_fd(), iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fd = fds.into_iter().next();
                }
            }
            if received.bytes == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&chunk[..received.bytes]);
        }
        let end = self.buffer.iter().position(|byte| *byte == b'\n').unwrap();
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Some(serde_json::from_slice(&line).unwrap())
    }

    pub fn reply(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap();
        line.push(b'\n');
        self.send(&line);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Waits until the plugin hangs up.
    pub fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}
