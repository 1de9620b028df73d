//! What the situations have in common: pods, and what their claims and addresses say.

use std::future::Future;

use ipam_agent::api::{IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPStatus};
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::control_plane::ControlPlane;
use ipam_lab::lab::pod::CniOutcome;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Annotation: the one address that a pod wants.
pub const NOMINATED: &str = "eni-ipam.dev/nominated-vpc-ip";

/// A control plane without a controller.
pub async fn plane() -> (ControlPlane, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (ControlPlane::new(dir.path()).await.unwrap(), dir)
}

/// A control plane with a controller.
pub async fn running_plane() -> (ControlPlane, tempfile::TempDir) {
    let (plane, dir) = plane().await;
    plane.start_controller(None).unwrap();
    (plane, dir)
}

/// Creates a pod that is scheduled already.
pub async fn create_pod(client: &Client, name: &str, node: &str, annotations: &[(&str, &str)]) -> Pod {
    create_pod_in(client, "default", name, node, annotations).await
}

/// Likewise, in a namespace.
pub async fn create_pod_in(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
    annotations: &[(&str, &str)],
) -> Pod {
    let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap();
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &pod).await.unwrap()
}

/// Deletes a pod's object.
pub async fn delete_pod(client: &Client, name: &str) {
    Api::<Pod>::default_namespaced(client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
}

/// Status of a claim of the default namespace.
pub async fn claim(client: &Client, name: &str) -> Option<VpcIPClaimStatus> {
    Api::<VpcIPClaim>::default_namespaced(client.clone()).get_opt(name).await.unwrap()?.status
}

/// State of an address; `None`: nobody's.
pub async fn address(client: &Client, ip: &str) -> Option<VpcIPStatus> {
    Some(Api::<VpcIP>::all(client.clone()).get_opt(ip).await.unwrap()?.state())
}

/// Waits until an address is in a phase.
pub async fn in_phase(client: &Client, ip: &str, phase: IpPhase) -> VpcIPStatus {
    let mut last = None;
    eventually(&format!("{ip} to be {phase:?}"), async || {
        last = address(client, ip).await;
        last.as_ref().is_some_and(|status| status.phase == phase)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    last.unwrap()
}

/// Waits until an address is nobody's.
pub async fn free(client: &Client, ip: &str) {
    eventually(&format!("{ip} to be free"), async || address(client, ip).await.is_none()).await.unwrap();
}

/// Waits until a pod's claim is bound. Gives the address.
pub async fn bound(client: &Client, pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap();
    let namespace = pod.metadata.namespace.clone().unwrap();
    let claims = Api::<VpcIPClaim>::namespaced(client.clone(), &namespace);
    let mut last = None;
    eventually(&format!("{name} to be bound"), async || {
        last = claims.get_opt(name).await.unwrap().and_then(|claim| claim.status);
        last.as_ref().is_some_and(|status| {
            status.pod_uid == pod.metadata.uid
                && status.conditions.iter().any(|condition| condition.reason == "Bound")
        })
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    let ip = last.unwrap().address.unwrap();
    // The claim is written first, and the address in the next moment.
    eventually(&format!("{ip} to be bound to {name}"), async || {
        let status = address(client, &ip).await;
        status.is_some_and(|status| status.phase == IpPhase::Bound && status.pod_uid == pod.metadata.uid)
    })
    .await
    .unwrap();
    ip
}

/// Waits until a claim has a condition with a reason. Gives the message.
pub async fn reason(client: &Client, name: &str, reason: &str) -> String {
    let mut last = None;
    let what = format!("{name} to say {reason}");
    let found = eventually(&what, async || {
        last = claim(client, name).await;
        message(last.as_ref(), reason).is_some()
    });
    found.await.unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    message(last.as_ref(), reason).unwrap()
}

fn message(status: Option<&VpcIPClaimStatus>, reason: &str) -> Option<String> {
    let conditions = &status?.conditions;
    Some(conditions.iter().find(|condition| condition.reason == reason)?.message.clone())
}

/// Ends the controller, and the API with it.
pub async fn without_api(cluster: &mut Cluster) {
    cluster.controller().kill9().unwrap();
}

/// Starts them again, and waits until the API answers.
pub async fn api_returns(cluster: &mut Cluster) {
    cluster.start_controller().unwrap();
    let pods = cluster.pods();
    eventually("the API to answer", async || pods.list(&Default::default()).await.is_ok()).await.unwrap();
}

/// STATUS, as a runtime asks on the node of a pod.
pub fn status(pod: &RunningPod) -> CniOutcome {
    let mut conf = pod.conf.clone();
    conf["cniVersion"] = json!("1.1.0");
    let env = [("CNI_NETNS", None), ("CNI_CONTAINERID", None), ("CNI_IFNAME", None)];
    pod.sandbox.cni("STATUS", &env, &conf.to_string()).unwrap()
}

/// Fails when it ends before the time is over.
pub async fn still_waits(what: &str, future: impl Future, millis: u64) {
    let early = tokio::time::timeout(std::time::Duration::from_millis(millis), future).await;
    assert!(early.is_err(), "{what} did not wait");
}
