//! The controller, killed between every two writes and refused at every call of the cloud: what it does
//! afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, select, try_join_all};
use ipam_agent::api::{IpPhase, VpcIP};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::{Call, FaultKind, When};
use ipam_lab::control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

/// A static pod that moves, and a plain one: every step there is.
async fn story(plane: &ControlPlane) -> anyhow::Result<()> {
    let web = plane.pod("web-0", "node-a", true).await?;
    let job = plane.pod("job-0", "node-a", false).await?;
    anyhow::ensure!(web != job, "{web} has two owners");
    plane.end_pod("web-0", &web).await?;
    plane.end_pod("job-0", &job).await?;
    let again = plane.pod("web-0", "node-b", true).await?;
    anyhow::ensure!(again == web, "web-0 had {web} and came back with {again}");
    plane.settled().await
}

/// A controller whose pods have addresses of these families.
fn config(families: &str) -> ControllerConfig {
    ControllerConfig { families: families.parse().unwrap(), ..ControlPlane::config() }
}

/// Runs the story with a controller that is killed after so many writes, and a new one after it. `false` when
/// the story ended before that.
async fn killed_after(families: &str, writes: i64) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let left = plane.start_controller_with(config(families), Some(writes)).unwrap();
    let told = std::pin::pin!(story(&plane));
    let revived = std::pin::pin!(async {
        while left.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        plane.kill_controller().await;
        plane.start_controller_with(config(families), None).unwrap();
    });
    let (outcome, killed) = match select(told, revived).await {
        Either::Left((outcome, _)) => (outcome, false),
        Either::Right(((), told)) => (told.await, true),
    };
    outcome.unwrap_or_else(|error| panic!("{families}: killed after write {writes}: {error:#}"));
    killed
}

async fn killed_between_every_two(families: &str) -> i64 {
    let mut writes = 0;
    while killed_after(families, writes + 1).await {
        writes += 1;
    }
    println!("{families}: killed after each of {writes} writes");
    writes
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_every_two_writes() {
    let writes = killed_between_every_two("ipv4").await;
    assert!(writes > 15, "the story has more writes than {writes}");
}

/// With two addresses there are moments when one of them has taken a step that the other has not.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_every_two_writes_of_two_families() {
    let writes = killed_between_every_two("ipv4,ipv6").await;
    assert!(writes > 25, "the story has more writes than {writes}");
}

/// Every call of the cloud fails once, in each of the ways a cloud fails: the story still ends well.
#[tokio::test(flavor = "multi_thread")]
async fn refused_at_every_call_of_the_cloud() {
    refused_at_every_call("ipv4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_at_every_call_of_the_cloud_for_two_families() {
    refused_at_every_call("ipv4,ipv6").await;
}

async fn refused_at_every_call(families: &str) {
    let kinds = [
        FaultKind::Throttle,
        FaultKind::Http500,
        FaultKind::TimeoutAfterSuccess,
        FaultKind::TornAnswer,
        FaultKind::StaleDescribe(Duration::from_millis(40)),
        FaultKind::PartialBatch,
        FaultKind::Error { code: "UnauthorizedOperation".into(), message: "not now".into() },
        FaultKind::Error {
            code: "LimitExceeded.NetworkInterfaceLimitExceeded".into(),
            message: "quota".into(),
        },
    ];
    for kind in kinds {
        let mut nth = 1;
        while refused_at(families, nth, &kind).await {
            nth += 1;
        }
        println!("{families}: {kind:?}: at each of {} calls", nth - 1);
        assert!(nth > 8, "the story has more calls than {}", nth - 1);
    }
}

/// Runs the story with one fault. `false` when the story has fewer calls.
async fn refused_at(families: &str, nth: u64, kind: &FaultKind) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    plane.cloud.faults().add(None, When::Nth(nth), kind.clone());
    plane.start_controller_with(config(families), None).unwrap();
    story(&plane).await.unwrap_or_else(|error| panic!("{kind:?} at call {nth}: {error:#}"));
    plane.cloud.calls().len() as u64 >= nth
}

/// The moments of a start in which caches fill: many starts, so that each is met.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_starts_beside_a_write_goes_on() {
    for _ in 0..60 {
        killed_after("ipv4,ipv6", 3).await;
    }
}

/// What the cloud refuses leaves its place on the ENI to another address.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_somebody_else_has_cost_no_eni() {
    const PODS: usize = 9;
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    // Three of four.
    for last in (16..250).filter(|last| last % 4 != 0) {
        plane.cloud.take_address(Ipv4Addr::new(10, 0, 1, last));
    }
    plane.start_controller(None).unwrap();
    let names: Vec<String> = (0..PODS).map(|n| format!("pod-{n}")).collect();
    let pods = names.iter().map(|name| plane.pod(name, "node-a", false));
    try_join_all(pods).await.unwrap();
    let calls = plane.cloud.calls();
    let count = |action| calls.iter().filter(|call| call.action == action).count();
    assert!(count("AssignPrivateIpAddresses") > PODS, "no address was refused");
    let made = |call: &&Call| call.action == "CreateNetworkInterface" && call.outcome == "OK";
    assert_eq!(calls.iter().filter(made).count(), 1);
}

/// A kubelet hands the runtime the UID that a static pod has in its file, not that of the copy in the API.
#[tokio::test(flavor = "multi_thread")]
async fn the_copy_of_a_static_pod_is_bound_to_by_the_uid_that_its_runtime_knows() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    plane.start_controller(None).unwrap();
    let copy = made(&plane, json!({ "kubernetes.io/config.mirror": "hash" }), false).await;
    assert_ne!(copy.uid().as_deref(), Some("hash"));
    let address = plane.bound(&copy).await.unwrap();
    let ip: VpcIP = Api::all(plane.client.clone()).get(&address).await.unwrap();
    assert_eq!(ip.state().pod_uid.as_deref(), Some("hash"));
    plane.end_pod("web-0", &address).await.unwrap();
    plane.settled().await.unwrap();
}

/// The address of a static pod goes on being kept when a pod of its name is on the host's network.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_gets_no_kept_address() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    plane.start_controller(None).unwrap();
    let address = plane.pod("web-0", "node-a", true).await.unwrap();
    plane.end_pod("web-0", &address).await.unwrap();
    made(&plane, json!({}), true).await;
    // Much longer than a binding takes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ip: VpcIP = Api::all(plane.client.clone()).get(&address).await.unwrap();
    assert_eq!(ip.state().phase, IpPhase::Retained);
}

/// Pod `web-0` on node-a.
async fn made(plane: &ControlPlane, annotations: serde_json::Value, host_network: bool) -> Pod {
    let pod = json!({
        "metadata": { "name": "web-0", "annotations": annotations },
        "spec": {
            "nodeName": "node-a", "hostNetwork": host_network, "containers": [{ "name": "main", "image": "none" }],
        },
    });
    let pods = Api::<Pod>::default_namespaced(plane.client.clone());
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
}
