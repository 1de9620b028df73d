//! What a runtime does to sandboxes, with and without the API.

use std::time::{Duration, Instant};

use ipam_agent::api::IpPhase;
use ipam_cni::error::code;
use ipam_lab::cluster::Cluster;
use ipam_lab::lab::pod::LabPod;
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;

use crate::tools::*;

const PING: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn s01_a_restart_on_the_same_node_keeps_the_address_without_the_cloud_and_without_the_api() {
    let mut cluster = Cluster::two_nodes("s01").await.unwrap();
    let first = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let ip = first.ip();
    cluster.end_pod(first).await.unwrap();
    in_phase(&cluster.client, &ip.to_string(), IpPhase::Retained).await;
    let moves = |cluster: &Cluster| {
        let calls = cluster.cloud.calls();
        calls.iter().filter(|call| call.action.contains("PrivateIpAddresses")).count()
    };
    let before = moves(&cluster);
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let second = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    assert_eq!(second.ip(), ip);
    assert_eq!(moves(&cluster), before, "the address was on its ENI all the time");
    // The sandbox is made anew while the API is away: the agent knows the binding.
    without_api(&mut cluster).await;
    second.del().await.unwrap();
    let third = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    assert_eq!(third.ip(), ip);
    ping(cluster.lab.ctl().ns(), ip, PING).unwrap();
    api_returns(&mut cluster).await;
    assert_eq!(address(&cluster.client, &ip.to_string()).await.unwrap().epoch, 2, "one bind per pod");
    third.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s09_without_the_api_a_new_pod_is_refused_for_now_with_the_reason() {
    let mut cluster = Cluster::two_nodes("s09").await.unwrap();
    let running = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    cluster.controller().kill9().unwrap();
    let mut pod = running.sandbox.name.clone();
    pod.push_str("-new");
    let object: k8s_openapi::api::core::v1::Pod =
        serde_json::from_value(serde_json::json!({ "metadata": { "name": pod, "uid": "new" } })).unwrap();
    let sandbox = cluster.sandbox(&object, "node-a").await.unwrap();
    let start = Instant::now();
    let outcome = sandbox.outcome(LabPod::add).await.unwrap();
    let error = outcome.error().expect("no address can be given");
    assert_eq!(error.code, code::TRY_AGAIN_LATER, "{}", outcome.stdout);
    assert!(error.details.contains("API cannot be asked"), "{}", outcome.stdout);
    assert!(start.elapsed() < Duration::from_secs(20), "it fails fast: {:?}", start.elapsed());
    ping(cluster.lab.ctl().ns(), running.ip(), PING).expect("running pods have their network");
    running.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_del_without_the_api_succeeds_and_is_told_later() {
    let mut cluster = Cluster::two_nodes("s10").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let ip = pod.ip().to_string();
    without_api(&mut cluster).await;
    pod.del().await.unwrap();
    cluster.node("node-a").wait_until_clean().await.unwrap();
    // Also the agent dies before it could tell anyone.
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    api_returns(&mut cluster).await;
    cluster.delete_pod_object("web-0").await.unwrap();
    in_phase(&cluster.client, &ip, IpPhase::Retained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_a_del_that_comes_late_does_not_touch_the_new_pod() {
    let cluster = Cluster::two_nodes("s17").await.unwrap();
    let old = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    old.del().await.unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    let new = cluster.run_pod("web-0b", "node-a", &[]).await.unwrap();
    let again = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let again = cluster.add_sandbox(&again, "node-a").await.unwrap();
    assert_eq!(again.ip(), old.ip());
    for _ in 0..2 {
        old.del().await.unwrap();
    }
    let status = address(&cluster.client, &again.ip().to_string()).await.unwrap();
    assert_eq!((status.phase, status.epoch), (IpPhase::Bound, 2));
    again.check().await.unwrap();
    ping(new.sandbox.ns(), again.ip(), PING).unwrap();
}
