//! The life of a claim's addresses, as one function: from what is seen to the next single step.
//!
//! A claim holds one address of each family, and all of them share their life: none is served before all are bound,
//! and they are detached, kept and released together. Each address says what it needs next ([`step_of`]); of these
//! answers the most urgent is the step, and it is taken for the addresses that need it.
//!
//! Each step is one write, or one call of the cloud and one write. A controller that dies between two steps
//! sees the same facts again and goes on from there; no step relies on what an earlier one remembered.

use std::time::Duration;

use jiff::Timestamp;

use super::retention;
use super::workload::Verdict;
use crate::api::IpPhase;

/// All that matters about a claim, its pod and its address at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The claim.
    pub claim: ClaimView,
    /// The pod of the claim's name; `None` only when a live read said so.
    pub pod: Option<PodView>,
    /// The addresses that the claim holds, at most one of each family.
    pub ips: Vec<IpView>,
    /// A family of which the pod shall have an address has none.
    pub incomplete: bool,
    /// The wall clock.
    pub now: Timestamp,
    /// The later of what this machine's wall clock and the API server's say: a retention begins no earlier.
    pub latest: Timestamp,
    /// The wall clock is that of the API server, or there is none to compare it with.
    pub clock_agrees: bool,
    /// How long this controller must have watched an address being unused before its time is over.
    pub observation: Duration,
    /// How long a node's agent has to say by itself that a binding is over. Then it is asked.
    pub patience: Duration,
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
    /// What the claim says of the retention of its addresses; `None`: they were not retained when it was last written.
    pub retained: Option<Retention>,
    /// What the workload of a pod that is gone means for its addresses.
    pub workload: Verdict,
    /// When the workload is to be looked at again.
    pub look_again: Option<Duration>,
    /// UID of the pod that was told of its addresses. It keeps what it has: a family that is wanted since then comes
    /// with its next start.
    pub served: Option<String>,
}

/// Since when and how long addresses are kept without a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// When this controller saw the last of them detached.
    pub detached_at: Timestamp,
    /// When they will be reclaimed; `None`: never.
    pub expire_at: Option<Timestamp>,
}

impl Retention {
    /// As long as is asked for now, where that is longer: what a claim was promised is not taken back.
    fn lengthened(self, keep: Option<Duration>) -> Self {
        let ends = [self.expire_at, retention::expires_at(self.detached_at, keep)];
        let [Some(promised), Some(asked)] = ends else { return Self { expire_at: None, ..self } };
        // The API keeps whole seconds: less than one is no difference, or it would be written again and again.
        let is_longer = asked.as_second() > promised.as_second();
        Self { expire_at: Some(if is_longer { asked } else { promised }), ..self }
    }
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
    /// The epoch that the node agent has acknowledged as over. When that was by the node's clock decides nothing:
    /// nobody compares it with another.
    pub detached: Option<i64>,
    /// The node object does not exist or is tainted as out of service, by a live read: nothing can run there.
    pub node_gone: bool,
    /// How long this controller has watched the address being retained, or bound to a pod that is no more.
    pub watched_unused: Duration,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put an address of each family on an ENI of the node and bind them to the pod, each with its next epoch. Where
    /// there is none, choose one first.
    Bind {
        /// The pod's node.
        node: String,
        /// The pod.
        pod_uid: String,
    },
    /// All is well: the addresses are bound to the pod.
    Bound,
    /// Tell the node that the binding is over, of those that are bound.
    Detach,
    /// Keep the addresses for the next pod of this name.
    Retain(Retention),
    /// Give the addresses back; the claim holds none from then on.
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
    /// A pod has ended, and for moments its node has the chance to say so by itself.
    Word,
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
    fn is_held(&self) -> bool {
        !matches!(self.phase, IpPhase::Cooldown | IpPhase::Quarantined)
    }

    fn is_fenced(&self) -> bool {
        self.node_gone || self.node.is_none() || self.detached.is_some_and(|epoch| epoch >= self.epoch)
    }

    fn is_bound_to(&self, pod: &PodView) -> bool {
        self.phase == IpPhase::Bound && self.pod_uid.as_ref() == Some(&pod.uid)
    }
}

/// The next step for a claim. Total: every observation has an answer.
#[must_use]
pub fn next_step(seen: &Observation) -> Step {
    let steps: Vec<Step> = seen.ips.iter().filter(|ip| ip.is_held()).map(|ip| step_of(seen, ip)).collect();
    let some_bound = steps.contains(&Step::Bound);
    let Some(step) = steps.into_iter().reduce(more_urgent) else { return without_address(seen) };
    match step {
        // A pod on its way out keeps what it has, and gets no more.
        Step::Retain(_) | Step::Release if some_bound => Step::Wait { reason: Wait::Pod, again: None },
        Step::Bound if seen.incomplete => match seen.served_pod() {
            Some(pod) if !pod.deleting && seen.claim.served.as_ref() != Some(&pod.uid) => bind(pod),
            Some(pod) if seen.claim.served.as_ref() != Some(&pod.uid) => {
                Step::Wait { reason: Wait::Pod, again: None }
            }
            _ => Step::Bound,
        },
        step => step,
    }
}

