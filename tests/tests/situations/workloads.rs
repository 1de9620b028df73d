//! What becomes of addresses with their workload: scaled, deleted, recreated, unreadable; and what a namespace asks for.

use std::time::Duration;

use ipam_agent::api::{DeletePolicy, IpPhase, VpcIPClaim};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use ipam_lab::story::STATIC;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::tools::*;

const WHEN_SCALED: &str = "eni-ipam.dev/claim-when-scaled";
const WHEN_DELETED: &str = "eni-ipam.dev/claim-when-deleted";
const TAKEOVER: &str = "eni-ipam.dev/claim-takeover";

fn cascading() -> ControllerConfig {
    ControllerConfig { cascade: true, ..ControlPlane::config() }
}

/// Makes a workload, and gives the owner reference of its pods.
async fn workload<K>(client: &Client, name: &str, spec: Value, owner: Option<&Value>) -> Value
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + serde::Serialize
        + Clone
        + std::fmt::Debug,
{
    let labels = json!({ "app": name });
    let mut object = json!({
        "metadata": { "name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>() },
        "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels } } },
    });
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap_or_default());
    let object = serde_json::from_value::<K>(object).unwrap();
    let made =
        Api::<K>::default_namespaced(client.clone()).create(&PostParams::default(), &object).await.unwrap();
    owner_of(&K::api_version(&()), &K::kind(&()), name, &made.uid().unwrap())
}

fn owner_of(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true })
}

async fn pod_of(client: &Client, name: &str, owner: &Value, annotations: &[(&str, &str)]) -> Pod {
    let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
    let pod = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations, "ownerReferences": [owner] },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
    }));
    Api::default_namespaced(client.clone()).create(&PostParams::default(), &pod.unwrap()).await.unwrap()
}

async fn delete<K>(client: &Client, name: &str)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    Api::<K>::default_namespaced(client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
}

