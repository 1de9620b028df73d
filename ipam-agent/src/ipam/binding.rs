//! The life of an address, as one function: from what is seen to the next single step.
//!
//! Each step is one write, or one call of the cloud and one write. A controller that dies between two steps
//! sees the same facts again and goes on from there; no step relies on what an earlier one remembered.

use std::time::Duration;

use jiff::Timestamp;

use super::retention;
use crate::api::IpPhase;

/// All that matters about a claim, its pod and its address at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The claim.
    pub claim: ClaimView,
    /// The pod of the claim's name; `None` only when a live read said so.
    pub pod: Option<PodView>,
    /// The address that the claim holds.
    pub ip: Option<IpView>,
    /// The wall clock.
    pub now: Timestamp,
}

/// A claim.
#[derive(Clone, Debug)]
pub struct ClaimView {
    /// The address is kept when the pod goes.
    pub is_static: bool,
    /// How long it is kept; `None`: for ever.
    pub keep: Option<Duration>,
    /// Someone asked for the claim to be deleted.
    pub deleting: bool,
    /// The claim has given its address back and holds none.
    pub released: bool,
    /// UID of the pod that is to lose its address although it lives. Counts only while the claim is deleted.
    pub force_release: Option<String>,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// UID: a pod of the same name made later is another one.
    pub uid: String,
    /// The node it was scheduled to.
    pub node: Option<String>,
    /// Succeeded or Failed: its containers will not run again.
    pub finished: bool,
    /// Its deletion was asked for. It keeps its network until the object is gone.
    pub deleting: bool,
}

/// An address.
#[derive(Clone, Debug)]
pub struct IpView {
    /// Where it stands.
    pub phase: IpPhase,
    /// The node it is, or was last, bound on.
    pub node: Option<String>,
    /// The pod it is, or was last, bound to.
    pub pod_uid: Option<String>,
    /// Epoch of the last binding.
    pub epoch: i64,
    /// The epoch that the node agent has acknowledged as over, and when.
    pub detached: Option<(i64, Timestamp)>,
    /// The node object does not exist or is tainted as out of service, by a live read: nothing can run there.
    pub node_gone: bool,
    /// See [`crate::api::VpcIPStatus::expire_at`].
    pub expire_at: Option<Timestamp>,
    /// How long this controller has watched the address being unused.
    pub watched_unused: Duration,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put an address on an ENI of the node and bind it to the pod, with the next epoch. Without an address,
    /// choose one first.
    Bind {
        /// The pod's node.
        node: String,
        /// The pod.
        pod_uid: String,
    },
    /// All is well: the address is bound to the pod.
    Bound,
    /// Tell the node that the binding is over.
    Detach,
    /// Keep the address for the next pod of this name.
    Retain {
        /// When the pod was seen detached.
        detached_at: Timestamp,
        /// When the address will be reclaimed.
        expire_at: Option<Timestamp>,
    },
    /// Give the address back; the claim holds none from then on.
    Release,
    /// Delete the claim: it has no pod, no address and no reason to stay.
    DeleteClaim,
    /// The claim may go: take the finalizer off.
    Forget,
    /// Nothing to do but wait for an event, or for this long.
    Wait {
        /// What for.
        reason: Wait,
        /// When to look again without an event.
        again: Option<Duration>,
    },
}

/// What a claim waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The scheduler has not chosen a node.
    Node,
    /// The agent of the address's last node has not said that it is detached, and a pod needs it.
    DetachForPod,
    /// Likewise, with no pod waiting.
    Detach,
    /// The claim is to be deleted, but its pod lives.
    PodToEnd,
    /// Retained.
    Retained,
    /// A claim made by hand, or whose pod has finished: no pod needs an address now.
    Pod,
}

impl Observation {
    /// The pod that needs the address now.
    fn live_pod(&self) -> Option<&PodView> {
        self.pod.as_ref().filter(|pod| !pod.finished)
    }

