//! A node that is cut off from the API while others are not: its silence will be taken for its end, and the addresses of
//! claims with [`Fencing::Optimistic`] go to other nodes. The agent disconnects those pods before that, so that no two pods
//! answer to one address, not even to their neighbours on this node. Claims with [`Fencing::Strict`] are never taken over
//! by silence, and their pods go on.
//!
//! The API being away for all is no reason: nobody can take anything over then. So others are asked first, over the
//! network that pods use: only when one of them says that the API answers it does this node give way. With nobody to ask,
//! or nobody who answers, nothing is cut: then the node is cut off from the others too, and its pods with it.
//!
//! What was cut comes back when the API says that it is still this node's, and [`super::evict`] ends what is not.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipam_cni::protocol::AttachmentKey;
use kube::{Api, Client};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    api::{Fencing, VpcIP},
    netlink::PodHostRoute,
    node::{
        context::Node,
        evict,
        failure::Failure,
        journal::{Record, State},
    },
};

/// How often the silence is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a witness may take.
const ANSWER: Duration = Duration::from_secs(2);
/// What an agent's or controller's metrics say while the API answers it.
const REACHABLE: &str = "eni_ipam_api_reachable{} ";

/// When and on whose word a node gives way.
#[derive(Clone, Debug)]
pub struct SelfFence {
    /// After so long a silence of the API.
    pub after: Duration,
    /// Metrics of other nodes' agents, as URLs.
    pub witnesses: Vec<String>,
}

/// The attachments that are cut.
#[derive(Debug, Default)]
pub struct Cut(Mutex<HashSet<AttachmentKey>>);

impl Cut {
    /// Whether an attachment is to stay without its entries. Ask it with the attachment's addresses locked, before an entry
    /// is written: it is cut without, and disconnected with them locked.
    #[must_use]
    pub fn has(&self, key: &AttachmentKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn all(&self) -> Vec<AttachmentKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn set(&self, key: &AttachmentKey, cut: bool) -> bool {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cut { keys.insert(key.clone()) } else { keys.remove(key) }
    }
}

/// Cuts and mends until the process ends.
pub async fn keep(node: Arc<Node>, client: Client) {
    let Some(config) = node.config.self_fence.clone() else { return std::future::pending().await };
    let api: Api<VpcIP> = Api::all(client);
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap_or_default();
    let began = Instant::now();
    loop {
        tokio::time::sleep(PERIOD).await;
        let silent = node.contact.silent_for().unwrap_or_else(|| began.elapsed());
        let mended = if silent < config.after {
            mend(&node, &api).await
        } else {
            if has_witness(&http, &config.witnesses).await {
                cut(&node);
            }
            Ok(())
        };
        // Each time: one may have failed, or somebody may have put an entry back.
        if let Err(failure) = mended.and(disconnect(&node).await) {
            warn!(%failure, "cannot cut or mend pods; trying again");
        }
    }
}

/// Whether somebody is answered by the API.
async fn has_witness(http: &reqwest::Client, witnesses: &[String]) -> bool {
    let asked = witnesses.iter().map(async |url| {
        let text = http.get(url).send().await.ok()?.error_for_status().ok()?.text().await.ok()?;
        Some(says_reachable(&text))
    });
    futures::future::join_all(asked).await.contains(&Some(true))
}

/// Whether metrics say that the API answers.
fn says_reachable(metrics: &str) -> bool {
    let mut values =
        metrics.lines().filter_map(|line| line.strip_prefix(REACHABLE)?.trim().parse::<f64>().ok());
    values.any(|value| value > 0.5)
}

/// Gives up pods whose address may be given away.
fn cut(node: &Node) {
    for record in node.journal.book().attachments.values().filter(|record| record.state == State::Committed) {
        if may_be_taken_over(node, record) && node.cut.set(&record.key, true) {
            warn!(
                namespace = record.pod_namespace, pod = record.pod_name, ip = %record.ip,
                "cut off from the API, which answers others: disconnecting a pod whose address may be taken over"
            );
        }
    }
}

/// Takes the entries of the pods that are given up. Their interfaces stay. The first error; all others were taken
/// nevertheless.
async fn disconnect(node: &Node) -> Result<(), Failure> {
    let mut result = Ok(());
    for key in node.cut.all() {
        let Some(record) = node.journal.get(&key) else { continue };
        let Some(ifindex) = record.host_ifindex else { continue };
        let _addresses = node.lock_addresses(&record).await;
        for ip in record.ips() {
            let done = disconnect_address(node, PodHostRoute { ip, ifindex }).await;
            result = result.and(done);
        }
    }
    result
}

async fn disconnect_address(node: &Node, route: PodHostRoute) -> Result<(), Failure> {
    node.dataplane().remove_route(route.ip, Some(route.ifindex))?;
    Ok(node.net.remove_pod_route(route).await?)
}

fn may_be_taken_over(node: &Node, record: &Record) -> bool {
    let (heard, book) = (node.bindings.all(), node.journal.book());
    record.addresses().iter().any(|address| {
        let of_api = heard.iter().find(|vpc_ip| vpc_ip.metadata.name.as_ref() == Some(&address.vpc_ip));
        let known = of_api.or_else(|| book.bindings.get(&address.vpc_ip));
        known.is_some_and(|vpc_ip| vpc_ip.state().fencing == Fencing::Optimistic)
    })
}

/// Lets the repair put back what the API itself says is still this node's.
async fn mend(node: &Node, api: &Api<VpcIP>) -> Result<(), Failure> {
    for key in node.cut.all() {
        let Some(record) = node.journal.get(&key) else {
            node.cut.set(&key, false);
            continue;
        };
        let mut over = false;
        for address in record.addresses() {
            let vpc_ip = api.get_opt(&address.vpc_ip).await?;
            let pod_uid = record.pod_uid.as_deref();
            over |= vpc_ip
                .is_none_or(|vpc_ip| evict::is_over(&address, pod_uid, &vpc_ip, &node.config.node_name));
        }
        // What is over stays cut until it is taken away.
        if !over && node.cut.set(&key, false) {
            info!(
                namespace = record.pod_namespace,
                pod = record.pod_name,
                "still this node's: connected again"
            );
            crate::node::repair::repair(node).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_one_who_says_so() {
        let metrics = |value: &str| {
            format!("# TYPE eni_ipam_api_reachable gauge\neni_ipam_api_reachable{{}} {value}\n# EOF\n")
        };
        assert!(says_reachable(&metrics("1")) && says_reachable(&metrics("1.0")));
        for other in [
            metrics("0"),
            metrics("0.0"),
            metrics("NaN"),
            String::new(),
            "eni_ipam_api_reachable_x{} 1".into(),
        ] {
            assert!(!says_reachable(&other), "{other}");
        }
    }
}
