//! Agents that are killed at every step of an ADD and a DEL.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam_agent::node::CRASH_POINTS;
use ipam_lab::cluster::{Cluster, ClusterNode, RunningPod, eventually};
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;

const PING: Duration = Duration::from_secs(2);

fn reaches(from: &RunningPod, to: &RunningPod) {
    ping(from.sandbox.ns(), to.ip(), PING)
        .unwrap_or_else(|error| panic!("{} → {}: {error:#}", from.ip(), to.ip()));
}

/// Interfaces go after the answer to DEL, so this waits.
async fn only_these_are_left(node: &ClusterNode, clean: &BTreeSet<String>, point: &str) {
    let mut left = BTreeSet::new();
    eventually("what the victim had to be gone", async || {
        left = node.leftovers().into_iter().flatten().collect();
        left == *clean
    })
    .await
    .unwrap_or_else(|error| panic!("{point}: {error:#}: {left:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_add() {
    let mut cluster = Cluster::two_nodes("killed_add").await.unwrap();
    let witness = cluster.run_pod("witness", "node-a", &[]).await.unwrap();
    let clean: BTreeSet<String> = cluster.node("node-a").leftovers().unwrap().into_iter().collect();
    for point in CRASH_POINTS.iter().filter(|point| point.starts_with("node-add")) {
        let node = cluster.node_mut("node-a");
        node.agent().kill9().unwrap();
        node.start_agent(&[("FAILPOINTS", &format!("{point}=return"))]).unwrap();
        node.wait_until_served().await.unwrap();

        let pod = cluster.create_pod("victim", "node-a", &[STATIC]).await.unwrap();
        let sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
        let error = sandbox.add().await.expect_err("the agent was killed");
        let node = cluster.node_mut("node-a");
        node.agent()
            .wait(Duration::from_secs(5))
            .unwrap_or_else(|_| panic!("not killed at {point}: {error:#}"));
        node.start_agent(&[]).unwrap();
        node.wait_until_served().await.unwrap();

        // What a runtime does next: take the sandbox down, make another.
        sandbox.del().await.unwrap_or_else(|error| panic!("{point}: DEL: {error:#}"));
        let again =
            cluster.add_sandbox(&pod, "node-a").await.unwrap_or_else(|error| panic!("{point}: {error:#}"));
        reaches(&again, &witness);
        cluster.end_pod(again).await.unwrap();
        only_these_are_left(cluster.node("node-a"), &clean, point).await;
    }
    reaches(&cluster.run_pod("last", "node-b", &[]).await.unwrap(), &witness);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_del() {
    let mut cluster = Cluster::two_nodes("killed_del").await.unwrap();
    let witness = cluster.run_pod("witness", "node-a", &[]).await.unwrap();
    let clean: BTreeSet<String> = cluster.node("node-a").leftovers().unwrap().into_iter().collect();
    for point in CRASH_POINTS.iter().filter(|point| point.starts_with("node-del")) {
        let victim = cluster.run_pod("victim", "node-a", &[STATIC]).await.unwrap();
        let node = cluster.node_mut("node-a");
        node.agent().kill9().unwrap();
        node.start_agent(&[("FAILPOINTS", &format!("{point}=return"))]).unwrap();
        node.wait_until_served().await.unwrap();
        // Steps off the path come after the answer: then DEL succeeds.
        let _ = victim.del().await;
        let node = cluster.node_mut("node-a");
        node.agent().wait(Duration::from_secs(5)).unwrap_or_else(|_| panic!("not killed at {point}"));
        node.start_agent(&[]).unwrap();
        node.wait_until_served().await.unwrap();
        cluster.end_pod(victim).await.unwrap_or_else(|error| panic!("{point}: {error:#}"));
        only_these_are_left(cluster.node("node-a"), &clean, point).await;
    }
    reaches(&cluster.run_pod("last", "node-b", &[]).await.unwrap(), &witness);
}
