//! Names that are said in two places are the same.

use std::collections::BTreeSet;

use ipam_agent::crds;
use serde_json::{Value, json};

use crate::manifests::{items, overlays};

/// The namespace of everything that has one.
const NAMESPACE: &str = "kube-system";
const CLUSTER_SCOPED: [&str; 6] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

#[test]
fn objects_are_unique_and_in_one_namespace() {
    for manifests in overlays() {
        let mut seen = BTreeSet::new();
        for object in &manifests.objects {
            let (kind, name) =
                (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            assert!(seen.insert((kind, name)), "{kind} {name} is there twice");
            let namespace = &object["metadata"]["namespace"];
            if CLUSTER_SCOPED.contains(&kind) {
                assert!(namespace.is_null(), "{kind} {name} has no namespace");
            } else {
                assert_eq!(namespace, NAMESPACE, "{kind} {name}");
            }
        }
    }
}

#[test]
fn the_definitions_are_those_of_the_code() {
    for manifests in overlays() {
        let rendered: Vec<&Value> = manifests.of_kind("CustomResourceDefinition").collect();
        assert_eq!(rendered.len(), crds::definitions().len());
        for crd in crds::definitions() {
            let crd = serde_json::to_value(crd).unwrap();
            let rendered =
                manifests.one("CustomResourceDefinition", crd["metadata"]["name"].as_str().unwrap());
            // Numbers like 64 and 64.0 are the same in YAML as kubectl writes it.
            assert!(same(&rendered["spec"], &crd["spec"]), "{}", crd["metadata"]["name"]);
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

#[test]
fn every_container_is_of_one_image() {
    for manifests in overlays() {
        let images: BTreeSet<&str> =
            manifests.containers().map(|(_, container)| container["image"].as_str().unwrap()).collect();
        assert_eq!(images.len(), 1, "{}: {images:?}", manifests.overlay);
        let image = images.first().unwrap();
        assert!(image.rsplit('/').next().unwrap().contains(':'), "{image} has no tag, which means `latest`");
    }
}

#[test]
fn selectors_find_the_pods() {
    for manifests in overlays() {
        for workload in manifests.workloads() {
            let labels = workload["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
            let selector = workload["spec"]["selector"]["matchLabels"].as_object().unwrap();
            assert!(selector.iter().all(|(name, value)| labels.get(name) == Some(value)));
        }
        let controller = &manifests.one("Deployment", "eni-ipam-controller")["spec"];
        let budget = &manifests.one("PodDisruptionBudget", "eni-ipam-controller")["spec"];
        assert_eq!(budget["selector"], controller["selector"]);
        let apart = &controller["template"]["spec"]["affinity"]["podAntiAffinity"];
        let apart = &apart["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(apart["labelSelector"], controller["selector"]);
        assert_eq!(controller["replicas"], 2);
        // A third would find no node where the two are on the only ones.
        assert_eq!(controller["strategy"]["rollingUpdate"], json!({ "maxSurge": 0, "maxUnavailable": 1 }));
    }
}

#[test]
fn what_a_pod_refers_to_is_there() {
    // Made by the operator, as the README says.
    const SECRETS: [&str; 1] = ["eni-ipam-tencent"];
    for manifests in overlays() {
        for (pod, container) in manifests.containers() {
            manifests.one("ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
            for variable in items(&container["env"]) {
                let Some(key) = variable["valueFrom"].get("configMapKeyRef") else { continue };
                let config_map = manifests.one("ConfigMap", key["name"].as_str().unwrap());
                assert!(config_map["data"].get(key["key"].as_str().unwrap()).is_some(), "{key}");
            }
            for source in items(&container["envFrom"]) {
                match (source.get("configMapRef"), source.get("secretRef")) {
                    (Some(map), None) => drop(manifests.one("ConfigMap", map["name"].as_str().unwrap())),
                    (None, Some(secret)) => assert!(SECRETS.contains(&secret["name"].as_str().unwrap())),
                    _ => panic!("{source}"),
                }
            }
        }
        for config_map in manifests.of_kind("ConfigMap") {
            let name = config_map["metadata"]["name"].as_str().unwrap();
            let used =
                manifests.workloads().any(|workload| workload.to_string().contains(&format!("\"{name}\"")));
            assert!(used, "{}: nothing reads ConfigMap {name}", manifests.overlay);
        }
    }
}