/// Of what two addresses of a claim need, the step that comes first.
fn more_urgent(a: Step, b: Step) -> Step {
    let rank = |step: &Step| match step {
        // The node is told of all before any is waited for.
        Step::Detach => 9,
        // While a node may use one of them, none goes anywhere.
        Step::Wait { reason: Wait::Word, .. } => 8,
        Step::Wait { reason: Wait::Detach | Wait::DetachForPod, .. } => 7,
        Step::Wait { reason: Wait::Node | Wait::PodToEnd | Wait::Pod, .. } => 6,
        Step::Bind { .. } => 5,
        Step::Retain(_) => 4,
        Step::Wait { reason: Wait::Retained, .. } => 3,
        Step::Release => 2,
        Step::Bound | Step::DeleteClaim | Step::Forget => 1,
    };
    match (&a, &b) {
        // Of two that wait for the same, whoever has to be looked at first.
        (Step::Wait { reason: one, again: first }, Step::Wait { reason: other, again: second })
            if one == other =>
        {
            Step::Wait { reason: *one, again: first.iter().chain(second).min().copied() }
        }
        _ if rank(&b) > rank(&a) => b,
        _ => a,
    }
}

/// What one address needs next, were it alone. The step of the claim is taken for the addresses of which this is the same
/// kind of step.
#[must_use]
pub fn step_of(seen: &Observation, ip: &IpView) -> Step {
    match ip.phase {
        IpPhase::Allocated | IpPhase::Attaching => match seen.served_pod() {
            Some(pod) if !pod.deleting => bind(pod),
            // Nobody was told of this address: there is nothing to fence.
            _ => keep_or_release(seen),
        },
        IpPhase::Bound => match seen.live_pod() {
            Some(pod) if ip.is_bound_to(pod) && seen.is_forced_off(pod) => Step::Release,
            Some(pod) if ip.is_bound_to(pod) && seen.claim.deleting => {
                Step::Wait { reason: Wait::PodToEnd, again: None }
            }
            Some(pod) if ip.is_bound_to(pod) => Step::Bound,
            _ => match seen.patience.saturating_sub(ip.watched_unused) {
                Duration::ZERO => Step::Detach,
                left => Step::Wait { reason: Wait::Word, again: Some(left) },
            },
        },
        IpPhase::Detaching if !ip.is_fenced() => {
            let reason = if seen.served_pod().is_some() { Wait::DetachForPod } else { Wait::Detach };
            Step::Wait { reason, again: None }
        }
        IpPhase::Detaching => match seen.served_pod() {
            Some(pod) if !pod.deleting && pod.node.is_some() => bind(pod),
            _ => keep_or_release(seen),
        },
        IpPhase::Retained => retained(seen),
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

fn keep_or_release(seen: &Observation) -> Step {
    if seen.claim.is_static && !seen.claim.deleting {
        // One time for all of them, so that they expire together.
        let detached_at = seen.latest;
        let expire_at = retention::expires_at(detached_at, seen.claim.keep);
        Step::Retain(Retention { detached_at, expire_at })
    } else {
        Step::Release
    }
}

fn retained(seen: &Observation) -> Step {
    if let Some(pod) = seen.served_pod()
        && !pod.deleting
    {
        return bind(pod);
    }
    let kept = match (&seen.claim.retained, keep_or_release(seen)) {
        (_, Step::Release) => return Step::Release,
        // The node has said that it is over; now the claim says what follows.
        (None, step) => return step,
        (Some(kept), _) => kept,
    };
    let longer = kept.lengthened(seen.claim.keep);
    if longer != *kept {
        return Step::Retain(longer);
    }
    // They expire together: the one that was watched for the shortest time decides.
    let watched = seen.ips.iter().filter(|ip| ip.is_held()).map(|ip| ip.watched_unused).min();
    let by_time = || {
        let watched = watched.unwrap_or_default();
        let over =
            retention::may_reclaim(kept.expire_at, seen.now, seen.claim.keep, watched, seen.observation);
        if over.is_ok() && !seen.clock_agrees { Err(Some(seen.observation)) } else { over }
    };
    let over = match seen.claim.workload {
        Verdict::Release => Ok(()),
        Verdict::Keep => Err(None),
        Verdict::Expire => by_time(),
    };
    match over {
        Ok(()) => Step::Release,
        Err(again) => {
            let again = again.into_iter().chain(seen.claim.look_again).min();
            Step::Wait { reason: Wait::Retained, again }
        }
    }
}

#[cfg(test)]
mod tests;
