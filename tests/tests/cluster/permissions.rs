//! Permissions that are missing.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam_lab::cluster::{Cluster, eventually};

use crate::site::{Site, overlays};

/// The permissions that a log calls missing, in the order of the lines.
fn missing(log: &str) -> Vec<String> {
    let named = log.lines().filter_map(|line| line.split_once("missing permission: "));
    named.map(|(_, rest)| rest.split(';').next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn a_missing_permission_is_named_once_and_not_needed_twice() {
    let site = Site::installed().await.expect("a server");
    let mut cluster = Cluster::builder("permissions")
        .subnet("subnet-a", "zone-1", "10.0.1.0/24")
        .node("node-a", "zone-1")
        .api(site.api)
        .start()
        .await
        .expect("a cluster");
    site.api.kubectl(&["delete", "clusterrolebinding", "eni-ipam-node"]).expect("deletes");
    cluster.node_mut("node-a").agent().kill9().expect("ends");
    cluster.node_mut("node-a").start_agent(&[]).expect("starts");
    let mut told = Vec::new();
    eventually("the agent to name what it misses", async || {
        told = missing(&cluster.node_mut("node-a").agent().log());
        told.iter().any(|permission| permission.contains("vpcips"))
    })
    .await
    .expect("a word");
    // Longer than the first pauses between tries.
    tokio::time::sleep(Duration::from_secs(6)).await;
    told = missing(&cluster.node_mut("node-a").agent().log());
    let distinct: BTreeSet<_> = told.iter().collect();
    assert_eq!(distinct.len(), told.len(), "named again: {told:?}");

    let rbac = overlays().join("../base/node-rbac.yaml").display().to_string();
    site.api.kubectl(&["apply", "-f", &rbac]).expect("applies");
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.expect("goes on by itself");
    cluster.end_pod(pod).await.expect("ends");
}
