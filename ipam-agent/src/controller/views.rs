//! From API objects to what [`crate::ipam`] decides on.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::api::pod::{on_host_network, runtime_uid};
use crate::api::{ClaimPhase, DeletePolicy, FORCE_RELEASE, IpPhase, VpcIP, VpcIPClaim, annotations};
use crate::ipam::binding::{ClaimView, IpView, PodView, Retention};
use crate::ipam::family::Family;
use crate::ipam::workload::Verdict;

/// A pod as the decision sees it.
pub fn pod(pod: &Pod) -> PodView {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    PodView {
        uid: runtime_uid(pod).unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        deleting: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// The pod of a claim's name as the decision over the claim sees it. One on the host's network needs no address and uses
/// none: for its claim, the pod before it has ended.
pub fn pod_of_claim(of_name: &Pod) -> PodView {
    let seen = pod(of_name);
    PodView { finished: seen.finished || on_host_network(of_name), ..seen }
}

/// The claim's order to take the address from a pod that lives, which may name the pod by either of its UIDs.
pub fn force_release(claim: &ClaimView, of_name: &Pod) -> Option<String> {
    let named = claim.force_release.clone();
    if named.is_some() && named == of_name.uid() { runtime_uid(of_name) } else { named }
}

/// A claim as the decision sees it, but for what became of its workload. A retention that cannot be read keeps the
/// address.
pub fn claim(claim: &VpcIPClaim, default_keep: Option<Duration>, released: bool) -> ClaimView {
    let keep = match &claim.spec.expired_duration {
        Some(text) => annotations::parse_expiry(text).unwrap_or(None),
        None => default_keep,
    };
    let status = claim.status.as_ref();
    let in_phase = |phase| status.filter(|status| status.phase == phase);
    let retained = in_phase(ClaimPhase::Retained).and_then(|status| {
        let detached_at = status.detached_at.as_ref()?.0;
        Some(Retention { detached_at, expire_at: status.expire_at.as_ref().map(|at| at.0) })
    });
    ClaimView {
        is_static: claim.spec.delete_policy == DeletePolicy::Never,
        keep,
        deleting: claim.metadata.deletion_timestamp.is_some(),
        released,
        force_release: claim.annotations().get(FORCE_RELEASE).cloned(),
        retained,
        workload: Verdict::Expire,
        look_again: None,
        served: in_phase(ClaimPhase::Bound).and_then(|status| status.pod_uid.clone()),
    }
}

/// An address as the decision sees it.
pub fn ip(ip: &VpcIP, node_gone: bool, watched_unused: Duration) -> IpView {
    let status = ip.state();
    IpView {
        phase: status.phase,
        node: status.node_name,
        pod_uid: status.pod_uid,
        epoch: status.epoch,
        detached: status.detached.map(|detached| detached.epoch),
        node_gone,
        watched_unused,
    }
}

/// Whether an address is what the claim asks for now. A pod's wish may have changed since the address was chosen.
pub fn is_wanted(ip: &VpcIP, claim: &VpcIPClaim) -> bool {
    let nominated_subnets = &claim.spec.nominated_subnets;
    let mut nominated = claim.spec.nominated_ips().filter(|text| family(text) == family(&ip.spec.ip));
    nominated.next().is_none_or(|nominated| nominated == ip.spec.ip)
        && (nominated_subnets.is_empty() || nominated_subnets.contains(&ip.spec.subnet_id))
}

/// The family of an address as it is written; nothing when it is none.
pub fn family(text: &str) -> Option<Family> {
    text.parse().ok().map(Family::of)
}

/// Whether the claim still holds the address: one that cools down or is quarantined is nobody's.
pub fn is_held(ip: &VpcIP) -> bool {
    !matches!(ip.state().phase, IpPhase::Cooldown | IpPhase::Quarantined)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::pod::MIRROR;

    fn of(json: Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_ended_for_the_claim_of_its_name() {
        let json =
            |host| json!({ "metadata": { "uid": "u" }, "spec": { "containers": [], "hostNetwork": host } });
        assert!(pod_of_claim(&of(json(true))).finished && !pod(&of(json(true))).finished);
        assert!(!pod_of_claim(&of(json(false))).finished);
    }

    #[test]
    fn an_address_is_taken_from_the_copy_of_a_static_pod_by_either_of_its_uids() {
        let copy = of(json!({ "metadata": { "uid": "u", "annotations": { MIRROR: "hash" } } }));
        assert_eq!(pod(&copy).uid, "hash");
        for (named, of_pod) in [("u", "hash"), ("hash", "hash"), ("former", "former")] {
            let mut claim = VpcIPClaim::new("web-0", Default::default());
            claim.annotations_mut().insert(FORCE_RELEASE.into(), named.into());
            let seen = super::claim(&claim, None, false);
            assert_eq!(force_release(&seen, &copy).as_deref(), Some(of_pod));
        }
    }
}