    /// Someone has said, by its UID, that this very pod loses its address. The cloud then takes the address off the
    /// node's ENI, which fences it without the node's help; its agent disconnects the pod as soon as it hears of it.
    fn is_forced_off(&self, pod: &PodView) -> bool {
        self.claim.deleting && self.claim.force_release.as_ref() == Some(&pod.uid)
    }

    /// The pod that the claim should serve: one that lives, unless the claim is on its way out.
    fn served_pod(&self) -> Option<&PodView> {
        self.live_pod().filter(|_| !self.claim.deleting)
    }
}

impl IpView {
    fn is_fenced(&self) -> bool {
        self.node_gone || self.node.is_none() || self.detached.is_some_and(|(epoch, _)| epoch >= self.epoch)
    }

    fn is_bound_to(&self, pod: &PodView) -> bool {
        self.phase == IpPhase::Bound && self.pod_uid.as_ref() == Some(&pod.uid)
    }
}

/// The next step for a claim. Total: every observation has an answer.
#[must_use]
pub fn next_step(seen: &Observation) -> Step {
    let Some(ip) = &seen.ip else { return without_address(seen) };
    match ip.phase {
        IpPhase::Allocated | IpPhase::Attaching => match seen.served_pod() {
            Some(pod) if !pod.deleting => bind(pod),
            // Nobody was told of this address: there is nothing to fence.
            _ => keep_or_release(seen, seen.now),
        },
        IpPhase::Bound => match seen.live_pod() {
            Some(pod) if ip.is_bound_to(pod) && seen.is_forced_off(pod) => Step::Release,
            Some(pod) if ip.is_bound_to(pod) && seen.claim.deleting => {
                Step::Wait { reason: Wait::PodToEnd, again: None }
            }
            Some(pod) if ip.is_bound_to(pod) => Step::Bound,
            _ => Step::Detach,
        },
        IpPhase::Detaching if !ip.is_fenced() => {
            let reason = if seen.served_pod().is_some() { Wait::DetachForPod } else { Wait::Detach };
            Step::Wait { reason, again: None }
        }
        IpPhase::Detaching => match seen.served_pod() {
            Some(pod) if !pod.deleting && pod.node.is_some() => bind(pod),
            _ => {
                let detached_at =
                    ip.detached.filter(|(epoch, _)| *epoch >= ip.epoch).map_or(seen.now, |(_, at)| at);
                keep_or_release(seen, detached_at)
            }
        },
        IpPhase::Retained => retained(seen, ip),
        // The claim has let go of it; the address goes its own way.
        IpPhase::Cooldown | IpPhase::Quarantined => without_address(seen),
    }
}

fn bind(pod: &PodView) -> Step {
    match &pod.node {
        Some(node) => Step::Bind { node: node.clone(), pod_uid: pod.uid.clone() },
        None => Step::Wait { reason: Wait::Node, again: None },
    }
}

fn without_address(seen: &Observation) -> Step {
    if seen.claim.deleting {
        return Step::Forget;
    }
    match seen.live_pod() {
        Some(pod) if !pod.deleting => bind(pod),
        // A pod on its way out that never had an address gets none.
        Some(_) => Step::Wait { reason: Wait::Pod, again: None },
        None if !seen.claim.is_static || seen.claim.released => Step::DeleteClaim,
        None => Step::Wait { reason: Wait::Pod, again: None },
    }
}

fn keep_or_release(seen: &Observation, detached_at: Timestamp) -> Step {
    if seen.claim.is_static && !seen.claim.deleting {
        Step::Retain { detached_at, expire_at: retention::expires_at(detached_at, seen.claim.keep) }
    } else {
        Step::Release
    }
}

fn retained(seen: &Observation, ip: &IpView) -> Step {
    if let Some(pod) = seen.served_pod()
        && !pod.deleting
    {
        return bind(pod);
    }
    if seen.claim.deleting || !seen.claim.is_static {
        return Step::Release;
    }
    match retention::may_reclaim(ip.expire_at, seen.now, seen.claim.keep, ip.watched_unused) {
        Ok(()) => Step::Release,
        Err(again) => Step::Wait { reason: Wait::Retained, again },
    }
}

#[cfg(test)]
mod tests;
