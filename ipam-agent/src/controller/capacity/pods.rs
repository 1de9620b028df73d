//! What pods say about the nodes they are on, and about those they are not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::Scheduling;
use crate::api::pod::on_host_network;
use crate::api::scheduling::{RESOURCE, ZONE_LABEL};
use crate::api::{IpPhase, VpcIP};
use crate::controller::views;
use crate::ipam::capacity::standing::Agent;

/// An address that is kept takes a place away from others only after this time: the next pod of its name mostly comes at
/// once, and needs it.
const KEPT: Duration = Duration::from_secs(60);

/// Counts by node.
#[derive(Default)]
pub struct PodsOfNodes {
    agents: HashMap<String, bool>,
    without_request: HashMap<String, u64>,
    kept_for_none: HashMap<String, u64>,
}

impl PodsOfNodes {
    pub fn of(pods: &[Arc<Pod>], ips: &[Arc<VpcIP>], agents: &Scheduling) -> Self {
        let mut of_nodes = Self::default();
        for pod in pods {
            let seen = views::pod(pod);
            let Some(node) = seen.node.filter(|_| !seen.finished) else { continue };
            if is_agent(pod, agents) {
                // Of an old and a new one, any that is ready.
                *of_nodes.agents.entry(node).or_default() |= is_ready(pod) && !seen.deleting;
            } else if !on_host_network(pod) && !asks(pod) {
                *of_nodes.without_request.entry(node).or_default() += 1;
            }
        }
        let names: HashSet<(String, String)> =
            pods.iter().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())).collect();
        for ip in ips {
            let Some(claim) = &ip.spec.claim_ref else { continue };
            let status = ip.state();
            let kept = status.phase == IpPhase::Retained
                && status.eni_id.is_some()
                && status.detached.is_some_and(|detached| {
                    Duration::try_from(Timestamp::now().duration_since(detached.at.0))
                        .is_ok_and(|time| time > KEPT)
                });
            // A pod of the name that has come needs it wherever it will be.
            if kept && !names.contains(&(claim.namespace.clone(), claim.name.clone())) {
                *of_nodes.kept_for_none.entry(status.node_name.unwrap_or_default()).or_default() += 1;
            }
        }
        of_nodes
    }

    pub fn agent(&self, node: &str) -> Agent {
        match self.agents.get(node) {
            None => Agent::Missing,
            Some(false) => Agent::NotReady,
            Some(true) => Agent::Ready,
        }
    }

    /// Pods that have an address without having asked the scheduler for it: those of `kube-system`, or from before the
    /// webhook.
    pub fn without_request(&self, node: &str) -> u64 {
        self.without_request.get(node).copied().unwrap_or(0)
    }

    /// Addresses on the node's ENIs that are kept for pods which are not there.
    pub fn kept_for_none(&self, node: &str) -> u64 {
        self.kept_for_none.get(node).copied().unwrap_or(0)
    }
}

fn is_agent(pod: &Pod, agents: &Scheduling) -> bool {
    let (key, value) = &agents.label;
    pod.namespace().as_ref() == Some(&agents.namespace) && pod.labels().get(key) == Some(value)
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

fn asks(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    requests.any(|requests| requests.contains_key(RESOURCE))
}

/// Whether the scheduler has said that this pod fits nowhere for want of addresses.
pub fn lacks_address(pod: &Pod) -> bool {
    condition(pod, "PodScheduled").is_some_and(|scheduled| {
        scheduled.status == "False"
            && scheduled.message.as_ref().is_some_and(|message| message.contains(RESOURCE))
    })
}

/// The zones that the pod's required node affinity names; none: any.
pub fn zones(pod: &Pod) -> Vec<String> {
    let required = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.into_iter().flat_map(|required| &required.node_selector_terms);
    let demands = terms.flat_map(|term| term.match_expressions.iter().flatten());
    let of_zone = demands.filter(|demand| demand.key == ZONE_LABEL && demand.operator == "In");
    of_zone.flat_map(|demand| demand.values.iter().flatten().cloned()).collect()
}
