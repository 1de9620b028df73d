//! No second holder before the first is fenced: pods that move, nodes that are lost and come back.

use std::time::Duration;

use ipam_agent::api::{IpPhase, VpcIPClaim};
use ipam_lab::cluster::{Cluster, ClusterNode, RunningPod, eventually};
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::tools::*;

const PING: Duration = Duration::from_secs(2);

/// A static pod runs on node-a; its object is replaced by one on node-b, though nobody took its sandbox down.
async fn torn_apart(cluster: &Cluster) -> (RunningPod, Pod) {
    let old = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    let new = cluster.create_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    let message = reason(&cluster.client, "web-0", "WaitingForDetach").await;
    let year = jiff::Timestamp::now().to_string()[..4].to_owned();
    assert!(message.contains("node node-a") && message.contains(&format!("since {year}-")), "{message}");
    (old, new)
}

/// ADD on node-b, and a ping to where the address was before.
async fn arrives(cluster: &Cluster, pod: &Pod, ip: std::net::Ipv4Addr) -> RunningPod {
    let new = cluster.add_sandbox(pod, "node-b").await.unwrap();
    assert_eq!(new.ip(), ip);
    ping(cluster.lab.ctl().ns(), ip, PING).unwrap();
    assert_eq!(address(&cluster.client, &ip.to_string()).await.unwrap().epoch, 2);
    new
}

fn set_link(cluster: &Cluster, node: &str, state: &str) {
    let mut command = cluster.node(node).machine().command("ip");
    assert!(command.args(["link", "set", "eth0", state]).status().unwrap().success());
    if state == "up" {
        let gateway = cluster.node(node).machine().subnet().gateway.to_string();
        let mut command = cluster.node(node).machine().command("ip");
        assert!(command.args(["route", "replace", "default", "via", &gateway]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_a_pod_that_moved_waits_until_its_former_node_has_let_go() {
    let cluster = Cluster::two_nodes("s02").await.unwrap();
    let (old, new) = torn_apart(&cluster).await;
    let sandbox = cluster.sandbox(&new, "node-b").await.unwrap();
    let adding = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.add().await }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!adding.is_finished(), "ADD did not wait for the former holder");
    ping(cluster.lab.ctl().ns(), old.ip(), PING).expect("the former holder has its network until its DEL");
    old.del().await.unwrap();
    adding.await.unwrap().unwrap();
    assert_eq!(sandbox.ip(), old.ip());
    ping(cluster.lab.ctl().ns(), old.ip(), PING).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_lost_node_is_waited_for_until_it_is_declared_out_of_service() {
    let cluster = Cluster::two_nodes("s03").await.unwrap();
    let neighbour = cluster.run_pod("neighbour", "node-a", &[]).await.unwrap();
    let first = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    set_link(&cluster, "node-a", "down");
    cluster.delete_pod_object("web-0").await.unwrap();
    let new = cluster.create_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    let message = reason(&cluster.client, "web-0", "WaitingForDetach").await;
    assert!(message.contains("node-a") && message.contains("node.kubernetes.io/out-of-service"), "{message}");
    still_waits("the pod", bound(&cluster.client, &new), 700).await;
    let taint = json!({ "spec": { "taints": [
        { "key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute" },
    ] } });
    let nodes = Api::<Node>::all(cluster.client.clone());
    nodes.patch("node-a", &PatchParams::default(), &Patch::Merge(taint)).await.unwrap();
    let second = arrives(&cluster, &new, first.ip()).await;
    // The node was not dead after all: when it hears what has happened, it gives the old sandbox up.
    set_link(&cluster, "node-a", "up");
    eventually("node-a to lead the address to its new holder", async || {
        ping(second.sandbox.ns(), neighbour.ip(), Duration::from_millis(300)).is_ok()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_a_deleted_node_is_fenced_and_its_static_address_goes_on() {
    let cluster = Cluster::two_nodes("s21_deleted").await.unwrap();
    set_link(&cluster, "node-a", "down");
    set_link(&cluster, "node-a", "up");
    let (old, new) = torn_apart(&cluster).await;
    Api::<Node>::all(cluster.client.clone()).delete("node-a", &DeleteParams::default()).await.unwrap();
    arrives(&cluster, &new, old.ip()).await;
}

/// What a reboot ends: pods' interfaces, maps, and the journal.
fn lose_everything(node: &ClusterNode) {
    let machine = node.machine();
    for left in node.leftovers().unwrap() {
        if let Some(link) = left.strip_prefix("interface ") {
            let deleted = machine.command("ip").args(["link", "del", link]).status().unwrap();
            assert!(deleted.success(), "{left}");
        }
    }
    std::fs::remove_dir_all(machine.bpffs_dir()).unwrap();
    std::fs::remove_file(machine.journal()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s21_a_node_made_anew_under_its_name_holds_nothing() {
    let mut cluster = Cluster::two_nodes("s21_anew").await.unwrap();
    let old = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let ip = old.ip();
    let node = cluster.node_mut("node-a");
    node.agent().kill9().unwrap();
    lose_everything(node);
    node.start_agent(&[]).unwrap();
    node.wait_until_served().await.unwrap();
    node.wait_until_clean().await.unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    in_phase(&cluster.client, &ip.to_string(), IpPhase::Retained).await;
    let new = cluster.create_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    arrives(&cluster, &new, ip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_a_claim_deleted_under_a_live_pod_waits_unless_forced_by_the_pods_uid() {
    let cluster = Cluster::two_nodes("s07").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let sandbox = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    let ip = sandbox.ip().to_string();
    let claims = cluster.api::<VpcIPClaim>();
    claims.delete("web-0", &DeleteParams::default()).await.unwrap();
    reason(&cluster.client, "web-0", "PodIsAlive").await;
    let force = async |uid: &str| {
        let annotation = json!({ "metadata": { "annotations": { "eni-ipam.dev/force-release": uid } } });
        claims.patch("web-0", &PatchParams::default(), &Patch::Merge(annotation)).await.unwrap();
    };
    force("another-uid").await;
    still_waits("the address", in_phase(&cluster.client, &ip, IpPhase::Cooldown), 700).await;
    ping(cluster.lab.ctl().ns(), sandbox.ip(), PING).expect("the pod keeps its network");
    force(pod.metadata.uid.as_deref().unwrap()).await;
    free(&cluster.client, &ip).await;
    cluster.node("node-a").wait_until_clean().await.expect("the pod is disconnected");
    sandbox.del().await.unwrap();
}
