//! Samples of dropped packets: from the programs' ring buffer to whoever follows them.

use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use ipam_common::DropEvent;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::broadcast,
};
use tracing::warn;

use crate::{
    inspect::{Dropped, Interface, PodId},
    metrics::Metrics,
    node::context::Node,
};

/// Samples that a follower may be behind before it loses the oldest.
const BACKLOG: usize = 1024;

/// The samples, for any number of followers.
pub struct Drops {
    samples: broadcast::Sender<Arc<Dropped>>,
    read: Counter,
    lost: Counter,
}

impl Drops {
    /// Nothing yet; shown by `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self {
            samples: broadcast::Sender::new(BACKLOG),
            read: Counter::default(),
            lost: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "drop_samples",
                "Samples of dropped packets read from the programs: at most one for each reason, CPU and 10 ms",
                new.read.clone(),
            );
            registry.register(
                "drop_samples_lost",
                "Samples of dropped packets that a follower (ipamctl drops) was too slow for",
                new.lost.clone(),
            );
        });
        new
    }

    /// The samples from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<Dropped>> {
        self.samples.subscribe()
    }

    /// A follower was too slow for so many.
    pub fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }
}

/// Reads samples until the process ends. They are read when nobody follows too: the next follower shall see what is new.
pub async fn keep(node: Arc<Node>) {
    let Some(ring) = node.dataplane().take_drop_events() else {
        warn!("the ring buffer of drop samples has another reader");
        return std::future::pending().await;
    };
    if let Err(error) = read(&node, ring).await {
        // Pods do without: what is dropped is counted still.
        warn!(%error, "no more samples of drops");
        std::future::pending().await
    }
}

async fn read(node: &Node, ring: RingBuf<MapData>) -> std::io::Result<()> {
    // SAFETY: the descriptor is the map's, which the ring buffer owns and neither closes nor exchanges while it lives.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    loop {
        let mut ready = ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        while let Some(item) = ring.next() {
            let Some(event) = parse(&item) else {
                warn!(length = item.len(), "a drop sample of another layout");
                continue;
            };
            node.drops.read.inc();
            if node.drops.samples.receiver_count() > 0 {
                let dropped = Dropped::read(&event, interface(node, event.ifindex), jiff::Timestamp::now());
                // Without a follower, which may have left meanwhile, it is nobody's.
                let _ = node.drops.samples.send(Arc::new(dropped));
            }
        }
        ready.clear_ready();
    }
}

fn parse(bytes: &[u8]) -> Option<DropEvent> {
    if bytes.len() < size_of::<DropEvent>() {
        return None;
    }
    // SAFETY: the slice is long enough, and the type is integers and octets without padding, for which every bit
    // pattern is valid.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Whose an interface is, by the journal.
fn interface(node: &Node, index: u32) -> Interface {
    let book = node.journal.book();
    let record = book.attachments.values().find(|record| record.host_ifindex == Some(index));
    Interface {
        index,
        name: record.map(|record| record.host_ifname.clone()),
        pod: record
            .map(|record| PodId { namespace: record.pod_namespace.clone(), name: record.pod_name.clone() }),
    }
}
