//! The addresses that the controller has bound to this node, kept in memory by a watch. When the API is away the last
//! known state stays and goes on serving.

use std::{net::Ipv4Addr, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        watcher,
    },
};
use tokio::sync::watch;
use tracing::warn;

use crate::api::{IpPhase, VpcIP, VpcIPClaim, VpcIPType, condition};

/// A pod, as CNI names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, if the runtime gives one.
    pub uid: Option<String>,
}

/// An address bound to a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the `VpcIP`.
    pub vpc_ip: String,
    /// UID of the `VpcIP`.
    pub vpc_ip_uid: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// Epoch of the binding.
    pub epoch: i64,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// The cloud's name of the ENI that holds the address.
    pub eni_id: String,
}

/// The addresses of this node.
#[derive(Clone)]
pub struct Bindings {
    client: Client,
    node_name: String,
    store: Store<VpcIP>,
    changes: watch::Receiver<u64>,
}

impl Bindings {
    /// The (still empty) addresses of this node, and the task that keeps them.
    pub fn new(client: Client, node_name: &str) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (store, mut writer) = reflector::store();
        let (publish, changes) = watch::channel(0);
        let config = watcher::Config::default().fields(&format!("status.nodeName={node_name}"));
        let api: Api<VpcIP> = Api::all(client.clone());
        let task = async move {
            let mut events = watcher(api, config)
                .modify(|vpc_ip| vpc_ip.managed_fields_mut().clear())
                .default_backoff()
                .boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        match event {
                            // Half a list is not yet in the store.
                            watcher::Event::Init | watcher::Event::InitApply(_) => {}
                            _ => publish.send_modify(|generation| *generation += 1),
                        }
                    }
                    Err(error) => warn!(%error, "cannot watch VpcIPs; the last known ones go on serving"),
                }
            }
        };
        (Self { client, node_name: node_name.to_owned(), store, changes }, task)
    }

    /// Whether the API has been heard at least once.
    #[must_use]
    pub fn synced(&self) -> bool {
        *self.changes.borrow() > 0
    }

    /// Every address of this node.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<VpcIP>> {
        self.store.state()
    }

    /// A receiver that wakes at each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The address bound to the pod, or why there is none.
    ///
    /// # Errors
    /// What the pod waits for, as far as the addresses of this node tell.
    pub fn find(&self, pod: &PodName) -> Result<Binding, String> {
        if !self.synced() {
            return Err("the API has not answered this agent yet".to_owned());
        }
        let of_pod = self.store.state_filter(|vpc_ip: &VpcIP| {
            let claim = vpc_ip.spec.claim_ref.as_ref();
            vpc_ip.spec.type_ == VpcIPType::Pod
                && claim.is_some_and(|claim| claim.namespace == pod.namespace && claim.name == pod.name)
        });
        best(&of_pod, pod, &self.node_name)
    }

    /// Why a pod has no address, in the words of its claim.
    pub async fn explain(&self, pod: &PodName) -> Option<String> {
        let claims: Api<VpcIPClaim> = Api::namespaced(self.client.clone(), &pod.namespace);
        let claim = match claims.get_opt(&pod.name).await {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                return Some("its VpcIPClaim does not exist: is the controller running?".to_owned());
            }
            Err(error) => return Some(format!("the API cannot be asked why: {error}")),
        };
        let ready =
            claim.status?.conditions.into_iter().find(|condition| condition.type_ == condition::READY)?;
        Some(format!("{}: {}", ready.reason, ready.message))
    }
}

