//! The addresses that the controller has bound to this node, kept in memory by a watch and, those that are bound, in the
//! journal. When the API is away the last known state stays and goes on serving, as [`crate::ipam::continuation`] allows.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

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
use tracing::{info, warn};

use crate::{
    api::{IpPhase, VpcIP, VpcIPClaim, VpcIPType, condition},
    client::is_refusal,
    ipam::continuation::Limits,
    node::{
        contact::Contact,
        journal::{Change, Journal},
    },
};

/// How long a new agent waits for the API's first word before the journal's counts.
const FIRST_WORD: Duration = Duration::from_secs(2);

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
    pub ip: IpAddr,
    /// Epoch of the binding.
    pub epoch: i64,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// The cloud's name of the ENI that holds the address.
    pub eni_id: String,
}

/// Where the addresses of this node are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing was heard, and there is still hope.
    Nothing,
    /// The API has not answered this agent: what the last one wrote down.
    Journal,
    /// The API, be it some time ago.
    Api,
}

/// The addresses of this node.
#[derive(Clone)]
pub struct Bindings {
    client: Client,
    node_name: String,
    store: Store<VpcIP>,
    journal: Journal,
    contact: Contact,
    limits: Limits,
    changes: watch::Receiver<Source>,
}

impl Bindings {
    /// The (still empty) addresses of this node, and the task that keeps them.
    pub fn new(
        client: Client,
        node_name: &str,
        journal: Journal,
        contact: Contact,
        limits: Limits,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (store, mut writer) = reflector::store();
        let (publish, changes) = watch::channel(Source::Nothing);
        let config = watcher::Config::default().fields(&format!("status.nodeName={node_name}"));
        let api: Api<VpcIP> = Api::all(client.clone());
        let bindings = Self {
            client,
            node_name: node_name.to_owned(),
            store,
            journal: journal.clone(),
            contact: contact.clone(),
            limits,
            changes,
        };
        let known = bindings.clone();
        let task = async move {
            let mut events = watcher(api, config)
                .modify(|vpc_ip| vpc_ip.managed_fields_mut().clear())
                .default_backoff()
                .boxed();
            let mut first = Box::pin(tokio::time::sleep(FIRST_WORD));
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = &mut first, if *publish.borrow() == Source::Nothing => {
                        info!(known = journal.book().bindings.len(), "the API is late: the journal's bindings count");
                        publish.send_replace(Source::Journal);
                        continue;
                    }
                };
                match event {
                    Some(Ok(event)) => {
                        // That a list begins is said before it is asked for.
                        if !matches!(event, watcher::Event::Init) {
                            contact.heard();
                        }
                        writer.apply_watcher_event(&event);
                        // Half a list is not yet in the store.
                        if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                            known.write_down().await;
                            publish.send_replace(Source::Api);
                        }
                    }
                    Some(Err(error)) => {
                        contact.missed();
                        if !is_refusal(&error) {
                            warn!(%error, "cannot watch VpcIPs; the last known ones go on serving");
                        }
                        // Waiting for the first word is over, and for more of them it is shorter.
                        publish.send_modify(|source| {
                            if *source == Source::Nothing {
                                *source = Source::Journal;
                            }
                        });
                    }
                    None => return,
                }
            }
        };
        (bindings, task)
    }

    /// Has the journal know what is bound, for an agent that starts without the API.
    async fn write_down(&self) {
        let bound = self.store.state_filter(|vpc_ip: &VpcIP| {
            vpc_ip.spec.type_ == VpcIPType::Pod
                && vpc_ip.status.as_ref().is_some_and(|status| status.phase == IpPhase::Bound)
        });
        let bound: BTreeMap<_, _> = bound.into_iter().map(|vpc_ip| (vpc_ip.name_any(), vpc_ip)).collect();
        if self.journal.book().bindings != bound
            && let Err(error) = self.journal.change(Change::SetBindings(bound)).await
        {
            warn!(%error, "cannot write bindings down");
        }
    }

    /// Whether the API has been heard at least once.
    #[must_use]
    pub fn synced(&self) -> bool {
        *self.changes.borrow() == Source::Api
    }

    /// Whether pods can be served: by the API's word, or by that which the journal has of it.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        let of_journal = || {
            let book = self.journal.book();
            let mut bound = book.bindings.values().map(|vpc_ip| vpc_ip.state().fencing);
            bound.any(|fencing| self.limits.allow(fencing, self.contact.silent_for()).is_ok())
        };
        match *self.changes.borrow() {
            Source::Api => true,
            Source::Journal => of_journal(),
            Source::Nothing => false,
        }
    }

    /// Likewise, after the first word of the API had its time to come.
    pub async fn can_serve_soon(&self) -> bool {
        let mut changes = self.changes.clone();
        let word = changes.wait_for(|source| *source != Source::Nothing);
        // As many seconds again for the list that follows a first event.
        let _ = tokio::time::timeout(FIRST_WORD * 2, word).await;
        self.can_serve()
    }

    /// Every address of this node.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<VpcIP>> {
        self.store.state()
    }

    /// A receiver that wakes at each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Source> {
        self.changes.clone()
    }

    /// The addresses bound to the pod, one of each family in their order, or why there is none or not all.
    ///
    /// # Errors
    /// What the pod waits for, as far as the addresses of this node tell.
    pub fn find(&self, pod: &PodName) -> Result<Vec<Binding>, String> {
        let is_of_pod = |vpc_ip: &VpcIP| {
            let claim = vpc_ip.spec.claim_ref.as_ref();
            vpc_ip.spec.type_ == VpcIPType::Pod
                && claim.is_some_and(|claim| claim.namespace == pod.namespace && claim.name == pod.name)
        };
        let of_pod = match *self.changes.borrow() {
            Source::Nothing => return Err("the API has not answered this agent yet".to_owned()),
            Source::Api => self.store.state_filter(is_of_pod),
            Source::Journal => {
                self.journal.book().bindings.values().filter(|vpc_ip| is_of_pod(vpc_ip)).cloned().collect()
            }
        };
        let found = best(&of_pod, pod, &self.node_name)?;
        for vpc_ip in of_pod.iter().filter(|of| found.iter().any(|found| found.vpc_ip == of.name_any())) {
            let allowed = self.limits.allow(vpc_ip.state().fencing, self.contact.silent_for());
            allowed.map_err(|too_old| format!("VpcIP {}: {too_old}", vpc_ip.name_any()))?;
        }
        Ok(found)
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

/// Those of a claim's addresses that can be used: former ones may still be on their way out. Of addresses that were
/// bound together, all or none.
fn best(of_pod: &[Arc<VpcIP>], pod: &PodName, node_name: &str) -> Result<Vec<Binding>, String> {
    let mut reasons = Vec::new();
    for vpc_ip in of_pod {
        let together = match binding(vpc_ip, pod, node_name) {
            Ok((binding, names)) if names.is_empty() => return Ok(vec![binding]),
            Ok((_, names)) => names,
            Err(reason) => {
                reasons.push(reason);
                continue;
            }
        };
        let bindings = together.iter().map(|name| {
            let found = of_pod.iter().find(|vpc_ip| vpc_ip.name_any() == *name);
            let found = found.ok_or_else(|| format!("VpcIP {name} is not on this node yet"))?;
            let (binding, names) = binding(found, pod, node_name)?;
            let fits = names == together;
            fits.then_some(binding).ok_or_else(|| format!("VpcIP {name} is bound with others"))
        });
        match bindings.collect::<Result<Vec<Binding>, String>>() {
            Ok(bindings) if bindings.iter().all(|other| other.pod_uid == bindings[0].pod_uid) => {
                return Ok(bindings);
            }
            Ok(_) => reasons.push("its addresses are bound to different pods".to_owned()),
            Err(reason) => reasons.push(reason),
        }
    }
    reasons.dedup();
    if reasons.is_empty() {
        return Err(format!("no address is bound to it on node {node_name}"));
    }
    Err(reasons.join("; "))
}

/// The binding of an address, and the names of all that were bound together.
fn binding(vpc_ip: &VpcIP, pod: &PodName, node_name: &str) -> Result<(Binding, Vec<String>), String> {
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
    let ip = vpc_ip
        .spec
        .ip
        .parse()
        .map_err(|_| format!("VpcIP {name}: spec.ip {:?} is no IP address", vpc_ip.spec.ip))?;
    let binding = Binding {
        vpc_ip: name.clone(),
        vpc_ip_uid: vpc_ip.uid().ok_or_else(|| format!("VpcIP {name} has no UID"))?,
        ip,
        epoch: status.epoch,
        pod_uid: status.pod_uid,
        eni_id: status.eni_id.ok_or_else(|| format!("VpcIP {name} is Bound, but names no ENI"))?,
    };
    Ok((binding, status.together))
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
        assert_eq!(best(&[former.clone(), bound], &pod(None), "n1").unwrap()[0].epoch, 3);
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
            ip: "10.0.0.5".parse().unwrap(),
            epoch: 3,
            pod_uid: Some("pod".into()),
            eni_id: "eni-1".into(),
        };
        let alone = |binding| Ok((binding, Vec::new()));
        assert_eq!(binding(&bound, &pod(Some("pod")), "n1"), alone(expected.clone()));
        assert_eq!(binding(&bound, &pod(None), "n1"), alone(expected));
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

    #[test]
    fn addresses_that_were_bound_together_are_served_together() {
        let together = ["fd00-0000-0000-0000-0000-0000-0000-0005", "10.0.0.5"];
        let object = |name: &str, ip: &str, change: fn(&mut VpcIPStatus)| {
            let mut object = vpc_ip(IpPhase::Bound);
            (object.metadata.name, object.metadata.uid) = (Some(name.into()), Some(name.into()));
            object.spec.ip = ip.into();
            let status = object.status.as_mut().unwrap();
            status.together = together.map(String::from).into();
            change(status);
            Arc::new(object)
        };
        let v4 = || object("10.0.0.5", "10.0.0.5", |_| {});
        let v6 = |change| object(together[0], "fd00::5", change);
        let ips = |of_pod: &[Arc<VpcIP>]| {
            let found = best(of_pod, &pod(None), "n1");
            found.map(|found| found.iter().map(|binding| binding.ip.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(
            ips(&[v4(), v6(|_| {})]).unwrap(),
            ["fd00::5", "10.0.0.5"],
            "in the order of the families"
        );
        for (of_pod, because) in [
            (vec![v4()], "VpcIP fd00-0000-0000-0000-0000-0000-0000-0005 is not on this node yet"),
            (vec![v4(), v6(|status| status.phase = IpPhase::Attaching)], "is Attaching: words of the cloud"),
            (vec![v4(), v6(|status| status.node_name = Some("n2".into()))], "is on another node"),
            (vec![v4(), v6(|status| status.pod_uid = Some("former".into()))], "bound to different pods"),
            (vec![v4(), v6(|status| status.together.clear())], "is bound with others"),
        ] {
            // The one that is complete by itself is another matter: it was bound alone.
            let alone = of_pod.last().is_some_and(|ip| ip.state().together.is_empty());
            match ips(&of_pod) {
                Ok(found) => assert!(alone && found == ["fd00::5"], "{because}: {found:?}"),
                Err(reason) => assert!(reason.contains(because), "{because}: {reason}"),
            }
        }
    }
}
