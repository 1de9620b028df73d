//! Claims: observe, ask [`crate::ipam::binding`], take one step.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tracing::info;

use super::census::Census;
use super::context::Context;
use super::error::ReconcileError;
use super::pool::{NotPlaced, PlaceRequest};
use super::{views, write};
use crate::api::annotations::AddressWish;
use crate::api::condition::{self, reason};
use crate::api::{
    ClaimPhase, ClaimRef, IN_USE_FINALIZER, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPStatus,
};
use crate::ipam::binding::{Observation, Step, Wait, next_step};

/// The state of an address that nobody uses, for [`Context::watched_for`].
const UNUSED: &str = "unused";

/// How soon to decide again when somebody else wrote first.
const STALE: Duration = Duration::from_millis(50);

/// Takes the next step for a claim.
pub async fn reconcile(claim: Arc<VpcIPClaim>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.ready().await?;
    Reconciliation::observe(&claim, &context).await?.act().await
}

/// A claim, its address and what was seen of both.
struct Reconciliation<'a> {
    context: &'a Context,
    claim: &'a VpcIPClaim,
    ip: Option<Arc<VpcIP>>,
    pod_ref: Option<k8s_openapi::api::core::v1::ObjectReference>,
    seen: Observation,
    /// The pod asks for another address or other subnets than the claim does yet.
    outdated: bool,
}

impl<'a> Reconciliation<'a> {
    async fn observe(claim: &'a VpcIPClaim, context: &'a Context) -> Result<Self, ReconcileError> {
        let pod = context.pod(&claim.namespace().unwrap_or_default(), &claim.name_any()).await?;
        let ip = address_of(claim, context).await?;
        let ip_seen = match &ip {
            None => None,
            Some(ip) => {
                let status = ip.state();
                let uid = ip.uid().unwrap_or_default();
                let unused = status.phase == IpPhase::Retained;
                let watched = if unused { context.watched_for(&uid, UNUSED) } else { Duration::ZERO };
                if !unused {
                    context.stop_watching(&uid, UNUSED);
                }
                let node_gone = match (&status.node_name, status.phase) {
                    (Some(node), IpPhase::Detaching) => context.node_fenced(node).await?,
                    _ => false,
                };
                Some(views::ip(ip, node_gone, watched))
            }
        };
        let seen = Observation {
            claim: views::claim(claim, context.config.expired_duration),
            pod: pod.as_deref().map(views::pod),
            ip: ip_seen,
            now: Timestamp::now(),
        };
        let outdated = pod.as_ref().is_some_and(|pod| {
            let (wish, _) = AddressWish::parse(pod.annotations());
            wish.nominated_ip.map(|ip| ip.to_string()) != claim.spec.nominated_ip
                || wish.nominated_subnets != claim.spec.nominated_subnets
        });
        Ok(Self { context, claim, ip, outdated, pod_ref: pod.map(|pod| pod.object_ref(&())), seen })
    }

