//! What every part of the node agent works on.

use std::{
    collections::HashMap,
    net::IpAddr,
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
    dataplane::{Dataplane, DataplaneError, Program},
    netlink::{Link, MacText, Netlink, NetlinkError},
    node::{
        NodeConfig,
        bindings::Bindings,
        contact::Contact,
        departed::Departed,
        drift::{Repairs, tables::Tables},
        drops::Drops,
        eni::EniView,
        fence::Fence,
        journal::{Journal, Record},
        locks::{Locked, Locks},
        masquerade,
        metrics::NodeMetrics,
        self_fence::Cut,
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
    /// Whether the API is there.
    pub contact: Contact,
    /// The ENIs of this node.
    pub enis: watch::Sender<Arc<Vec<EniView>>>,
    /// Between ADD and the acknowledgement of a detach.
    pub fence: Fence,
    /// Bindings whose last attachment went, until it is known whether their pod did.
    pub departed: Departed,
    /// One call per attachment at a time.
    pub locks: Locks<AttachmentKey>,
    /// One change per address at a time: two sandboxes of a pod share one.
    pub addresses: Locks<IpAddr>,
    /// Makes Pod objects where no cluster does.
    pub pods: Option<StandalonePods>,
    /// Since when attachments have been seen without their link.
    pub missing: Mutex<HashMap<AttachmentKey, Instant>>,
    /// What had to be put right.
    pub repairs: Repairs,
    /// What the maps of no single pod should hold.
    pub tables: Tables,
    /// The last repair could not write the dataplane.
    pub broken: AtomicBool,
    /// Which destinations pods reach by the node's address.
    pub masquerade: masquerade::Keeper,
    /// Pods that this node has given up for now.
    pub cut: Cut,
    /// What this process counts for `/metrics`.
    pub metrics: NodeMetrics,
    /// Samples of dropped packets.
    pub drops: Drops,
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
        contact: Contact,
        pods: Option<StandalonePods>,
    ) -> Self {
        Self {
            metrics: NodeMetrics::new(&config.metrics),
            drops: Drops::new(&config.metrics),
            config,
            net,
            journal,
            bindings,
            contact,
            enis: watch::Sender::new(Arc::default()),
            fence: Fence::default(),
            departed: Departed::default(),
            locks: Locks::default(),
            addresses: Locks::default(),
            pods,
            missing: Mutex::default(),
            repairs: Repairs::default(),
            tables: Tables::default(),
            broken: AtomicBool::new(false),
            masquerade: masquerade::Keeper::default(),
            cut: Cut::default(),
            background: TaskTracker::new(),
            dataplane: Mutex::new(dataplane),
        }
    }

    /// The dataplane. Calls are a few system calls long, so they are made in place; never hold it over an await.
    pub fn dataplane(&self) -> MutexGuard<'_, Dataplane> {
        self.dataplane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the addresses of an attachment, always in the same order.
    pub async fn lock_addresses(&self, record: &Record) -> Vec<Locked> {
        let mut ips: Vec<IpAddr> = record.ips().collect();
        ips.sort_unstable();
        let mut locked = Vec::with_capacity(ips.len());
        for ip in ips {
            locked.push(self.addresses.lock(&ip).await);
        }
        locked
    }

    /// The node's end of an attachment's veth, if it is there, also under another name. One of the same name that is
    /// not ours is not it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn host_link(&self, record: &Record) -> Result<Option<Link>, NetlinkError> {
        let link = self.net.link_by_name(&record.host_ifname).await?;
        if let Some(link) = link.filter(|link| is_host_link(record, link)) {
            return Ok(Some(link));
        }
        let Some(ifindex) = record.host_ifindex else { return Ok(None) };
        let link = self.net.link_by_index(ifindex).await?;
        Ok(link.filter(|link| is_host_link(record, link)))
    }

    /// Attaches both programs of a pod's link, in the place of a former agent's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_programs(&self, link: &Link) -> Result<(), DataplaneError> {
        let mut dataplane = self.dataplane();
        if self.config.stack_affinity {
            dataplane.attach_to_pod(link.index, &link.name)?;
        }
        dataplane.attach_pod(link.index, &link.name)?;
        Ok(())
    }

    /// The programs that a pod's link has.
    #[must_use]
    pub fn pod_programs(&self) -> &'static [Program] {
        if self.config.stack_affinity { &[Program::FromPod, Program::ToPod] } else { &[Program::FromPod] }
    }

    /// Whether an ADD can be served. An agent that has just started is given the moment that an ADD would wait for, too.
    ///
    /// # Errors
    /// Code 50 when it cannot; code 51 when existing pods may be cut off as well.
    pub async fn status(&self) -> Result<(), CniError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(CniError::new(code::NOT_AVAILABLE_LIMITED, "the dataplane cannot be written")
                .details("the agent's log has the error of the kernel"));
        }
        if !self.bindings.can_serve_soon().await {
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

/// Whether a link is the node's end of an attachment's veth. Somebody may have changed one of its marks, its name or
/// its MAC; the index alone is that of another link after a reboot.
#[must_use]
pub fn is_host_link(record: &Record, link: &Link) -> bool {
    let marks = [
        link.name == record.host_ifname,
        MacText(link.mac).to_string() == record.host_mac,
        record.host_ifindex == Some(link.index),
    ];
    link.kind == "veth" && marks.iter().filter(|mark| **mark).count() >= 2
}
