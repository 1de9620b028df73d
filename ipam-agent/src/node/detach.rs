//! DEL, and undoing whatever an attachment has made: the same steps in any state, each of which may have been done
//! before.

use std::sync::Arc;

use ipam_cni::{error::CniError, protocol::AttachmentKey};
use tracing::{info, warn};

use crate::{
    netlink::PodHostRoute,
    node::{
        bindings::PodName,
        context::Node,
        crash::crash_point,
        failure::Failure,
        journal::{Change, Record, State},
    },
};

impl Node {
    /// Serves a DEL. When this returns, no packet reaches the pod any more and the journal holds what is left to do;
    /// the device, whose deletion waits for an RCU grace period (some 25 ms), goes afterwards.
    ///
    /// # Errors
    /// When the journal cannot be written or the kernel refuses. The runtime, or the repair, tries again.
    pub async fn delete(self: &Arc<Self>, key: &AttachmentKey) -> Result<(), CniError> {
        let locked = self.locks.lock(key).await;
        let Some(record) = self.known(key).await.map_err(Failure::from)? else { return Ok(()) };
        self.journal.change(Change::Detach(key.clone())).await.map_err(Failure::from)?;
        crash_point("node-del-intent");
        self.unroute(&record).await?;
        let node = Arc::clone(self);
        self.background.spawn(async move {
            if let Err(failure) = node.erase(&record).await {
                warn!(key = ?record.key, %failure, "cannot finish a DEL yet; the repair goes on");
            }
            drop(locked);
        });
        Ok(())
    }

    /// Takes away everything that an attachment has made, and forgets it. The caller holds its lock.
    ///
    /// # Errors
    /// The first error; what is left stays in the journal.
    pub async fn take_away(&self, record: &Record) -> Result<(), Failure> {
        let known = self.journal.get(&record.key);
        if known.is_some_and(|known| known.state == State::Committed) {
            self.journal.change(Change::Detach(record.key.clone())).await?;
        }
        self.unroute(record).await?;
        self.erase(record).await
    }

    /// Removes the map entry, the route and the program of an attachment. What another attachment of the same address
    /// has taken over stays.
    async fn unroute(&self, record: &Record) -> Result<(), Failure> {
        let _addresses = self.lock_addresses(record).await;
        if let Some(ifindex) = self.ifindex_of(record).await? {
            for ip in record.ips() {
                self.dataplane().remove_route(ip, Some(ifindex))?;
                self.net.remove_pod_route(PodHostRoute { ip, ifindex }).await?;
            }
        }
        self.dataplane().detach(&record.host_ifname)?;
        crash_point("node-del-route");
        Ok(())
    }

    /// The index of the node's end, also when the device is gone; `None` if it never led anywhere.
    async fn ifindex_of(&self, record: &Record) -> Result<Option<u32>, Failure> {
        if record.host_ifindex.is_some() {
            return Ok(record.host_ifindex);
        }
        if let Some(link) = self.host_link(record).await? {
            return Ok(Some(link.index));
        }
        // An ADD that died between its route and its commit, and whose device died too: the map alone remembers the
        // index. It is not ours if it is another attachment's.
        let mut route = None;
        for ip in record.ips() {
            route = route.or(self.dataplane().route(ip)?);
        }
        let Some(route) = route else { return Ok(None) };
        let book = self.journal.book();
        let others = || book.attachments.values().filter(|other| other.key != record.key);
        let taken = others().any(|other| {
            other.host_ifindex == Some(route.ifindex)
                || (record.ips().any(|ip| other.has(ip)) && other.host_ifindex.is_none())
        });
        Ok((!taken).then_some(route.ifindex))
    }

    /// Deletes the device and the Pod object of an attachment, and forgets it.
    async fn erase(&self, record: &Record) -> Result<(), Failure> {
        if let Some(link) = self.host_link(record).await? {
            self.net.delete_link(link.index).await?;
        }
        crash_point("node-del-link");
        if let (true, Some(pods)) = (record.owns_pod, &self.pods) {
            let pod = PodName {
                namespace: record.pod_namespace.clone(),
                name: record.pod_name.clone(),
                uid: record.pod_uid.clone(),
            };
            pods.delete(&pod).await?;
        }
        self.departed.note(record);
        self.journal.change(Change::Forget(record.key.clone())).await?;
        crash_point("node-del-forget");
        info!(
            namespace = record.pod_namespace, pod = record.pod_name, ip = %record.ip, epoch = record.epoch,
            link = record.host_ifname, "pod detached"
        );
        Ok(())
    }
}
