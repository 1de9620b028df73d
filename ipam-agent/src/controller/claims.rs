//! Claims: observe, ask [`crate::ipam::binding`], take one step.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tracing::info;

use super::census::Census;
use super::context::Context;
use super::error::ReconcileError;
use super::pool::{NotPlaced, PlaceRequest, Placed};
use super::workloads::controller;
use super::{fencing, records, views, workloads, write};
use crate::api::condition::{self, reason};
use crate::api::{
    ClaimPhase, ClaimRef, IN_USE_FINALIZER, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPStatus,
};
use crate::ipam::binding::{IpView, Observation, Retention, Step, Wait, next_step, step_of};
use crate::ipam::family::{Families, Family};

/// States of an address that nobody uses, for [`Context::watched_for`].
const UNUSED: &str = "unused";
const ENDED: &str = "ended";

/// How soon to decide again when somebody else wrote first.
const STALE: Duration = Duration::from_millis(50);

/// Takes the next step for a claim.
pub async fn reconcile(claim: Arc<VpcIPClaim>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    Reconciliation::observe(&claim, &context).await?.act().await
}

/// A claim, its addresses and what was seen of them.
struct Reconciliation<'a> {
    context: &'a Context,
    claim: &'a VpcIPClaim,
    /// One of each family at most, in the order of [`Observation::ips`].
    ips: Vec<Arc<VpcIP>>,
    pod_ref: Option<k8s_openapi::api::core::v1::ObjectReference>,
    seen: Observation,
    /// The pod asks for another address or other subnets than the claim does yet, or is another workload's.
    outdated: bool,
}

impl<'a> Reconciliation<'a> {
    async fn observe(claim: &'a VpcIPClaim, context: &'a Context) -> Result<Self, ReconcileError> {
        let namespace = claim.namespace().unwrap_or_default();
        if !context.clock.agrees() {
            context.clock.ask(&context.client).await;
        }
        let mut pod = context.stores.pods.get(&ObjectRef::new(&claim.name_any()).within(&namespace));
        let Addresses { held: ips, released } = addresses_of(claim, context).await?;
        let mut ips_seen = Vec::new();
        for ip in &ips {
            ips_seen.push(see_ip(ip, pod.as_deref(), context).await?);
        }
        let has = |family| ips.iter().any(|ip| views::family(&ip.spec.ip) == Some(family));
        let now = Timestamp::now();
        let mut seen = Observation {
            claim: views::claim(claim, context.config.expired_duration, released),
            pod: pod.as_deref().map(views::pod_of_claim),
            ips: ips_seen,
            incomplete: !context.config.families.iter().all(has),
            now,
            latest: context.clock.latest(now),
            clock_agrees: context.clock.agrees(),
            patience: context.config.patience,
            observation: context.config.observation,
        };
        // Where the workload decides nothing, it is not asked for.
        let depends = seen.claim.is_static
            && !seen.claim.deleting
            && seen.ips.iter().any(|ip| ip.phase == IpPhase::Retained);
        if seen.pod.is_none() && depends {
            (seen.claim.workload, seen.claim.look_again) = context.workloads.verdict(claim, context).await;
        }
        // Absence in a cache releases nothing: whatever is not waiting needs the API's own word that there is no pod.
        if seen.pod.is_none() && !matches!(next_step(&seen), Step::Wait { .. }) {
            pod = context.pod(&namespace, &claim.name_any()).await?;
            seen.pod = pod.as_deref().map(views::pod_of_claim);
        }
        if let Some(pod) = &pod {
            seen.claim.force_release = views::force_release(&seen.claim, pod);
        }
        if seen.pod.is_some() || !depends {
            workloads::is_wanted(claim, context);
        }
        let outdated = match &pod {
            Some(pod) => {
                let wish = context.wish_of(pod).0;
                wish.nominated_text() != claim.spec.nominated_ip
                    || wish.nominated_subnets != claim.spec.nominated_subnets
                    || controller(pod.owner_references()).as_ref() != claim.spec.maker()
            }
            None => false,
        };
        Ok(Self { context, claim, ips, outdated, pod_ref: pod.map(|pod| pod.object_ref(&())), seen })
    }