/// The one of a claim's addresses that can be used: a former one may still be on its way out.
fn best(of_pod: &[Arc<VpcIP>], pod: &PodName, node_name: &str) -> Result<Binding, String> {
    let mut reasons = Vec::new();
    for vpc_ip in of_pod {
        match binding(vpc_ip, pod, node_name) {
            Ok(binding) => return Ok(binding),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        return Err(format!("no address is bound to it on node {node_name}"));
    }
    Err(reasons.join("; "))
}

fn binding(vpc_ip: &VpcIP, pod: &PodName, node_name: &str) -> Result<Binding, String> {
    let name = vpc_ip.name_any();
    let status = vpc_ip.state();
    let because = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
    if status.node_name.as_deref() != Some(node_name) {
        return Err(format!("VpcIP {name} is on another node"));
    }
    if status.phase != IpPhase::Bound {
        return Err(format!("VpcIP {name} is {:?}{because}", status.phase));
    }
    if pod.uid.is_some() && status.pod_uid != pod.uid {
        return Err(format!(
            "VpcIP {name} is still bound to another pod of this name, UID {}",
            status.pod_uid.as_deref().unwrap_or("unknown")
        ));
    }
    let ip = vpc_ip.spec.ip.parse().map_err(|_| {
        format!("VpcIP {name}: spec.ip {:?} is no IPv4 address, and pods have only those yet", vpc_ip.spec.ip)
    })?;
    Ok(Binding {
        vpc_ip: name.clone(),
        vpc_ip_uid: vpc_ip.uid().ok_or_else(|| format!("VpcIP {name} has no UID"))?,
        ip,
        epoch: status.epoch,
        pod_uid: status.pod_uid,
        eni_id: status.eni_id.ok_or_else(|| format!("VpcIP {name} is Bound, but names no ENI"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ClaimRef, VpcIPSpec, VpcIPStatus};

    fn vpc_ip(phase: IpPhase) -> VpcIP {
        let claim = ClaimRef { namespace: "default".into(), name: "web-0".into(), uid: "claim".into() };
        let mut object = VpcIP::new(
            "10.0.0.5",
            VpcIPSpec {
                type_: VpcIPType::Pod,
                ip: "10.0.0.5".into(),
                subnet_id: "subnet".into(),
                claim_ref: Some(claim),
            },
        );
        object.metadata.uid = Some("vip".into());
        object.status = Some(VpcIPStatus {
            phase,
            node_name: Some("n1".into()),
            eni_id: Some("eni-1".into()),
            pod_uid: Some("pod".into()),
            epoch: 3,
            message: "words of the cloud".into(),
            ..Default::default()
        });
        object
    }

    fn pod(uid: Option<&str>) -> PodName {
        PodName { namespace: "default".into(), name: "web-0".into(), uid: uid.map(str::to_owned) }
    }

    #[test]
    fn a_former_address_of_the_claim_is_passed_over() {
        let (former, bound) = (Arc::new(vpc_ip(IpPhase::Cooldown)), Arc::new(vpc_ip(IpPhase::Bound)));
        assert_eq!(best(&[former.clone(), bound], &pod(None), "n1").unwrap().epoch, 3);
        let reason = best(&[former], &pod(None), "n1").unwrap_err();
        assert_eq!(reason, "VpcIP 10.0.0.5 is Cooldown: words of the cloud");
        assert_eq!(best(&[], &pod(None), "n1").unwrap_err(), "no address is bound to it on node n1");
    }

    #[test]
    fn only_a_bound_address_of_this_pod_and_node_is_served() {
        let bound = vpc_ip(IpPhase::Bound);
        let expected = Binding {
            vpc_ip: "10.0.0.5".into(),
            vpc_ip_uid: "vip".into(),
            ip: Ipv4Addr::new(10, 0, 0, 5),
            epoch: 3,
            pod_uid: Some("pod".into()),
            eni_id: "eni-1".into(),
        };
        assert_eq!(binding(&bound, &pod(Some("pod")), "n1"), Ok(expected.clone()));
        assert_eq!(binding(&bound, &pod(None), "n1"), Ok(expected));
        let error = binding(&bound, &pod(Some("successor")), "n1").unwrap_err();
        assert_eq!(error, "VpcIP 10.0.0.5 is still bound to another pod of this name, UID pod");
        assert_eq!(
            binding(&bound, &pod(Some("pod")), "n2").unwrap_err(),
            "VpcIP 10.0.0.5 is on another node"
        );
        for phase in [IpPhase::Attaching, IpPhase::Detaching, IpPhase::Retained, IpPhase::Quarantined] {
            let error = binding(&vpc_ip(phase), &pod(Some("pod")), "n1").unwrap_err();
            assert_eq!(error, format!("VpcIP 10.0.0.5 is {phase:?}: words of the cloud"));
        }
    }
}
