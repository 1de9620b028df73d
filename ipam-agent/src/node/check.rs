//! CHECK: is everything on the node's side of an attachment as it should be?

use ipam_cni::{
    error::{CniError, code},
    protocol::{AttachmentKey, PodInterface},
};

use crate::{
    dataplane::Program,
    netlink::PodHostRoute,
    node::{
        attach::{pod_interface, pod_route},
        context::Node,
        failure::Failure,
        journal::State,
    },
};

impl Node {
    /// Looks at an attachment and answers what the pod's side must be.
    ///
    /// # Errors
    /// What is missing or different.
    pub async fn check(&self, key: &AttachmentKey) -> Result<PodInterface, CniError> {
        let _locked = self.locks.lock(key).await;
        let wrong = |what: String| {
            CniError::new(code::CHECK_FAILED, "the node's side of the interface is not as it should be")
                .details(what)
        };
        let record =
            self.known(key).await.map_err(Failure::from)?.filter(|record| record.state == State::Committed);
        let record = record.ok_or_else(|| {
            let what = format!("interface {} of container {}", key.ifname, key.container_id);
            CniError::new(code::UNKNOWN_CONTAINER, format!("{what} is not attached"))
        })?;
        let book = self.journal.book();
        for ip in record.ips() {
            if let Some(owner) = book.owner_of(ip).filter(|owner| owner.key != *key) {
                return Err(wrong(format!("container {} has taken over {ip}", owner.key.container_id)));
            }
        }
        let link = self.host_link(&record).await.map_err(Failure::from)?;
        let link = link.filter(|link| Some(link.index) == record.host_ifindex);
        let link = link.ok_or_else(|| wrong(format!("link {} is gone", record.host_ifname)))?;
        if !link.up {
            return Err(wrong(format!("link {} is down", link.name)));
        }
        for address in record.addresses() {
            let expected = pod_route(&record, &address, link.index)?;
            let found = self.dataplane().route(address.ip).map_err(Failure::from)?;
            if found != Some(expected) {
                let ip = address.ip;
                return Err(wrong(format!("map entry of {ip}: expected {expected:?}, found {found:?}")));
            }
        }
        let pins = self.dataplane().links().map_err(Failure::from)?;
        if !pins.iter().any(|pin| pin.ifindex == link.index && pin.program == Program::FromPod) {
            return Err(wrong(format!("no program is attached to {}", link.name)));
        }
        let routes = self.net.pod_routes().await.map_err(Failure::from)?;
        for ip in record.ips() {
            if !routes.contains(&PodHostRoute { ip, ifindex: link.index }) {
                return Err(wrong(format!("the main table has no route of {ip} to {}", link.name)));
            }
        }
        Ok(pod_interface(&record))
    }
}
