//! The plugin's end of the agent's socket.

use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use crate::{
    error::{CniError, code},
    protocol::{PodInterface, Reply, Request},
};

/// Longest reply in bytes. A pod's interface takes some hundred.
const REPLY_MAX: usize = 1 << 20;

/// How long an agent may not be there: a restart takes less, and no runtime shall see it.
const ABSENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts to find it.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to the agent, for one CNI call. Dropping it before [`Request::Wired`] makes the agent undo.
pub struct Agent {
    stream: UnixStream,
    socket: PathBuf,
    timeout: Duration,
    deadline: Instant,
    /// Code of the errors that say that the agent cannot be talked to.
    unavailable: u32,
    received: Vec<u8>,
}

impl Agent {
    /// Connects, and waits for an agent that is being started anew. `timeout` is for everything from here on; an agent
    /// that is not there, is late or hangs up is an error with the code `unavailable`.
    pub fn connect(socket: &Path, timeout: Duration, unavailable: u32) -> Result<Self, CniError> {
        let deadline = Instant::now() + timeout;
        let open = || -> io::Result<UnixStream> {
            let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Bounds the wait for a place in the agent's backlog, which the standard library cannot.
            set_socket_timeout(&fd, Timeout::Send, Some(timeout))?;
            connect(&fd, &SocketAddrUnix::new(socket)?)?;
            Ok(fd.into())
        };
        let patience = Instant::now() + ABSENCE.min(timeout / 2);
        let opened = loop {
            match open() {
                Err(error) if is_absence(&error) && Instant::now() < patience => thread::sleep(PAUSE),
                opened => break opened,
            }
        };
        match opened {
            Ok(stream) => {
                let socket = socket.to_owned();
                Ok(Self { stream, socket, timeout, deadline, unavailable, received: Vec::new() })
            }
            Err(error) => {
                let why =
                    if is_timeout(&error) { "it accepts no connection".into() } else { error.to_string() };
                Err(CniError::new(
                    unavailable,
                    format!("the node agent at {} is not there", socket.display()),
                )
                .details(format!("{why}; is ipam-agent running, and is this the socket it listens on?")))
            }
        }
    }

    /// Asks for something that can be asked for twice: an agent that ends in between is asked again when it is back.
    /// The rest is as for [`Self::connect`].
    pub fn ask(
        socket: &Path,
        timeout: Duration,
        unavailable: u32,
        request: &Request,
    ) -> Result<Self, CniError> {
        let patience = Instant::now() + ABSENCE.min(timeout / 2);
        loop {
            let mut agent = Self::connect(socket, timeout, unavailable)?;
            let line = encode(request)?;
            match agent.send_line(&line, None).and_then(|()| agent.await_line()) {
                Ok(()) => return Ok(agent),
                Err(error) if is_hangup(&error) && Instant::now() < patience => thread::sleep(PAUSE),
                Err(error) => return Err(agent.broken(&error)),
            }
        }
    }

    /// Sends a request, with a descriptor when given one.
    pub fn send(&mut self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), CniError> {
        let line = encode(request)?;
        self.send_line(&line, fd).map_err(|error| self.broken(&error))
    }

    fn send_line(&mut self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        set_socket_timeout(&self.stream, Timeout::Send, Some(self.remaining()?))?;
        let fds = fd.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("no room for the descriptor"));
        }
        // The descriptor goes with the first byte; what is left is ordinary data.
        let sent = sendmsg(self.stream.as_fd(), &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&line[sent..])
    }

    /// Waits for what the pod's side must be like.
    pub fn expect_wire(&mut self) -> Result<PodInterface, CniError> {
        match self.receive()? {
            Reply::Wire(pod) => Ok(pod),
            other => Err(self.unexpected(&other, "Wire")),
        }
    }

    /// Waits for the end of the call.
    pub fn expect_done(&mut self) -> Result<(), CniError> {
        match self.receive()? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other, "Done")),
        }
    }

    /// The next reply; the agent's own errors come back as they are.
    fn receive(&mut self) -> Result<Reply, CniError> {
        let line = self.receive_line().map_err(|error| self.broken(&error))?;
        let reply = serde_json::from_slice(&line).map_err(|error| {
            CniError::new(
                code::INTERNAL,
                format!("the node agent at {} answers what is no reply", self.socket.display()),
            )
            .details(format!("{error}; are plugin and agent of the same version?"))
        })?;
        match reply {
            // Code 0 would read as success.
            Reply::Failed(error) if error.code == 0 => Err(CniError { code: code::INTERNAL, ..error }),
            Reply::Failed(error) => Err(error),
            reply => Ok(reply),
        }
    }

    fn receive_line(&mut self) -> io::Result<Vec<u8>> {
        self.await_line()?;
        let end =
            self.received.iter().position(|byte| *byte == b'\n').map_or(self.received.len(), |end| end + 1);
        let rest = self.received.split_off(end);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Waits until a line is there.
    fn await_line(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while !self.received.contains(&b'\n') {
            if self.received.len() > REPLY_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its reply does not end"));
            }
            set_socket_timeout(&self.stream, Timeout::Recv, Some(self.remaining()?))?;
            match self.stream.read(&mut chunk)? {
                0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "it hung up before the call was done",
                    ));
                }
                n => self.received.extend_from_slice(&chunk[..n]),
            }
        }
        Ok(())
    }

    fn remaining(&self) -> io::Result<Duration> {
        // Rounded up to what a socket takes: zero would mean no limit.
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left.max(Duration::from_millis(1)))
        }
    }

    fn broken(&self, error: &io::Error) -> CniError {
        let socket = self.socket.display();
        if is_timeout(error) {
            let seconds = self.timeout.as_secs();
            return CniError::new(
                self.unavailable,
                format!("the node agent at {socket} did not answer within {seconds} s"),
            )
            .details("see its log; timeoutSeconds in the network configuration sets the limit");
        }
        CniError::new(self.unavailable, format!("the conversation with the node agent at {socket} broke off"))
            .details(format!("{error}; see its log"))
    }

    fn unexpected(&self, reply: &Reply, expected: &str) -> CniError {
        CniError::new(
            code::INTERNAL,
            format!("the node agent at {} answers out of turn", self.socket.display()),
        )
        .details(format!("{reply:?} instead of {expected}; are plugin and agent of the same version?"))
    }
}

fn encode(request: &Request) -> Result<Vec<u8>, CniError> {
    let mut line = serde_json::to_vec(request).map_err(|error| {
        CniError::new(code::INTERNAL, "cannot encode the request").details(error.to_string())
    })?;
    line.push(b'\n');
    Ok(line)
}

/// Whether the agent went away without an answer.
fn is_hangup(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Whether nobody listens.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn is_timeout(error: &io::Error) -> bool {
    // A socket's own timeout shows as EAGAIN.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
