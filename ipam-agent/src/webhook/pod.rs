//! What becomes of a pod: it asks for an address of its node, and goes where the address that it shall have can be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::affinity;
use super::places::Place;
use crate::api::annotations::{AddressWish, BadAnnotation};
use crate::api::pod::MIRROR;
use crate::api::scheduling::RESOURCE;

/// Whether the pod needs an address, so that there is something to do. The copy of a static pod has to stay one.
pub fn needs_address(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] != true && pod["metadata"]["annotations"].get(MIRROR).is_none()
}

/// What the pod says of its address.
pub fn wish(object: &Value) -> (AddressWish, Vec<BadAnnotation>) {
    let annotations: BTreeMap<String, String> = object["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    AddressWish::parse(&annotations)
}

/// Adds to a pod what the scheduler has to know. Returns warnings for whoever makes it.
pub fn prepare(pod: &mut Value, place: Option<&Place>) -> Vec<String> {
    ask_for_address(pod);
    // A pod that has its node is not scheduled.
    let has_node = pod["spec"]["nodeName"].as_str().is_some_and(|name| !name.is_empty());
    let Some(place) = place.filter(|place| !has_node && !place.zones.is_empty()) else { return Vec::new() };
    affinity::demand_zones(pod, &place.zones);
    let contradiction = affinity::contradiction(pod, &place.zones).map(|own| {
        format!(
            "{} in zone {}, but the pod's nodeSelector names zone {own}: no node suits; take the zone out of the \
             nodeSelector, or give the address back (kubectl delete vipc)",
            place.why,
            place.zones.join(", "),
        )
    });
    contradiction.into_iter().collect()
}

/// One address, asked for by the first container, as its pod has none. Where any container asks already, it is left so.
fn ask_for_address(pod: &mut Value) {
    let asks = |container: &Value| {
        ["requests", "limits"].iter().any(|kind| container["resources"][kind].get(RESOURCE).is_some())
    };
    let all = ["containers", "initContainers"];
    if all.iter().filter_map(|list| pod["spec"][list].as_array()).flatten().any(asks) {
        return;
    }
    let Some(first) = pod["spec"]["containers"].get_mut(0) else { return };
    for kind in ["requests", "limits"] {
        let resources = &mut first["resources"];
        if !resources[kind].is_object() {
            resources[kind] = json!({});
        }
        resources[kind][RESOURCE] = "1".into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container() -> impl Strategy<Value = Value> {
        let amounts = || {
            prop_oneof![
                Just(None),
                Just(Some(json!({}))),
                Just(Some(json!({ "cpu": "100m" }))),
                Just(Some(json!({ "cpu": "1", RESOURCE: "1" }))),
            ]
        };
        (amounts(), amounts()).prop_map(|(requests, limits)| {
            let mut container = json!({ "name": "c" });
            for (kind, amount) in [("requests", requests), ("limits", limits)] {
                if let Some(amount) = amount {
                    container["resources"][kind] = amount;
                }
            }
            container
        })
    }

    fn asked(pod: &Value, list: &str) -> usize {
        let containers = pod["spec"][list].as_array().cloned().unwrap_or_default();
        let asks = |it: &&Value| it["resources"]["limits"].get(RESOURCE).is_some();
        containers.iter().filter(asks).count()
    }

    proptest! {
        /// A pod that asks nowhere asks once afterwards, by a limit and a request that are equal; one that asks is left
        /// alone; nothing else of it changes.
        #[test]
        fn a_pod_asks_once_and_keeps_what_it_has(
            containers in proptest::collection::vec(container(), 1..4),
            init in proptest::collection::vec(container(), 0..2),
        ) {
            let old = json!({ "spec": { "containers": containers, "initContainers": init } });
            let mut new = old.clone();
            prop_assert!(prepare(&mut new, None).is_empty());
            if old.to_string().contains(RESOURCE) {
                prop_assert_eq!(&new, &old);
            } else {
                prop_assert_eq!((asked(&new, "containers"), asked(&new, "initContainers")), (1, 0));
                let resources = &new["spec"]["containers"][0]["resources"];
                prop_assert_eq!(&resources["limits"][RESOURCE], "1");
                prop_assert_eq!(&resources["requests"][RESOURCE], "1");
            }
            for operation in json_patch::diff(&old, &new).0 {
                prop_assert!(matches!(operation, json_patch::PatchOperation::Add(_)), "{} from {}", new, old);
            }
        }
    }

    fn place() -> Place {
        Place { zones: vec!["zone-1".into()], why: "address 10.0.1.7 is kept for this pod and lives".into() }
    }

    #[test]
    fn a_pod_that_is_bound_to_a_node_is_not_told_where_to_go() {
        let mut pod = json!({ "spec": { "nodeName": "node-a", "containers": [{ "name": "c" }] } });
        assert!(prepare(&mut pod, Some(&place())).is_empty());
        assert!(pod["spec"].get("affinity").is_none());
        assert_eq!(asked(&pod, "containers"), 1);
    }

    #[test]
    fn a_node_selector_of_another_zone_is_told() {
        let selector = json!({ "topology.kubernetes.io/zone": "zone-2" });
        let mut pod = json!({ "spec": { "nodeSelector": selector, "containers": [{ "name": "c" }] } });
        let warnings = prepare(&mut pod, Some(&place()));
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("lives in zone zone-1, but the pod's nodeSelector names zone zone-2"),
            "{warnings:?}"
        );
        assert_eq!(pod["spec"]["nodeSelector"], selector);
    }

    #[test]
    fn pods_without_a_network_of_their_own_need_none() {
        assert!(!needs_address(&json!({ "spec": { "hostNetwork": true } })));
        assert!(!needs_address(&json!({ "metadata": { "annotations": { MIRROR: "x" } }, "spec": {} })));
        assert!(needs_address(&json!({ "spec": { "hostNetwork": false } })));
    }
}