    async fn act(self) -> Result<Action, ReconcileError> {
        let step = next_step(&self.seen);
        tracing::debug!(claim = %self.claim.name_any(), ?step, "step");
        match step {
            // The reconciler of pods is about to tell the claim, which wakes this one.
            Step::Bind { .. } if self.outdated => {}
            Step::Bind { node, pod_uid } => return self.bind(node, pod_uid).await,
            Step::Bound => {
                let bound: Vec<_> = self.ips.iter().map(|ip| (ip.spec.ip.clone(), ip.state())).collect();
                self.claim_is_bound(&bound).await?;
            }
            Step::Detach => {
                self.ip_status(&step, |status| status.phase = IpPhase::Detaching).await?;
            }
            Step::Retain(Retention { detached_at, expire_at }) => {
                self.ip_status(&step, |status| {
                    status.phase = IpPhase::Retained;
                    status.message.clear();
                })
                .await?;
                self.claim_status(
                    ClaimPhase::Retained,
                    (false, reason::NO_POD, "the address is kept for the next pod of this name"),
                    |status| {
                        status.detached_at = Some(Time(detached_at));
                        status.expire_at = expire_at.map(Time);
                        // A pod that went before it was told of its addresses.
                        if status.address.is_none() {
                            status.address = self.ips.first().map(|ip| ip.spec.ip.clone());
                        }
                    },
                )
                .await?;
                for ip in &self.ips {
                    info!(claim = %self.claim.name_any(), ip = %ip.name_any(), "retained");
                }
            }
            Step::Release => {
                // From this write on the address is nobody's: the reconciler of addresses takes it off its
                // ENI, and a newer controller that bound it meanwhile has made this write fail. The claim goes on
                // naming it, which says that it was released; it goes before the object of the address does.
                let now = Time(self.seen.now);
                for ip in self
                    .ip_status(&step, |status| {
                        status.phase = IpPhase::Cooldown;
                        status.released_at = Some(now.clone());
                    })
                    .await?
                {
                    info!(claim = %self.claim.name_any(), ip = %ip.name_any(), epoch = ip.state().epoch, "released");
                    self.context.forget_created(&self.claim_uid(), &ip.name_any());
                }
            }
            Step::DeleteClaim => write::delete(&self.claims(), self.claim).await?,
            Step::Forget => {
                write::object(&self.claims(), self.claim, |claim| {
                    claim.finalizers_mut().retain(|finalizer| finalizer != IN_USE_FINALIZER);
                })
                .await?;
            }
            Step::Wait { reason, again } => return self.wait(reason, again).await,
        }
        Ok(Action::await_change())
    }

    async fn bind(self, node: String, pod_uid: String) -> Result<Action, ReconcileError> {
        // When the pod asks for another address than the one held, the held one stays the claim's until the other is
        // there. Then it has no claim, and goes the way of all such.
        let ips = self.ips.iter().filter(|ip| views::is_wanted(ip, self.claim)).cloned().collect();
        let request = PlaceRequest {
            claim: ClaimRef {
                namespace: self.claim.namespace().unwrap_or_default(),
                name: self.claim.name_any(),
                uid: self.claim_uid(),
            },
            made: self.claim.creation_timestamp().map(|made| made.0),
            nominated_ips: self.claim.spec.nominated_ips().map(str::to_owned).collect(),
            nominated_subnets: self.claim.spec.nominated_subnets.clone(),
            ips,
        };
        match self.context.pools.place(&node, request).await {
            Ok(placed) => {
                self.bind_all(&placed, &node, &pod_uid).await?;
                Ok(Action::await_change())
            }
            Err(NotPlaced { stale: true, .. }) => Ok(Action::requeue(STALE)),
            Err(NotPlaced { reason, mut message, ips, .. }) => {
                if reason == reason::POOL_EXHAUSTED {
                    message = format!("{message}; {}", Census::of(&self.context.stores.ips.state()));
                }
                for ip in ips {
                    write::status(&self.context.ips(), &ip, |ip| {
                        let status = ip.status.get_or_insert_default();
                        if !matches!(status.phase, IpPhase::Bound | IpPhase::Detaching) {
                            status.phase = IpPhase::Attaching;
                        }
                        status.message = message.clone();
                    })
                    .await?;
                }
                let news = self
                    .claim_status(ClaimPhase::Pending, (false, reason, &message), |status| {
                        if self.seen.claim.released {
                            // The pod came back too late for it; its object goes when no claim names it.
                            status.address = None;
                            status.addresses.clear();
                        }
                    })
                    .await?;
                if let Some(pod) = self.pod_ref.clone().filter(|_| news) {
                    self.context.warn(pod, reason, "BindAddress", &message).await;
                }
                Ok(Action::requeue(self.context.config.retry))
            }
        }
    }

