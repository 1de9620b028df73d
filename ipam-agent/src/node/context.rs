//! What every part of the node agent works on.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ipam_cni::{
    error::{CniError, code},
    protocol::AttachmentKey,
};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    dataplane::Dataplane,
    netlink::{Link, MacText, Netlink, NetlinkError},
    node::{
        NodeConfig,
        bindings::Bindings,
        eni::EniView,
        fence::Fence,
        journal::{Journal, Record},
        locks::Locks,
        standalone_pods::StandalonePods,
    },
};

/// The node agent's state and its means.
pub struct Node {
    /// What it was started with.
    pub config: NodeConfig,
    /// The node's network namespace.
    pub net: Netlink,
    /// Every attachment.
    pub journal: Journal,
    /// The addresses of this node.
    pub bindings: Bindings,
    /// The ENIs of this node.
    pub enis: watch::Sender<Arc<Vec<EniView>>>,
    /// Between ADD and the acknowledgement of a detach.
    pub fence: Fence,
    /// One call per attachment at a time.
    pub locks: Locks<AttachmentKey>,
    /// One change per address at a time: two sandboxes of a pod share one.
    pub addresses: Locks<Ipv4Addr>,
    /// Makes Pod objects where no cluster does.
    pub pods: Option<StandalonePods>,
    /// Since when attachments have been seen without their link.
    pub missing: Mutex<HashMap<AttachmentKey, Instant>>,
    /// The last repair could not write the dataplane.
    pub broken: AtomicBool,
    /// Work that outlives the call that began it.
    pub background: TaskTracker,
    dataplane: Mutex<Dataplane>,
}

impl Node {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        config: NodeConfig,
        net: Netlink,
        dataplane: Dataplane,
        journal: Journal,
        bindings: Bindings,
        pods: Option<StandalonePods>,
    ) -> Self {
        Self {
            config,
            net,
            journal,
            bindings,
            enis: watch::Sender::new(Arc::default()),
            fence: Fence::default(),
            locks: Locks::default(),
            addresses: Locks::default(),
            pods,
            missing: Mutex::default(),
            broken: AtomicBool::new(false),
            background: TaskTracker::new(),
            dataplane: Mutex::new(dataplane),
        }
    }

    /// The dataplane. Calls are a few system calls long, so they are made in place; never hold it over an await.
    pub fn dataplane(&self) -> MutexGuard<'_, Dataplane> {
        self.dataplane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's end of an attachment's veth, if it is there. One of the same name that is not ours is not it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn host_link(&self, record: &Record) -> Result<Option<Link>, NetlinkError> {
        let link = self.net.link_by_name(&record.host_ifname).await?;
        Ok(link.filter(|link| is_host_link(record, link)))
    }

    /// Whether an ADD can be served.
    ///
    /// # Errors
    /// Code 50 when it cannot; code 51 when existing pods may be cut off as well.
    pub fn status(&self) -> Result<(), CniError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(CniError::new(code::NOT_AVAILABLE_LIMITED, "the dataplane cannot be written")
                .details("the agent's log has the error of the kernel"));
        }
        if !self.bindings.synced() {
            return Err(CniError::new(code::NOT_AVAILABLE, "the API has not answered this agent yet")
                .details("the node agent needs to list VpcIPs; its log has the error"));
        }
        let enis = self.enis.borrow().clone();
        // A node without ENIs gets its first one with its first pod, so "none yet" must not keep pods away.
        if enis.is_empty() || enis.iter().any(|eni| eni.waits_for.is_none()) {
            return Ok(());
        }
        let waits: Vec<_> = enis
            .iter()
            .filter_map(|eni| Some(format!("{} waits for {}", eni.id, eni.waits_for.as_ref()?)))
            .collect();
        let details = waits.join("; ");
        Err(CniError::new(code::NOT_AVAILABLE, "no ENI of this node can carry pods yet").details(details))
    }
}

/// Whether a link is the node's end of an attachment's veth.
#[must_use]
pub fn is_host_link(record: &Record, link: &Link) -> bool {
    link.name == record.host_ifname && link.kind == "veth" && MacText(link.mac).to_string() == record.host_mac
}