async fn phase(client: &Client, ip: &str) -> Option<IpPhase> {
    address(client, ip).await.map(|status| status.phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_when_scaled_delete_gives_back_what_is_beyond_the_replicas_and_nothing_else() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let web = workload::<StatefulSet>(client, "web", json!({ "replicas": 2 }), None).await;
    let rules = [STATIC, (WHEN_SCALED, "Delete")];
    let zero = bound(client, &pod_of(client, "web-0", &web, &rules).await).await;
    let one = bound(client, &pod_of(client, "web-1", &web, &rules).await).await;
    // A pod that the StatefulSet wants back, and one that it has let go.
    plane.end_pod("web-0", &zero).await.unwrap();
    let sets = Api::<StatefulSet>::default_namespaced(client.clone());
    let scale = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
    sets.patch("web", &PatchParams::default(), &scale).await.unwrap();
    delete_pod(client, "web-1").await;
    free(client, &one).await;
    eventually("its claim to go", async || claim(client, "web-1").await.is_none()).await.unwrap();
    assert_eq!(phase(client, &zero).await, Some(IpPhase::Retained));
    plane.settled().await.unwrap();
}

/// What was seen before the pod was back does not count when it goes again.
#[tokio::test(flavor = "multi_thread")]
async fn s04_a_replica_that_was_back_meanwhile_is_given_the_whole_period_again() {
    let (plane, _dir) = plane().await;
    let period = Duration::from_secs(3);
    let config = ControllerConfig { orphan_period: period, ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    let client = &plane.client;
    let web = workload::<StatefulSet>(client, "web", json!({ "replicas": 3 }), None).await;
    let rules = [STATIC, (WHEN_SCALED, "Delete")];
    let sets = Api::<StatefulSet>::default_namespaced(client.clone());
    let scale = async |replicas: u32| {
        let scale = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        sets.patch("web", &PatchParams::default(), &scale).await.unwrap();
    };
    let ip = bound(client, &pod_of(client, "web-2", &web, &rules).await).await;
    scale(2).await;
    // What was read of the StatefulSet for the pod is not taken for this look.
    tokio::time::sleep(Duration::from_millis(400)).await;
    plane.end_pod("web-2", &ip).await.unwrap();
    scale(3).await;
    assert_eq!(bound(client, &pod_of(client, "web-2", &web, &rules).await).await, ip);
    tokio::time::sleep(period).await;
    scale(2).await;
    plane.end_pod("web-2", &ip).await.unwrap();
    tokio::time::sleep(period / 3).await;
    assert_eq!(phase(client, &ip).await, Some(IpPhase::Retained));
    free(client, &ip).await;
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_when_deleted_says_what_becomes_of_the_addresses_of_a_statefulset() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let web = workload::<StatefulSet>(client, "web", json!({ "replicas": 3 }), None).await;
    let mut ips = Vec::new();
    for (name, rule) in [("web-0", "Delete"), ("web-1", "Retain"), ("web-2", "TTL")] {
        ips.push(bound(client, &pod_of(client, name, &web, &[STATIC, (WHEN_DELETED, rule)]).await).await);
    }
    delete::<StatefulSet>(client, "web").await;
    for name in ["web-0", "web-1", "web-2"] {
        delete_pod(client, name).await;
    }
    free(client, &ips[0]).await;
    for ip in &ips[1..] {
        in_phase(client, ip, IpPhase::Retained).await;
    }
    plane.settled().await.unwrap();
}

/// Also for pods that were there before the flag was set; the chain is climbed to its top.
#[tokio::test(flavor = "multi_thread")]
async fn s05_with_ownerref_addresses_go_with_the_top_workload_once_their_pod_is_detached() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let deployment = workload::<Deployment>(client, "web", json!({}), None).await;
    let set = workload::<ReplicaSet>(client, "web-6d4c", json!({}), Some(&deployment)).await;
    let lives = bound(client, &pod_of(client, "web-a", &set, &[STATIC]).await).await;
    let ended = bound(client, &pod_of(client, "web-b", &set, &[STATIC]).await).await;
    plane.kill_controller().await;
    plane.start_controller_with(cascading(), None).unwrap();
    let claims = Api::<VpcIPClaim>::default_namespaced(client.clone());
    eventually("the top of the chain to be known", async || {
        let owner = claims.get("web-b").await.unwrap().spec.owner.unwrap();
        owner.kind == "Deployment" && owner.uid == deployment["uid"]
    })
    .await
    .unwrap();
    plane.end_pod("web-b", &ended).await.unwrap();
    delete::<ReplicaSet>(client, "web-6d4c").await;
    still_waits("the address of a Deployment that exists", free(client, &ended), 1000).await;
    delete::<Deployment>(client, "web").await;
    free(client, &ended).await;
    assert_eq!(phase(client, &lives).await, Some(IpPhase::Bound), "its pod lives");
    delete_pod(client, "web-a").await;
    free(client, &lives).await;
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_a_workload_that_cannot_be_read_is_taken_to_exist() {
    let (plane, _dir) = plane().await;
    let client = &plane.client;
    let web = workload::<StatefulSet>(client, "web", json!({}), None).await;
    let unknown = owner_of("games.example.com/v1", "GameServerSet", "game", "no-such");
    plane.start_controller_with(cascading(), None).unwrap();
    let web = bound(client, &pod_of(client, "web-0", &web, &[STATIC]).await).await;
    let game = bound(client, &pod_of(client, "game-0", &unknown, &[STATIC]).await).await;
    plane.quirks.forbid(Some("/statefulsets/"));
    delete::<StatefulSet>(client, "web").await;
    plane.end_pod("web-0", &web).await.unwrap();
    plane.end_pod("game-0", &game).await.unwrap();
    still_waits("an address that might be wanted", free(client, &web), 1500).await;
    plane.quirks.forbid(None);
    free(client, &web).await;
    assert_eq!(phase(client, &game).await, Some(IpPhase::Retained));
}

/// Only what depends on the workload waits for its API, and that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn s05_an_api_of_workloads_that_is_down_holds_up_nothing_else() {
    let (plane, _dir) = plane().await;
    let client = &plane.client;
    plane.start_controller_with(cascading(), None).unwrap();
    let web = workload::<StatefulSet>(client, "web", json!({}), None).await;
    let plain = bound(client, &pod_of(client, "web-0", &web, &[]).await).await;
    let unwanted = bound(client, &pod_of(client, "web-1", &web, &[STATIC]).await).await;
    let kept = bound(client, &pod_of(client, "web-2", &web, &[STATIC]).await).await;
    plane.quirks.break_down(Some("/statefulsets/"));
    delete::<StatefulSet>(client, "web").await;
    delete_pod(client, "web-0").await;
    free(client, &plain).await;
    plane.end_pod("web-1", &unwanted).await.unwrap();
    plane.end_pod("web-2", &kept).await.unwrap();
    let claims = Api::<VpcIPClaim>::default_namespaced(client.clone());
    claims.delete("web-1", &DeleteParams::default()).await.unwrap();
    free(client, &unwanted).await;
    still_waits("an address that might be wanted", free(client, &kept), 1000).await;
    plane.quirks.break_down(None);
    free(client, &kept).await;
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_recreated_workload_gets_addresses_of_its_own_when_asked_to() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let first = workload::<StatefulSet>(client, "web", json!({}), None).await;
    let rules = [STATIC, (TAKEOVER, "SameWorkload")];
    let ip = bound(client, &pod_of(client, "web-0", &first, &rules).await).await;
    let claims = Api::<VpcIPClaim>::default_namespaced(client.clone());
    let former = claims.get("web-0").await.unwrap();
    plane.end_pod("web-0", &ip).await.unwrap();
    // A pod of the same workload has it again.
    assert_eq!(bound(client, &pod_of(client, "web-0", &first, &rules).await).await, ip);
    assert_eq!(address(client, &ip).await.unwrap().epoch, 2);
    plane.end_pod("web-0", &ip).await.unwrap();
    delete::<StatefulSet>(client, "web").await;
    let second = workload::<StatefulSet>(client, "web", json!({}), None).await;
    let pod = pod_of(client, "web-0", &second, &rules).await;
    let new = bound(client, &pod).await;
    let claim = claims.get("web-0").await.unwrap();
    assert_ne!(claim.uid(), former.uid(), "a claim of its own");
    assert_eq!(address(client, &new).await.unwrap().epoch, 1);
    assert_eq!(claim.spec.owner.unwrap().uid, second["uid"]);
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_opts_in_for_all_its_pods() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let namespaces = Api::<Namespace>::all(client.clone());
    let team = json!({ "metadata": { "name": "team", "annotations": {
        "tke.cloud.tencent.com/vpc-ip-claim-delete-policy": "Never",
        "eni-ipam.dev/claim-expired-duration": "2h",
    } } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(team).unwrap()).await.unwrap();
    let web = create_pod_in(client, "team", "web-0", "node-a", &[]).await;
    let plain = ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Immediate");
    let job = create_pod_in(client, "team", "job-0", "node-a", &[plain]).await;
    let elsewhere = create_pod(client, "web-0", "node-a", &[]).await;
    for pod in [&web, &job, &elsewhere] {
        bound(client, pod).await;
    }
    let spec = async |namespace: &str, name: &str| {
        Api::<VpcIPClaim>::namespaced(client.clone(), namespace).get(name).await.unwrap().spec
    };
    let of_team = spec("team", "web-0").await;
    assert_eq!(of_team.delete_policy, DeletePolicy::Never);
    assert_eq!(of_team.expired_duration.as_deref(), Some("2h"));
    assert_eq!(
        spec("team", "job-0").await.delete_policy,
        DeletePolicy::Immediate,
        "the pod's own word counts"
    );
    assert_eq!(spec("default", "web-0").await.delete_policy, DeletePolicy::Immediate);
    // The namespace changes its mind, and its pods with it.
    let longer = json!({ "metadata": { "annotations": { "eni-ipam.dev/claim-expired-duration": "never" } } });
    namespaces.patch("team", &PatchParams::default(), &Patch::Merge(longer)).await.unwrap();
    eventually("its pods' claims to follow", async || {
        spec("team", "web-0").await.expired_duration.as_deref() == Some("never")
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_nonsense_annotations_is_told_and_keeps_its_address() {
    let (plane, _dir) = running_plane().await;
    let client = &plane.client;
    let nonsense = [
        ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Sometimes"),
        ("tke.cloud.tencent.com/claim-expired-duration", "10s"),
    ];
    let ip = bound(client, &create_pod(client, "web-0", "node-a", &nonsense).await).await;
    let events = Api::<Event>::default_namespaced(client.clone());
    let mut note = None;
    eventually("an event", async || {
        let all = events.list(&Default::default()).await.unwrap();
        note = all.into_iter().find(|event| event.reason.as_deref() == Some("BadAnnotation"));
        note.is_some()
    })
    .await
    .unwrap();
    let note = note.unwrap().note.unwrap();
    for (annotation, value) in nonsense {
        assert!(note.contains(&format!("annotation {annotation}: {value:?}")), "{note}");
    }
    assert!(note.contains("write Never or Immediate") && note.contains("at least 5m"), "{note}");
    plane.end_pod("web-0", &ip).await.unwrap();
    assert_eq!(phase(client, &ip).await, Some(IpPhase::Retained));
    assert_eq!(claim(client, "web-0").await.unwrap().expire_at, None, "an unreadable time never comes");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(plane.pod("web-0", "node-b", true).await.unwrap(), ip);
}
