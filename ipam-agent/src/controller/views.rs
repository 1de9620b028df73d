//! From API objects to what [`crate::ipam`] decides on.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::api::{
    ClaimPhase, DeletePolicy, FORCE_RELEASE, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimSpec, annotations,
};
use crate::ipam::binding::{ClaimView, IpView, PodView};

/// A pod as the decision sees it.
pub fn pod(pod: &Pod) -> PodView {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    PodView {
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        deleting: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// A claim as the decision sees it. A retention that cannot be read keeps the address.
pub fn claim(claim: &VpcIPClaim, default_keep: Option<Duration>) -> ClaimView {
    let keep = match &claim.spec.expired_duration {
        Some(text) => annotations::parse_expiry(text).unwrap_or(None),
        None => default_keep,
    };
    ClaimView {
        is_static: claim.spec.delete_policy == DeletePolicy::Never,
        keep,
        deleting: claim.metadata.deletion_timestamp.is_some(),
        released: claim.status.as_ref().is_some_and(|status| status.phase == ClaimPhase::Releasing),
        force_release: claim.annotations().get(FORCE_RELEASE).cloned(),
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
        detached: status.detached.map(|detached| (detached.epoch, detached.at.0)),
        node_gone,
        expire_at: status.expire_at.map(|time| time.0),
        watched_unused,
    }
}

/// Whether an address is what the claim asks for now. A pod's wish may have changed since the address was chosen.
pub fn is_wanted(ip: &VpcIP, claim: &VpcIPClaim) -> bool {
    let VpcIPClaimSpec { nominated_ip, nominated_subnets, .. } = &claim.spec;
    nominated_ip.as_ref().is_none_or(|nominated| *nominated == ip.spec.ip)
        && (nominated_subnets.is_empty() || nominated_subnets.contains(&ip.spec.subnet_id))
}

/// Whether the claim still holds the address: one that cools down or is quarantined is nobody's.
pub fn is_held(ip: &VpcIP) -> bool {
    !matches!(ip.state().phase, IpPhase::Cooldown | IpPhase::Quarantined)
}
