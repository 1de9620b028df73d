//! Agents that are killed: under traffic, and at every step of an ADD and a DEL.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam_agent::dataplane::Hook;
use ipam_agent::node::CRASH_POINTS;
use ipam_lab::cluster::{Cluster, ClusterNode, RunningPod, eventually};
use ipam_lab::lab::traffic::{UdpStream, ping};
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
async fn a_killed_agent_loses_no_packet_at_5000_a_second() {
    let mut cluster = Cluster::two_nodes("restart").await.unwrap();
    let a = cluster.run_pod("a-0", "node-a", &[STATIC]).await.unwrap();
    let b = cluster.run_pod("b-0", "node-b", &[STATIC]).await.unwrap();
    let local = cluster.run_pod("a-1", "node-a", &[]).await.unwrap();
    let before = cluster.node("node-a").dump("POD_ROUTES_V4").unwrap();
    let streams = [
        (
            "across nodes",
            UdpStream::start(b.sandbox.ns(), a.sandbox.ns(), (a.ip(), 7001).into(), 5000).unwrap(),
        ),
        (
            "on one node",
            UdpStream::start(local.sandbox.ns(), a.sandbox.ns(), (a.ip(), 7002).into(), 5000).unwrap(),
        ),
    ];
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.node_mut("node-a").restart_agent().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    for (name, stream) in streams {
        let report = stream.stop().unwrap();
        println!("{name}, agent killed three times: {report}");
        assert_eq!(report.lost, 0, "{name}: {report}");
        assert!(report.sent > 5000, "{name}: {report}");
    }
    let node = cluster.node("node-a");
    assert_eq!(node.dump("POD_ROUTES_V4").unwrap(), before, "the map has changed");
    // One ENI and two pods; the primary ENI has a program for what leaves.
    for (hook, wanted) in [
        (Hook::Ingress, [vec!["from_eni"], vec!["from_pod"], vec!["from_pod"]].to_vec()),
        (Hook::Egress, [vec!["to_eni"], vec!["to_eni"], vec!["to_pod"], vec!["to_pod"]].to_vec()),
    ] {
        let mut programs: Vec<Vec<String>> = node.tcx_programs(hook).unwrap().into_values().collect();
        programs.sort();
        assert_eq!(programs, wanted, "one program on each hook: {hook:?}");
    }
    for pod in [&a, &local] {
        pod.check().await.unwrap();
    }
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
        let sandbox = cluster.sandbox(&pod, "node-a").unwrap();
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
