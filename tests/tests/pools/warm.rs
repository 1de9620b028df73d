//! Addresses that wait for pods.

use std::net::IpAddr;
use std::time::Duration;

use ipam_agent::api::{NodeENIConfig, VpcIP, VpcIPClaim, VpcIPType, WarmSpec};
use ipam_agent::controller::ControllerConfig;
use ipam_agent::ipam::pool::warm::WarmTarget;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::tools::*;

fn config(min: usize, max: usize) -> ControllerConfig {
    ControllerConfig {
        warm: WarmTarget { min, max },
        warm_patience: Duration::from_millis(600),
        gather: Duration::from_millis(50),
        ..eager()
    }
}

/// Secondary addresses on a node's ENIs.
fn addresses(plane: &ControlPlane, node: &str) -> usize {
    enis_on(plane, node).iter().map(|eni| eni.addresses.len() - 1).sum()
}

async fn until(plane: &ControlPlane, node: &str, count: usize) {
    let mut last = 0;
    eventually(&format!("{count} addresses on {node}"), async || {
        last = addresses(plane, node);
        last == count
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_served_from_what_is_warm_and_the_pool_fills_again() {
    let (plane, _dir) = plane().await;
    plane.add_node("big", "zone-1", (2, 40), 110).await.unwrap();
    // On a busy machine a burst comes slowly.
    let config = ControllerConfig { gather: Duration::from_millis(500), ..config(6, 8) };
    plane.start_controller_with(config, None).unwrap();
    until(&plane, "big", 6).await;
    // Nobody owns them: there is no object but the ENIs'.
    let ips = Api::<VpcIP>::all(plane.client.clone());
    assert!(ips.list(&Default::default()).await.unwrap().iter().all(|ip| ip.spec.type_ == VpcIPType::Eni));
    let warm: Vec<String> =
        enis_on(&plane, "big")[0].secondary_ips().iter().map(ToString::to_string).collect();
    let before = plane.cloud.calls().len();
    let bound = pods(&plane, "pod", 6, "big").await;
    println!("6 pods from a warm pool: {:?}", calls_since(&plane, before));
    assert!(bound.values().all(|ip| warm.contains(ip)), "{bound:?} of {warm:?}");
    until(&plane, "big", 12).await;
    assert!(plane.cloud.snapshot().violations.is_empty());
    // Pods go; what is above the most goes after a while.
    for (name, ip) in &bound {
        plane.end_pod(name, ip).await.unwrap();
    }
    until(&plane, "big", 8).await;
    let before = plane.cloud.calls().len();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let calls = calls_since(&plane, before);
    let moves = |action: &String| action.starts_with("Assign") || action.starts_with("Unassign");
    assert!(!calls.keys().any(moves), "churn: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_no_more_warm_than_pods_can_come() {
    let (plane, _dir) = plane().await;
    plane.add_node("few", "zone-1", (4, 10), 3).await.unwrap();
    plane.start_controller_with(config(6, 8), None).unwrap();
    until(&plane, "few", 3).await;
    until(&plane, "node-a", 6).await;
    plane.pod("web-0", "few", true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(addresses(&plane, "few"), 3, "one bound and two that can come");
    // A node's own word counts.
    let necs = Api::<NodeENIConfig>::all(plane.client.clone());
    let warm = WarmSpec { min: 0, max: 1 };
    necs.patch("node-a", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "warm": warm } })))
        .await
        .unwrap();
    until(&plane, "node-a", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_claim_that_waits_gets_what_is_warm_elsewhere() {
    let (plane, _dir) = plane().await;
    // 13 addresses: two ENIs and 11 for pods.
    add_subnet(&plane, "subnet-small", "zone-5", "10.5.0.0/28");
    for node in ["node-1", "node-2"] {
        plane.add_node(node, "zone-5", (2, 12), 110).await.unwrap();
    }
    plane.start_controller_with(config(4, 4), None).unwrap();
    until(&plane, "node-1", 4).await;
    until(&plane, "node-2", 4).await;
    for n in 0..11 {
        plane.pod(&format!("web-{n}"), "node-2", true).await.unwrap();
    }
    assert_eq!(addresses(&plane, "node-1"), 0);
    assert!(plane.cloud.snapshot().violations.is_empty());
}

/// The pod whose address was taken away by force may run on: nothing of it is left on the ENI, warm addresses or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_its_node_has_not_let_go_does_not_wait_on_the_eni() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(config(0, 4), None).unwrap();
    let ip = plane.pod("web-0", "node-a", true).await.unwrap();
    let pod = Api::<Pod>::default_namespaced(plane.client.clone()).get("web-0").await.unwrap();
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    claims.delete("web-0", &DeleteParams::default()).await.unwrap();
    let force = json!({ "metadata": { "annotations": { "eni-ipam.dev/force-release": pod.metadata.uid } } });
    claims.patch("web-0", &PatchParams::default(), &Patch::Merge(force)).await.unwrap();
    let ip: IpAddr = ip.parse().unwrap();
    let off = async || plane.cloud.snapshot().holder(ip).is_none();
    eventually("the cloud to have taken it off", off).await.unwrap();
    // One that was let go does wait.
    let other = plane.pod("job-0", "node-a", false).await.unwrap();
    plane.end_pod("job-0", &other).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(addresses(&plane, "node-a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_warm_elsewhere_is_had_by_who_nominates_it() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(config(4, 4), None).unwrap();
    until(&plane, "node-a", 4).await;
    until(&plane, "node-b", 4).await;
    let warm = enis_on(&plane, "node-a")[0].secondary_ips()[0];
    let pod = json!({
        "metadata": { "name": "web-0", "annotations": { "eni-ipam.dev/nominated-vpc-ip": warm.to_string() } },
        "spec": { "nodeName": "node-b", "containers": [{ "name": "main", "image": "none" }] },
    });
    let pods = Api::<Pod>::default_namespaced(plane.client.clone());
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    assert_eq!(plane.bound(&pod).await.unwrap(), warm.to_string());
    assert_eq!(plane.cloud.snapshot().holder(warm).unwrap().id, enis_on(&plane, "node-b")[0].id);
    assert!(plane.cloud.snapshot().violations.is_empty());
}