    /// Binds addresses to a pod, each with its next epoch; one that was bound so before is left alone. Each of several
    /// names all: an agent that sees one of them waits for the others.
    ///
    /// The claim is written first. It has one writer per version, so of two controllers that have each chosen an
    /// address, one fails here, and no address is bound that its claim does not name.
    async fn bind_all(&self, placed: &Placed, node: &str, pod_uid: &str) -> Result<(), ReconcileError> {
        let names: Vec<String> = match &placed.ips[..] {
            [_] => Vec::new(),
            several => several.iter().map(ResourceExt::name_any).collect(),
        };
        let wanted = |ip: &VpcIP| {
            let old = ip.state();
            let mut wanted = VpcIPStatus {
                phase: IpPhase::Bound,
                node_name: Some(node.to_owned()),
                eni_id: Some(placed.eni_id.clone()),
                pod_uid: Some(pod_uid.to_owned()),
                together: names.clone(),
                fencing: self.claim.spec.fencing,
                epoch: old.epoch,
                ..VpcIPStatus::default()
            };
            wanted.epoch += i64::from(old != wanted);
            (ip.spec.ip.clone(), wanted)
        };
        let bound: Vec<_> = placed.ips.iter().map(wanted).collect();
        self.claim_is_bound(&bound).await?;
        for (ip, (address, status)) in placed.ips.iter().zip(bound) {
            let epoch = status.epoch;
            let written = write::status(&self.context.ips(), ip, |ip| ip.status = Some(status)).await?;
            if written.resource_version() != ip.resource_version() {
                info!(claim = %self.claim.name_any(), ip = address, node, eni = placed.eni_id, epoch, "bound");
                self.context.remember_bound(written);
            }
        }
        Ok(())
    }

    /// Writes into the claim what its addresses say, the first of them first.
    async fn claim_is_bound(&self, bound: &[(String, VpcIPStatus)]) -> Result<(), ReconcileError> {
        let Some((first, of_first)) = bound.first() else { return Ok(()) };
        let several = if bound.len() > 1 { bound } else { &[] };
        self.claim_status(ClaimPhase::Bound, (true, reason::BOUND, ""), |status| {
            *status = VpcIPClaimStatus {
                phase: ClaimPhase::Bound,
                address: Some(first.clone()),
                addresses: several.iter().map(|(address, _)| address.clone()).collect(),
                node_name: of_first.node_name.clone(),
                eni_id: of_first.eni_id.clone(),
                pod_uid: of_first.pod_uid.clone(),
                epoch: of_first.epoch,
                detached_at: None,
                expire_at: None,
                conditions: std::mem::take(&mut status.conditions),
            };
        })
        .await?;
        Ok(())
    }

    async fn wait(self, wait: Wait, mut again: Option<Duration>) -> Result<Action, ReconcileError> {
        let waits =
            |ip: &&IpView| matches!(step_of(&self.seen, ip), Step::Wait { reason, .. } if reason == wait);
        let node = self.seen.ips.iter().find(waits).and_then(|ip| ip.node.clone()).unwrap_or_default();
        match wait {
            Wait::Node => {
                let message = "the pod has not been scheduled to a node";
                self.claim_status(self.phase(), (false, reason::WAITING_FOR_NODE, message), |_| {}).await?;
            }
            Wait::DetachForPod => {
                again = again.or(fencing::look_again(self.claim.spec.fencing));
                let message = format!(
                    "the address was bound on node {node}, whose agent has not said since {} that it is detached; \
                     if the machine is off, delete the Node object or taint it node.kubernetes.io/out-of-service",
                    self.not_ready_since()
                );
                self.claim_status(
                    ClaimPhase::Detaching,
                    (false, reason::WAITING_FOR_DETACH, &message),
                    |_| {},
                )
                .await?;
            }
            Wait::Detach => {
                let message = format!("waiting for the agent of node {node}");
                self.claim_status(ClaimPhase::Detaching, (false, reason::NO_POD, &message), |_| {}).await?;
            }
            Wait::PodToEnd => {
                let message = "the pod lives and keeps its address; it is freed when the pod is gone";
                write::status(&self.claims(), self.claim, |claim| {
                    let conditions = &mut claim.status.get_or_insert_default().conditions;
                    condition::set(
                        conditions,
                        Time(self.seen.now),
                        condition::DELETION_PENDING_IN_USE,
                        true,
                        "PodIsAlive",
                        message,
                    );
                })
                .await?;
            }
            Wait::Word | Wait::Retained | Wait::Pod => {}
        }
        Ok(again.map_or_else(Action::await_change, Action::requeue))
    }

    /// Since when the claim has not been ready: the same second as long as it is not, so that saying it writes nothing.
    fn not_ready_since(&self) -> Timestamp {
        let conditions =
            self.claim.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready =
            conditions.iter().find(|known| known.type_ == condition::READY && known.status == "False");
        let since = ready.map_or(self.seen.now, |ready| ready.last_transition_time.0);
        Timestamp::from_second(since.as_second()).unwrap_or(since)
    }

