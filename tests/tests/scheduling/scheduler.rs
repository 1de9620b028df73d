//! The scheduler's part: taints, zones of the node affinity, and the extended resource; its sentence when nothing fits.

use ipam_agent::api::scheduling::{RESOURCE, ZONE_LABEL};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::site::{Site, is_tainted, number};

/// What a pod asks for.
fn asks(pod: &Pod) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let requests =
        containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref()?.get(RESOURCE));
    requests.map(|quantity| quantity.0.parse::<u64>().unwrap()).sum()
}

fn zones(pod: &Pod) -> Option<Vec<String>> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let [term] = &required.node_selector_terms[..] else { panic!("one term") };
    let demand = term.match_expressions.as_ref()?.iter().find(|demand| demand.key == ZONE_LABEL)?;
    demand.values.clone()
}

/// Why a node does not suit, in the scheduler's words.
fn refuses(node: &Node, pod: &Pod, all: &[Pod]) -> Option<String> {
    if is_tainted(node) {
        return Some("node(s) had untolerated taint(s)".to_owned());
    }
    let zone = node.labels().get(ZONE_LABEL).cloned().unwrap_or_default();
    if zones(pod).is_some_and(|zones| !zones.contains(&zone)) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let here = |other: &&Pod| other.spec.as_ref().unwrap().node_name.as_ref() == Some(&node.name_any());
    let used: u64 = all.iter().filter(here).map(asks).sum();
    (used + asks(pod) > number(node).unwrap_or(0)).then(|| format!("Insufficient {RESOURCE}"))
}

/// Gives a pod its node, or writes into it why there is none.
pub async fn schedule(site: &Site, name: &str) -> Result<String, String> {
    let pods = site.pods("default");
    let nodes = site.nodes().list(&ListParams::default()).await.unwrap().items;
    let all = pods.list(&ListParams::default()).await.unwrap().items;
    let pod = pods.get(name).await.unwrap();
    let refusals: Vec<_> = nodes.iter().map(|node| refuses(node, &pod, &all)).collect();
    match nodes.iter().zip(&refusals).find(|(_, refusal)| refusal.is_none()) {
        Some((node, _)) => {
            let node = node.name_any();
            let bound = json!({ "spec": { "nodeName": node } });
            pods.patch(name, &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
            Ok(node)
        }
        None => {
            let mut why: Vec<String> = refusals.into_iter().flatten().collect();
            why.sort();
            let message = format!("0/{} nodes are available: {}.", nodes.len(), why.join(", "));
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            });
            let status = json!({ "status": { "phase": "Pending", "conditions": [condition] } });
            pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
            Err(message)
        }
    }
}
