//! The API is away, and the agent was started anew: what its journal knows goes on.

use std::time::{Duration, Instant};

use ipam_agent::api::IpPhase;
use ipam_cni::error::{CniError, code};
use ipam_lab::cluster::Cluster;
use ipam_lab::lab::pod::LabPod;
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::tools::*;

const PING: Duration = Duration::from_secs(2);

fn pod_of(name: &str, uid: &str) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": name, "uid": uid } })).unwrap()
}

/// ADD for a sandbox of a pod on node-a, which must be refused.
async fn refused(cluster: &Cluster, pod: &Pod) -> CniError {
    let outcome = cluster.sandbox(pod, "node-a").await.unwrap().outcome(LabPod::add).await.unwrap();
    let error = outcome.error().unwrap_or_else(|| panic!("served: {}", outcome.stdout));
    assert_eq!(error.code, code::TRY_AGAIN_LATER, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_an_agent_started_without_the_api_serves_the_pods_that_it_was_told_of() {
    let mut cluster = Cluster::two_nodes("s01_offline").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let first = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    let neighbour = cluster.run_pod("neighbour", "node-b", &[]).await.unwrap();
    // Bound and known to the node, but its first sandbox is still to come.
    let late = cluster.create_pod("late", "node-a", &[STATIC]).await.unwrap();
    let late_ip = bound(&cluster.client, &late).await;
    // An ADD after it has taken what is known of it to the disk.
    let third = cluster.run_pod("third", "node-a", &[]).await.unwrap();

    without_api(&mut cluster).await;
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    status(&first).ok().expect("known pods can be served");
    first.del().await.unwrap();
    let start = Instant::now();
    let second = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(second.ip(), first.ip());
    let late = cluster.add_sandbox(&late, "node-a").await.unwrap();
    assert_eq!(late.ip().to_string(), late_ip);
    for pod in [&second, &late] {
        ping(neighbour.sandbox.ns(), pod.ip(), PING).unwrap();
        ping(third.sandbox.ns(), pod.ip(), PING).unwrap();
        pod.check().await.unwrap();
    }

    // Who the node was not told of waits for the API, and is told so soon.
    let start = Instant::now();
    let error = refused(&cluster, &pod_of("web-0", "its successor")).await;
    assert!(error.details.contains("another pod of this name"), "{error}");
    let error = refused(&cluster, &pod_of("stranger", "uid")).await;
    assert!(error.details.contains("no address is bound to it on node node-a"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());

    api_returns(&mut cluster).await;
    assert_eq!(address(&cluster.client, &late_ip).await.unwrap().epoch, 1, "nothing has happened to it");
    cluster.end_pod(second).await.unwrap();
    in_phase(&cluster.client, &first.ip().to_string(), IpPhase::Retained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_what_the_node_has_let_go_it_does_not_serve_again_without_the_api() {
    let mut cluster = Cluster::two_nodes("s03_let_go").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let sandbox = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    let ip = sandbox.ip().to_string();
    cluster.end_pod(sandbox).await.unwrap();
    in_phase(&cluster.client, &ip, IpPhase::Retained).await;
    without_api(&mut cluster).await;
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    let error = refused(&cluster, &pod).await;
    assert!(error.details.contains("no address is bound to it"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_the_last_word_of_the_api_counts_only_for_a_while() {
    let builder = Cluster::builder("s03_while").subnet("subnet-a", "zone-1", "10.0.1.0/24");
    let builder = builder.node("node-a", "zone-1").agent_args(&["--serve-offline-for", "1s"]);
    let mut cluster = builder.start().await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let first = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    without_api(&mut cluster).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let error = refused(&cluster, &pod).await;
    assert!(error.details.contains("its word counts for 1 s"), "{error}");
    ping(cluster.lab.ctl().ns(), first.ip(), PING).expect("a pod that runs goes on");
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    let error = refused(&cluster, &pod).await;
    assert!(error.details.contains("its word counts for 1 s"), "{error}");
    assert_eq!(status(&first).error().unwrap().code, code::NOT_AVAILABLE);
    ping(cluster.lab.ctl().ns(), first.ip(), PING).expect("also past a restart of the agent");
}