    async fn act(self) -> Result<Action, ReconcileError> {
        let step = next_step(&self.seen);
        tracing::debug!(claim = %self.claim.name_any(), ?step, "step");
        match step {
            // The reconciler of pods is about to tell the claim, which wakes this one.
            Step::Bind { .. } if self.outdated => {}
            Step::Bind { node, pod_uid } => return self.bind(node, pod_uid).await,
            Step::Bound => {
                if let Some(ip) = &self.ip {
                    self.claim_is_bound(ip).await?;
                }
            }
            Step::Detach => {
                self.ip_status(|status| status.phase = IpPhase::Detaching).await?;
            }
            Step::Retain { detached_at, expire_at } => {
                let ip = self
                    .ip_status(|status| {
                        status.phase = IpPhase::Retained;
                        status.expire_at = expire_at.map(Time);
                        status.message.clear();
                    })
                    .await?;
                info!(claim = %self.claim.name_any(), ip = %ip.name_any(), "retained");
                self.claim_status(
                    ClaimPhase::Retained,
                    (false, reason::NO_POD, "the address is kept for the next pod of this name"),
                    |status| {
                        status.detached_at = Some(Time(detached_at));
                        status.expire_at = expire_at.map(Time);
                    },
                )
                .await?;
            }
            Step::Release => {
                // From this write on the address is nobody's: the reconciler of addresses takes it off its
                // ENI, and a newer controller that bound it meanwhile has made this write fail.
                let ip = self
                    .ip_status(|status| {
                        status.phase = IpPhase::Cooldown;
                        status.released_at = None;
                        status.expire_at = None;
                    })
                    .await?;
                info!(claim = %self.claim.name_any(), ip = %ip.name_any(), epoch = ip.state().epoch, "released");
                self.context.remember_created(&self.claim_uid(), None);
                self.claim_status(
                    ClaimPhase::Releasing,
                    (false, reason::NO_POD, "the address was given back"),
                    |status| {
                        status.address = None;
                        status.detached_at = None;
                        status.expire_at = None;
                    },
                )
                .await?;
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
        let ip = self.ip.clone().filter(|ip| views::is_wanted(ip, self.claim));
        let request = PlaceRequest {
            claim: ClaimRef {
                namespace: self.claim.namespace().unwrap_or_default(),
                name: self.claim.name_any(),
                uid: self.claim_uid(),
            },
            nominated_ip: self.claim.spec.nominated_ip.clone(),
            nominated_subnets: self.claim.spec.nominated_subnets.clone(),
            ip,
        };
        match self.context.pools.place(&node, request).await {
            Ok(placed) => {
                let ip = write::status(&self.context.ips(), &placed.ip, |ip| {
                    let old = ip.state();
                    ip.status = Some(VpcIPStatus {
                        phase: IpPhase::Bound,
                        node_name: Some(node.clone()),
                        eni_id: Some(placed.eni_id.clone()),
                        pod_uid: Some(pod_uid.clone()),
                        epoch: old.epoch + 1,
                        ..VpcIPStatus::default()
                    });
                })
                .await?;
                info!(claim = %self.claim.name_any(), ip = %ip.name_any(), node, eni = placed.eni_id, epoch = ip.state().epoch, "bound");
                self.claim_is_bound(&ip).await?;
                Ok(Action::await_change())
            }
            Err(NotPlaced { stale: true, .. }) => Ok(Action::requeue(STALE)),
            Err(NotPlaced { reason, mut message, ip, .. }) => {
                if reason == reason::POOL_EXHAUSTED {
                    message = format!("{message}; {}", Census::of(&self.context.stores.ips.state()));
                }
                if let Some(ip) = ip {
                    write::status(&self.context.ips(), &ip, |ip| {
                        let status = ip.status.get_or_insert_default();
                        if status.phase != IpPhase::Detaching {
                            status.phase = IpPhase::Attaching;
                        }
                        status.message = message.clone();
                    })
                    .await?;
                }
                let news = self.claim_status(ClaimPhase::Pending, (false, reason, &message), |_| {}).await?;
                if let Some(pod) = self.pod_ref.clone().filter(|_| news) {
                    self.context.warn(pod, reason, "BindAddress", &message).await;
                }
                Ok(Action::requeue(self.context.config.retry))
            }
        }
    }

    async fn claim_is_bound(&self, ip: &VpcIP) -> Result<(), ReconcileError> {
        let bound = ip.state();
        self.claim_status(ClaimPhase::Bound, (true, reason::BOUND, ""), |status| {
            *status = VpcIPClaimStatus {
                phase: ClaimPhase::Bound,
                address: Some(ip.spec.ip.clone()),
                node_name: bound.node_name,
                pod_uid: bound.pod_uid,
                epoch: bound.epoch,
                detached_at: None,
                expire_at: None,
                conditions: std::mem::take(&mut status.conditions),
            };
        })
        .await?;
        Ok(())
    }

    async fn wait(self, wait: Wait, again: Option<Duration>) -> Result<Action, ReconcileError> {
        let node = self.seen.ip.as_ref().and_then(|ip| ip.node.clone()).unwrap_or_default();
        match wait {
            Wait::Node => {
                let message = "the pod has not been scheduled to a node";
                self.claim_status(self.phase(), (false, reason::WAITING_FOR_NODE, message), |_| {}).await?;
            }
            Wait::DetachForPod => {
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
            Wait::Retained | Wait::Pod => {}
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

    async fn ip_status(&self, change: impl FnOnce(&mut VpcIPStatus)) -> Result<VpcIP, ReconcileError> {
        let ip = self.ip.as_deref().ok_or(ReconcileError::Caches)?;
        write::status(&self.context.ips(), ip, |ip| change(ip.status.get_or_insert_default())).await
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

/// The address that a claim holds: the one its status names, the one this process has just created, or one
/// that an earlier process created and did not live to tell of. Of two, the one that the claim asks for now.
async fn address_of(claim: &VpcIPClaim, context: &Context) -> Result<Option<Arc<VpcIP>>, ReconcileError> {
    let uid = claim.uid().unwrap_or_default();
    let ours =
        |ip: &VpcIP| ip.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == uid) && views::is_held(ip);
    let named = claim.status.as_ref().and_then(|status| status.address.as_deref());
    let name_of = |text: &str| text.parse().ok().map(VpcIP::name_of);
    let mut second_best = None;
    for name in [named.and_then(name_of), context.created_for(&uid)].into_iter().flatten() {
        let found = match context.stores.ips.get(&ObjectRef::new(&name)) {
            Some(ip) => Some(ip),
            None => write::live(&context.ips(), &name).await?.map(Arc::new),
        };
        match found.filter(|ip| ours(ip)) {
            Some(ip) if views::is_wanted(&ip, claim) => return Ok(Some(ip)),
            Some(ip) => second_best = second_best.or(Some(ip)),
            None => {}
        }
    }
    let wanted = context.stores.ips.find(|ip| ours(ip) && views::is_wanted(ip, claim));
    Ok(wanted.or(second_best).or_else(|| context.stores.ips.find(ours)))
}
