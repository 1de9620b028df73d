//! TCP: an echo server, and connections to it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::net::shutdown;

use crate::lab::{netns::Netns, patience::patient};

/// A server that sends back what it gets, until dropped.
#[derive(Debug)]
pub struct TcpEcho {
    listener: Arc<TcpListener>,
    stopped: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<(SocketAddr, TcpStream)>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Listens in a namespace. Port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not there or in use.
    pub fn start(ns: &Netns, address: SocketAddr) -> io::Result<Self> {
        let listener = Arc::new(ns.listen(address)?);
        let stopped = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let acceptor = {
            let (listener, stopped, connections) = (listener.clone(), stopped.clone(), connections.clone());
            thread::spawn(move || accept(&listener, &stopped, &connections))
        };
        Ok(Self { listener, stopped, connections, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Peers of all connections so far.
    pub fn peers(&self) -> Vec<SocketAddr> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().map(|(peer, _)| *peer).collect()
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // On Linux this wakes a thread that waits in accept.
        let _ = shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for (_, connection) in self.connections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, stopped: &AtomicBool, connections: &Mutex<Vec<(SocketAddr, TcpStream)>>) {
    while !stopped.load(Ordering::Relaxed) {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let Ok(kept) = stream.try_clone() else { continue };
        connections.lock().unwrap_or_else(PoisonError::into_inner).push((peer, kept));
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let _ = io::copy(&mut &stream, &mut &stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Connects to a [`TcpEcho`], sends `payload` and reads it back; returns the time of all of it. Use at most
/// 64 KiB: it writes all before it reads.
///
/// # Errors
/// No connection or no answer within `timeout` each, or an answer that differs.
pub fn tcp_roundtrip(
    from: &Netns,
    to: SocketAddr,
    payload: &[u8],
    timeout: Duration,
) -> anyhow::Result<Duration> {
    let what = || format!("TCP to {to} from {}", from.name());
    let timeout = patient(timeout);
    let start = Instant::now();
    let mut stream = from.connect(to, timeout).with_context(what)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(payload).with_context(what)?;
    let mut answer = vec![0; payload.len()];
    stream.read_exact(&mut answer).with_context(what)?;
    ensure!(answer == payload, "{}: the answer is not what was sent", what());
    Ok(start.elapsed())
}
