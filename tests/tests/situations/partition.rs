//! S3: a node that is cut off from the API while others are not, and claims that do not wait for it.

use std::time::Duration;

use ipam_agent::api::IpPhase;
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::control_plane::ControlPlane;
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::tools::*;

const OPTIMISTIC: (&str, &str) = ("eni-ipam.dev/fencing", "Optimistic");
const PING: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// Two nodes; node-a gives way after two seconds when node-b still hears the API.
async fn cluster(test: &str) -> Cluster {
    let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24");
    let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
    let builder = builder.agent_args(&["--metrics-address", "0.0.0.0:9470"]);
    let mut cluster = builder.controller_args(&["--takeover-after", "1s"]).start().await.unwrap();
    let witness = format!("http://{}:9470/metrics", cluster.node("node-b").machine().ip());
    let node = cluster.node_mut("node-a");
    node.add_args(&["--self-fence-after", "2s", "--fence-witness", &witness]);
    node.restart_agent().await.unwrap();
    cluster
}

/// Cuts node-a off from the API, and from nothing else; or mends that.
fn api_of_node_a(cluster: &Cluster, there: bool) {
    let api = format!("{}/32", cluster.lab.ctl().ip());
    let verb = if there { "del" } else { "add" };
    let mut command = cluster.node("node-a").machine().command("ip");
    assert!(command.args(["route", verb, "blackhole", &api]).status().unwrap().success());
}

fn reaches(from: &RunningPod, to: &RunningPod, patience: Duration) -> bool {
    ping(from.sandbox.ns(), to.ip(), patience).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_node_without_the_api_gives_up_what_may_be_taken_over_if_others_have_it() {
    let mut cluster = cluster("s03_self_fence").await;
    let optimistic = cluster.run_pod("opt-0", "node-a", &[STATIC, OPTIMISTIC]).await.unwrap();
    let strict = cluster.run_pod("strict-0", "node-a", &[STATIC]).await.unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    let there = cluster.run_pod("there", "node-b", &[]).await.unwrap();

    // Away for all: nobody can take anything over.
    without_api(&mut cluster).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for pod in [&optimistic, &strict] {
        assert!(reaches(&there, pod, PING) && reaches(&beside, pod, PING), "{}", pod.sandbox.name);
    }
    api_returns(&mut cluster).await;
    eventually("node-b to hear the API", async || {
        let metrics = cluster.node("node-a").machine().command("curl");
        curl(metrics, &format!("http://{}:9470/metrics", cluster.node("node-b").machine().ip()))
            .contains("eni_ipam_api_reachable{} 1")
    })
    .await
    .unwrap();

    // Away for this node.
    api_of_node_a(&cluster, false);
    eventually("the optimistic pod to be cut", async || {
        !reaches(&there, &optimistic, SHORT) && !reaches(&beside, &optimistic, SHORT)
    })
    .await
    .unwrap();
    assert!(reaches(&there, &strict, PING) && reaches(&beside, &strict, PING), "a strict one goes on");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!reaches(&beside, &optimistic, SHORT), "the repair leaves it alone");

    // Nothing has happened to its address: it comes back.
    api_of_node_a(&cluster, true);
    eventually("the pod to be connected again", async || {
        reaches(&there, &optimistic, SHORT) && reaches(&beside, &optimistic, SHORT)
    })
    .await
    .unwrap();
    optimistic.check().await.unwrap();
}

/// Takes a pod over from a silent node, lets the node be heard again, which the controller `sees` or not, and then be silent
/// again.
async fn silent_twice(sees: bool) {
    let (plane, _dir) = plane().await;
    let takeover_after = Duration::from_secs(3);
    plane.start_controller_with(ControllerConfig { takeover_after, ..ControlPlane::config() }, None).unwrap();
    let client = &plane.client;
    let rules = [STATIC, OPTIMISTIC];
    let mut ips = Vec::new();
    for name in ["first-0", "second-0"] {
        ips.push(bound(client, &create_pod(client, name, "node-a", &rules).await).await);
    }
    plane.silence_agents();
    let ready = async |status: &str, since: Option<&str>| {
        let ready = json!({ "type": "Ready", "status": status, "lastTransitionTime": since });
        let patch = Patch::Merge(json!({ "status": { "conditions": [ready] } }));
        let nodes = Api::<Node>::all(client.clone());
        nodes.patch_status("node-a", &PatchParams::default(), &patch).await.unwrap();
    };
    let moves = async |name: &str, ip: &str| {
        delete_pod(client, name).await;
        in_phase(client, ip, IpPhase::Detaching).await;
        let pod = create_pod(client, name, "node-b", &rules).await;
        still_waits("the pod", bound(client, &pod), 500).await;
        assert_eq!(bound(client, &pod).await, ip);
    };
    ready("Unknown", (!sees).then_some("2026-01-01T00:00:00Z")).await;
    moves("first-0", &ips[0]).await;
    if sees {
        ready("True", None).await;
        tokio::time::sleep(takeover_after).await;
    }
    ready("Unknown", (!sees).then_some("2026-01-01T01:00:00Z")).await;
    moves("second-0", &ips[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_node_that_was_heard_meanwhile_has_the_whole_time_again() {
    silent_twice(true).await;
    silent_twice(false).await;
}

fn curl(mut command: std::process::Command, url: &str) -> String {
    let output = command.args(["--silent", "--noproxy", "*", "--max-time", "2", url]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_an_optimistic_claim_is_taken_over_from_a_silent_node() {
    let cluster = cluster("s03_optimistic").await;
    let old = cluster.run_pod("opt-0", "node-a", &[STATIC, OPTIMISTIC]).await.unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    let strict = cluster.run_pod("strict-0", "node-a", &[STATIC]).await.unwrap();
    api_of_node_a(&cluster, false);
    for name in ["opt-0", "strict-0"] {
        cluster.delete_pod_object(name).await.unwrap();
    }
    let new = cluster.create_pod("opt-0", "node-b", &[STATIC, OPTIMISTIC]).await.unwrap();
    let new_strict = cluster.create_pod("strict-0", "node-b", &[STATIC]).await.unwrap();
    // As long as its kubelet is heard, the node is not silent.
    reason(&cluster.client, "opt-0", "WaitingForDetach").await;
    still_waits("the pod", bound(&cluster.client, &new), 2500).await;
    let unknown = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown" },
    ] } });
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.patch_status("node-a", &PatchParams::default(), &Patch::Merge(unknown)).await.unwrap();
    let second = cluster.add_sandbox(&new, "node-b").await.unwrap();
    assert_eq!(second.ip(), old.ip());
    ping(cluster.lab.ctl().ns(), second.ip(), PING).unwrap();
    still_waits("the strict one", bound(&cluster.client, &new_strict), 500).await;
    ping(cluster.lab.ctl().ns(), strict.ip(), PING).expect("and has its network");
    // The node hears of it in time.
    api_of_node_a(&cluster, true);
    eventually("node-a to lead the address to its new holder", async || {
        reaches(&second, &beside, SHORT) && reaches(&beside, &second, SHORT)
    })
    .await
    .unwrap();
    strict.del().await.unwrap();
    assert_eq!(bound(&cluster.client, &new_strict).await, strict.ip().to_string());
}
