//! A stream of numbered datagrams at a fixed rate, for what happens under a restart or a move.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::{net::sockopt::set_socket_recv_buffer_size_force, thread::set_current_timer_slack};

use crate::lab::{netns::Netns, patience::patient};

/// Bytes of a datagram: number, time of sending, and filling.
const DATAGRAM: usize = 64;
/// Room for more than a second of 10 000 packets/s, should the receiver not get the processor.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How long the receiver waits for stragglers. A busy machine may take seconds for what it has taken in; what has come
/// ends the waiting.
const GRACE: Duration = Duration::from_secs(3);
/// How often a server that sends back looks whether it is over.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of a stream.
#[derive(Clone, Debug, Default)]
pub struct UdpReport {
    /// Datagrams the sender made, including those its kernel refused.
    pub sent: u64,
    /// Datagrams that the sender's kernel refused (no route, no buffer); they count as lost too.
    pub send_errors: u64,
    /// Different datagrams that arrived.
    pub received: u64,
    /// `sent` − `received`.
    pub lost: u64,
    /// Arrivals of a datagram that had arrived.
    pub duplicates: u64,
    /// Arrivals after a datagram with a higher number.
    pub reordered: u64,
    /// Most datagrams lost in a row.
    pub longest_loss: u64,
    /// Longest time between two arrivals. The receiver's and the sender's scheduling are in it.
    pub longest_gap: Duration,
    /// Longest time between two sendings: how much of `longest_gap` the sender made.
    pub longest_send_gap: Duration,
    /// Longest time from sending to the receiver's reading it.
    pub longest_delay: Duration,
    /// From the first sending to the last.
    pub duration: Duration,
}

impl fmt::Display for UdpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent in {:.2?}, {} received, {} lost (at most {} in a row), {} duplicates, {} reordered; \
             longest gap {:.2?} (sender's {:.2?}), longest delay {:.2?}",
            self.sent,
            self.duration,
            self.received,
            self.lost,
            self.longest_loss,
            self.duplicates,
            self.reordered,
            self.longest_gap,
            self.longest_send_gap,
            self.longest_delay
        )
    }
}

/// A stream under way.
#[derive(Debug)]
pub struct UdpStream {
    shared: Arc<Shared>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<io::Result<Received>>,
    echo: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// How many were sent; `u64::MAX` until the sender is done.
    total: AtomicU64,
    start: Instant,
    /// The receiver has what it will get.
    over: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            stop: AtomicBool::new(false),
            total: AtomicU64::new(u64::MAX),
            start: Instant::now(),
            over: AtomicBool::new(false),
        })
    }
}

#[derive(Debug, Default)]
struct Sent {
    count: u64,
    errors: u64,
    longest_gap: Duration,
    duration: Duration,
}

#[derive(Debug, Default)]
struct Received {
    /// By number: has it arrived?
    seen: Vec<bool>,
    unique: u64,
    duplicates: u64,
    reordered: u64,
    longest_gap: Duration,
    longest_delay: Duration,
}

impl UdpStream {
    /// Starts sending `pps` datagrams a second from one namespace to an address of another.
    ///
    /// # Errors
    /// `pps` is 0, or `address` is not in `to` or in use there.
    pub fn start(from: &Netns, to: &Netns, address: SocketAddr, pps: u32) -> anyhow::Result<Self> {
        ensure!(pps > 0, "pps: must be at least 1");
        let what = || format!("UDP to {address}");
        let inbox = to.inbox(address).with_context(what)?;
        inbox.set_read_timeout(Some(patient(GRACE)))?;
        set_socket_recv_buffer_size_force(&inbox, RECEIVE_BUFFER)?;
        let outbox = from.run(|| UdpSocket::bind("0.0.0.0:0")).with_context(what)?;
        Ok(Self::run(inbox, outbox, address, pps, Shared::new(), None))
    }

    /// Starts sending `pps` datagrams a second to `service`, behind which a server of the namespace `to` listens on `port`
    /// and sends each one back. Lost is what did not come back.
    ///
    /// # Errors
    /// `pps` is 0, the port is in use, or there is no route to the service.
    pub fn start_echo(
        from: &Netns,
        service: SocketAddr,
        to: &Netns,
        port: u16,
        pps: u32,
    ) -> anyhow::Result<Self> {
        ensure!(pps > 0, "pps: must be at least 1");
        let what = || format!("UDP to {service} and back");
        let server = to.inbox((Ipv4Addr::UNSPECIFIED, port).into()).with_context(what)?;
        server.set_read_timeout(Some(PAUSE))?;
        set_socket_recv_buffer_size_force(&server, RECEIVE_BUFFER)?;
        let outbox = from.run(|| UdpSocket::bind("0.0.0.0:0")).with_context(what)?;
        outbox.connect(service).with_context(what)?;
        let inbox = Arc::new(outbox.try_clone()?);
        inbox.set_read_timeout(Some(patient(GRACE)))?;
        set_socket_recv_buffer_size_force(&inbox, RECEIVE_BUFFER)?;
        let shared = Shared::new();
        let echo = {
            let shared = shared.clone();
            thread::spawn(move || send_back(&server, &shared))
        };
        Ok(Self::run(inbox, outbox, service, pps, shared, Some(echo)))
    }