    fn phase(&self) -> ClaimPhase {
        self.claim.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    fn claim_uid(&self) -> String {
        self.claim.uid().unwrap_or_default()
    }

    fn claims(&self) -> kube::Api<VpcIPClaim> {
        self.context.claims(&self.claim.namespace().unwrap_or_default())
    }

    /// Changes the addresses that need this step, and returns them.
    async fn ip_status(
        &self,
        step: &Step,
        change: impl Fn(&mut VpcIPStatus),
    ) -> Result<Vec<VpcIP>, ReconcileError> {
        let mut changed = Vec::new();
        for (ip, view) in self.ips.iter().zip(&self.seen.ips) {
            if step_of(&self.seen, view) == *step {
                let api = self.context.ips();
                changed.push(write::status(&api, ip, |ip| change(ip.status.get_or_insert_default())).await?);
            }
        }
        Ok(changed)
    }

    /// Writes phase, readiness and whatever else changes; no request, and `false`, when nothing does.
    async fn claim_status(
        &self,
        phase: ClaimPhase,
        (ready, reason, message): (bool, &str, &str),
        change: impl FnOnce(&mut VpcIPClaimStatus),
    ) -> Result<bool, ReconcileError> {
        let written = write::status(&self.claims(), self.claim, |claim| {
            let status = claim.status.get_or_insert_default();
            change(status);
            status.phase = phase;
            condition::set(
                &mut status.conditions,
                Time(self.seen.now),
                condition::READY,
                ready,
                reason,
                message,
            );
        })
        .await?;
        Ok(written.status != self.claim.status)
    }
}

/// An address as the decision sees it.
async fn see_ip(ip: &VpcIP, pod: Option<&Pod>, context: &Context) -> Result<IpView, ReconcileError> {
    let status = ip.state();
    let uid = ip.uid().unwrap_or_default();
    let pod = pod.map(views::pod_of_claim).filter(|pod| !pod.finished);
    let has_pod = pod.is_some_and(|pod| status.pod_uid.as_ref() == Some(&pod.uid));
    let mut watched = Duration::ZERO;
    for (state, holds) in
        [(UNUSED, status.phase == IpPhase::Retained), (ENDED, status.phase == IpPhase::Bound && !has_pod)]
    {
        if holds {
            watched = context.watched_for(&uid, state);
        } else {
            context.stop_watching(&uid, state);
        }
    }
    let node_gone = match (&status.node_name, status.phase) {
        (Some(node), IpPhase::Detaching) => {
            fencing::is_taken_for_lost(&status, context) || context.node_fenced(node).await?
        }
        _ => false,
    };
    Ok(views::ip(ip, node_gone, watched))
}

/// The addresses of a claim.
struct Addresses {
    /// Those that it holds, one of each family.
    held: Vec<Arc<VpcIP>>,
    /// It holds none, and has given back one that its status names.
    released: bool,
}

/// The addresses that a claim holds: those its status names, those this process has just created, or those that an
/// earlier process created and did not live to tell of. Of two of a family, the one that the claim asks for now. The
/// families of the configuration come first, in its order.
async fn addresses_of(claim: &VpcIPClaim, context: &Context) -> Result<Addresses, ReconcileError> {
    let uid = claim.uid().unwrap_or_default();
    let ours = |ip: &VpcIP| ip.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == uid);
    let named: Vec<&str> = claim.status.iter().flat_map(VpcIPClaimStatus::all_addresses).collect();
    let mut names: Vec<String> =
        named.iter().filter_map(|text| text.parse().ok().map(VpcIP::name_of)).collect();
    for created in context.created_for(&uid) {
        if names.contains(&created) {
            // From now on the status tells of it.
            context.forget_created(&uid, &created);
        } else {
            names.push(created);
        }
    }
    let mut known: Vec<Arc<VpcIP>> = Vec::new();
    for name in names {
        known.extend(match context.stores.ips.get(&ObjectRef::new(&name)) {
            Some(ip) => Some(context.newest(ip)),
            None => match write::live(&context.ips(), &name).await? {
                Some(ip) => Some(Arc::new(ip)),
                None => {
                    context.forget_created(&uid, &name);
                    records::restore(claim, &name, context).await?.map(Arc::new)
                }
            },
        });
    }
    let indexed = context.stores.ips_by_claim.get(&uid);
    known.extend(indexed.iter().filter_map(|ip| context.stores.ips.get(ip)).map(|ip| context.newest(ip)));
    known.retain(|ip| ours(ip));
    let given_back = |ip: &Arc<VpcIP>| ip.state().phase == IpPhase::Cooldown && named.contains(&&*ip.spec.ip);
    let released = known.iter().any(given_back);
    known.retain(|ip| views::is_held(ip));
    let configured = context.config.families.iter();
    let families: Families = configured.chain([Family::V4, Family::V6]).collect();
    let mut held = Vec::new();
    for family in families.iter() {
        let mut of_family = known.iter().filter(|ip| views::family(&ip.spec.ip) == Some(family));
        let wanted = of_family.clone().find(|ip| views::is_wanted(ip, claim));
        held.extend(wanted.or_else(|| of_family.next()).cloned());
    }
    let released = released && held.is_empty();
    Ok(Addresses { held, released })
}
