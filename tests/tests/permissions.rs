//! A controller as it is shipped, with election and webhook, and pods of every kind of workload that Kubernetes has: what
//! it asks for is what `deploy/base/controller-rbac.yaml` grants. Other tests use the rest; the comparison is made at the
//! end of `cargo xtask test`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::{ControlPlane, Difference};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// Secret and configuration of the webhook, as they are applied.
const WEBHOOK: &str = include_str!("../../deploy/base/webhook.yaml");

/// Creates an object; gives the owner reference of what belongs to it.
async fn create(client: &Client, object: Value) -> Value {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let types = object.types.clone().unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types.clone()).unwrap());
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let made = api.create(&PostParams::default(), &object).await.unwrap();
    json!({
        "apiVersion": types.api_version, "kind": types.kind, "name": made.name_any(), "uid": made.uid().unwrap(),
        "controller": true,
    })
}

/// A workload that belongs to another, or to none.
async fn workload(client: &Client, version: &str, kind: &str, owner: Option<&Value>) -> Value {
    let name = kind.to_lowercase();
    let labels = json!({ "app": name });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "none" }] },
    });
    let spec = match kind {
        "CronJob" => json!({ "schedule": "@daily", "jobTemplate": { "spec": { "template": template } } }),
        _ => json!({ "selector": { "matchLabels": labels }, "template": template }),
    };
    let owners: Vec<_> = owner.into_iter().collect();
    create(
        client,
        json!({
            "apiVersion": version, "kind": kind, "spec": spec,
            "metadata": { "name": name, "namespace": "default", "ownerReferences": owners },
        }),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_as_shipped_reads_every_kind_of_workload_and_keeps_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let client = &plane.client;
    for object in serde_saphyr::from_multiple::<Value>(WEBHOOK).unwrap() {
        if matches!(object["kind"].as_str(), Some("Secret" | "MutatingWebhookConfiguration")) {
            create(client, object).await;
        }
    }
    let args = ["--webhook-listen=127.0.0.1:0", "--enable-ownerref"].map(str::to_owned).to_vec();
    let different = Difference { args, ..Difference::default() };
    let controller = plane.replica(dir.path(), "shipped", different).await.unwrap();
    controller.wait_until_leading().await.unwrap();

    let deployment = workload(client, "apps/v1", "Deployment", None).await;
    let cron_job = workload(client, "batch/v1", "CronJob", None).await;
    let makers = [
        workload(client, "apps/v1", "ReplicaSet", Some(&deployment)).await,
        workload(client, "apps/v1", "StatefulSet", None).await,
        workload(client, "apps/v1", "DaemonSet", None).await,
        workload(client, "batch/v1", "Job", Some(&cron_job)).await,
    ];
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for (index, maker) in makers.iter().enumerate() {
        let name = format!("static-{index}");
        let pod = json!({
            "metadata": {
                "name": name, "ownerReferences": [maker],
                "annotations": { "eni-ipam.dev/vpc-ip-claim-delete-policy": "Never" },
            },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
        });
        let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        plane.bound(&pod).await.unwrap();
        pods.delete(&name, &DeleteParams::default()).await.unwrap();
    }

    // An address of a claim that nobody knows: the cache is not believed. No pod can have got it.
    let name = "10.9.9.77";
    let spec = json!({
        "type": "Pod", "ip": name, "subnetID": "subnet-a",
        "claimRef": { "namespace": "default", "name": "gone", "uid": "none" },
    });
    let stray = json!({
        "apiVersion": "eni-ipam.dev/v1", "kind": "VpcIP", "metadata": { "name": name }, "spec": spec,
    });
    create(client, stray).await;

    // Two events about one pod: the second is told by the first one's object.
    let annotations = |policy| {
        json!({
            "eni-ipam.dev/vpc-ip-claim-delete-policy": policy, "eni-ipam.dev/claim-expired-duration": "soon",
        })
    };
    let odd = json!({
        "metadata": { "name": "odd", "annotations": annotations("Never") },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
    });
    let odd = pods.create(&PostParams::default(), &serde_json::from_value(odd).unwrap()).await.unwrap();
    plane.bound(&odd).await.unwrap();
    let changed = json!({ "metadata": { "annotations": annotations("Immediate") } });
    pods.patch("odd", &PatchParams::default(), &Patch::Merge(changed)).await.unwrap();

    // A node that is gone for good.
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.delete("node-b", &DeleteParams::default()).await.unwrap();

    // A machine that has become larger: the node's configuration follows.
    plane.cloud.resize_instance("ins-node-a", |instance| instance.max_ips_per_eni = 15);
    let label = json!({ "metadata": { "labels": { "node.kubernetes.io/instance-type": "S5.2XLARGE" } } });
    nodes.patch("node-a", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();

    let used = |permission: &str| {
        let word = format!("permission in use: deploy/base/controller-rbac.yaml: {permission}");
        controller.log().lines().any(|line| line.ends_with(&word))
    };
    for permission in [
        "get replicasets.apps",
        "get deployments.apps",
        "get statefulsets.apps",
        "get daemonsets.apps",
        "get jobs.batch",
        "get cronjobs.batch",
        "update secrets",
        "patch mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "get vpcipclaims.eni-ipam.dev",
        "create leases.coordination.k8s.io",
        "update nodeeniconfigs.eni-ipam.dev",
        "delete nodeeniconfigs.eni-ipam.dev",
        "create events.events.k8s.io",
        "patch events.events.k8s.io",
    ] {
        eventually(&format!("{permission} to be used"), async || used(permission)).await.unwrap();
    }
    assert!(!controller.log().contains("missing permission"), "{}", controller.log());
}