    fn run(
        inbox: Arc<UdpSocket>,
        outbox: UdpSocket,
        address: SocketAddr,
        pps: u32,
        shared: Arc<Shared>,
        echo: Option<JoinHandle<()>>,
    ) -> Self {
        let receiver = {
            let shared = shared.clone();
            thread::spawn(move || receive(&inbox, &shared))
        };
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || send(&outbox, address, pps, &shared))
        };
        Self { shared, sender, receiver, echo }
    }

    /// Stops sending, waits for stragglers, and reports.
    ///
    /// # Errors
    /// The receiver's socket failed.
    pub fn stop(self) -> anyhow::Result<UdpReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a thread of the UDP stream panicked");
        let sent = self.sender.join().map_err(panicked)?;
        let received = self.receiver.join().map_err(panicked)?;
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(echo) = self.echo {
            echo.join().map_err(panicked)?;
        }
        let received = received.context("receiving")?;
        Ok(UdpReport {
            sent: sent.count,
            send_errors: sent.errors,
            received: received.unique,
            lost: sent.count - received.unique,
            duplicates: received.duplicates,
            reordered: received.reordered,
            longest_loss: longest_loss(&received.seen, sent.count),
            longest_gap: received.longest_gap,
            longest_send_gap: sent.longest_gap,
            longest_delay: received.longest_delay,
            duration: sent.duration,
        })
    }
}

/// Sends `pps` datagrams a second for some time.
///
/// # Errors
/// As [`UdpStream::start`] and [`UdpStream::stop`].
pub fn udp_stream(
    from: &Netns,
    to: &Netns,
    address: SocketAddr,
    pps: u32,
    duration: Duration,
) -> anyhow::Result<UdpReport> {
    let stream = UdpStream::start(from, to, address, pps)?;
    thread::sleep(duration);
    stream.stop()
}

/// Each datagram has its time from the start, so that a late one does not delay the rest.
fn send(outbox: &UdpSocket, to: SocketAddr, pps: u32, shared: &Shared) -> Sent {
    // The usual slack of 50 µs is a quarter of the time between packets at 5 000 a second.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    let mut sent = Sent::default();
    let mut last = Duration::ZERO;
    let first = shared.start.elapsed();
    while !shared.stop.load(Ordering::Relaxed) {
        let due = first + Duration::from_nanos(sent.count * 1_000_000_000 / u64::from(pps));
        thread::sleep(due.saturating_sub(shared.start.elapsed()));
        let now = shared.start.elapsed();
        let mut datagram = [0; DATAGRAM];
        datagram[..8].copy_from_slice(&sent.count.to_be_bytes());
        datagram[8..16].copy_from_slice(&(now.as_nanos() as u64).to_be_bytes());
        sent.errors += u64::from(outbox.send_to(&datagram, to).is_err());
        if sent.count > 0 {
            sent.longest_gap = sent.longest_gap.max(now - last);
        }
        last = now;
        sent.count += 1;
        sent.duration = now - first;
    }
    shared.total.store(sent.count, Ordering::Release);
    sent
}

/// What cannot be sent back is lost, and shows as that.
fn send_back(server: &UdpSocket, shared: &Shared) {
    let mut datagram = [0; DATAGRAM];
    while !shared.over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut datagram) {
            let _ = server.send_to(&datagram[..length], from);
        }
    }
}

fn receive(inbox: &UdpSocket, shared: &Shared) -> io::Result<Received> {
    let mut received = Received::default();
    let mut last = None;
    let mut datagram = [0; DATAGRAM];
    while received.unique < shared.total.load(Ordering::Acquire) {
        match inbox.recv(&mut datagram) {
            Ok(DATAGRAM) => {}
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if shared.total.load(Ordering::Acquire) == u64::MAX {
                    continue;
                }
                break;
            }
            Err(e) => return Err(e),
        }
        let now = shared.start.elapsed();
        let number = |at: usize| {
            let mut octets = [0; 8];
            octets.copy_from_slice(&datagram[at..at + 8]);
            u64::from_be_bytes(octets)
        };
        received.take(number(0) as usize);
        received.longest_delay =
            received.longest_delay.max(now.saturating_sub(Duration::from_nanos(number(8))));
        received.longest_gap = received.longest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
        last = Some(now);
    }
    Ok(received)
}

impl Received {
    fn take(&mut self, number: usize) {
        if number >= self.seen.len() {
            self.seen.resize(number + 1, false);
        } else {
            self.reordered += u64::from(!self.seen[number]);
        }
        let before = std::mem::replace(&mut self.seen[number], true);
        self.duplicates += u64::from(before);
        self.unique += u64::from(!before);
    }
}

fn longest_loss(seen: &[bool], sent: u64) -> u64 {
    let unseen_tail = sent.saturating_sub(seen.len() as u64);
    let (longest, run) = seen.iter().fold((0, 0), |(longest, run), seen| {
        let run = if *seen { 0 } else { run + 1 };
        (run.max(longest), run)
    });
    longest.max(run + unseen_tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_told_apart() {
        let mut received = Received::default();
        for number in [0, 1, 3, 2, 3, 6] {
            received.take(number);
        }
        assert_eq!((received.unique, received.duplicates, received.reordered), (5, 1, 1));
        assert_eq!(longest_loss(&received.seen, 7), 2, "4 and 5");
        assert_eq!(longest_loss(&received.seen, 10), 3, "7 to 9");
    }
}
