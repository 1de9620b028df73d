//! How many writes to the API a pod costs, counted where they leave the controller and the agents.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipam_agent::api::IpPhase;
use ipam_lab::cluster::{Cluster, RunningPod};
use ipam_lab::scrape::Scrape;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::tools::*;

const NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);
const CONTROLLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9471);
/// Longer than anything waits that would be written later.
const QUIET: Duration = Duration::from_millis(2500);

/// Every write so far as `who METHOD resource code`, with how many. Not counted are events, the lease, what is said of a node
/// (how many more pods it can take), and what the API refused because a cache was behind: how often that happens is the machine's
/// matter.
fn writes(cluster: &Cluster) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let controller = ("controller", Scrape::from(cluster.lab.ctl().ns(), CONTROLLER).unwrap());
    let agents = ["node-a", "node-b"]
        .map(|node| (node, Scrape::from(cluster.node(node).machine().ns(), NODE).unwrap()));
    for (who, scrape) in std::iter::once(controller).chain(agents) {
        for sample in scrape.families.get("eni_ipam_api_writes").map_or(&[][..], |family| &family.samples) {
            let label = |name: &str| sample.labels[name].as_str();
            let apart = ["events", "leases"].contains(&label("resource"));
            let of_a_pod = !apart && !label("resource").starts_with("nodes");
            if of_a_pod && label("code") != "409" {
                let what = format!("{who} {} {} {}", label("method"), label("resource"), label("code"));
                all.push((what, sample.value as u64));
            }
        }
    }
    all
}

/// Waits until nothing has been written for a while.
async fn quiet(cluster: &Cluster) -> Vec<(String, u64)> {
    let (mut last, mut since) = (writes(cluster), Instant::now());
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = writes(cluster);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Does something, and fails when it costs more writes than allowed.
async fn costs<T>(cluster: &Cluster, what: &str, at_most: u64, work: impl Future<Output = T>) -> T {
    let before = quiet(cluster).await;
    let outcome = work.await;
    let after = quiet(cluster).await;
    let earlier = |what: &str| before.iter().find(|(known, _)| known == what).map_or(0, |(_, count)| *count);
    let new: Vec<(String, u64)> = after
        .into_iter()
        .map(|(what, count)| (what.clone(), count - earlier(&what)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let sum: u64 = new.iter().map(|(_, count)| count).sum();
    println!("{what}: {sum} writes {new:?}");
    assert!(sum <= at_most, "{what}: {sum} writes, at most {at_most}: {new:?}");
    outcome
}

/// A pod that, as a kubelet's, is there until its kubelet lets it go.
async fn start(cluster: &Cluster, name: &str, node: &str, annotations: &[(&str, &str)]) -> RunningPod {
    let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": annotations, "finalizers": ["lab.test/kubelet"] },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap();
    let pod = cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let sandbox = cluster.add_sandbox(&pod, node).await.unwrap();
    bound(&cluster.client, &pod).await;
    sandbox
}

/// Deletion is asked for, the sandbox goes, and then the object.
async fn end(cluster: &Cluster, pod: RunningPod) {
    let name = pod.sandbox.name.clone();
    cluster.pods().delete(&name, &DeleteParams::default()).await.unwrap();
    pod.del().await.unwrap();
    // A kubelet takes longer than this for volumes and cgroups.
    let ip = pod.ip().to_string();
    let left = ipam_lab::cluster::eventually("the address to have left its node", async || {
        address(&cluster.client, &ip).await.is_none_or(|status| status.phase != IpPhase::Bound)
    });
    left.await.unwrap();
    let let_go = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    cluster.pods().patch(&name, &PatchParams::default(), &let_go).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_costs_a_handful_of_writes_and_idling_none() {
    // With the election, as it is deployed. In so large a subnet nobody picks an address of the lab's machines, which would
    // be set aside and cost two writes.
    let cluster = Cluster::builder("budget")
        .subnet("subnet-a", "zone-1", "10.0.128.0/17")
        .node("node-a", "zone-1")
        .node("node-b", "zone-1")
        .controller_args(&["--leader-elect"])
        .start()
        .await
        .unwrap();
    // Each node has its ENI from here on.
    let _others =
        (start(&cluster, "other-a", "node-a", &[]).await, start(&cluster, "other-b", "node-b", &[]).await);

    let web = costs(&cluster, "a new static pod", 4, start(&cluster, "web-0", "node-a", &[STATIC])).await;
    costs(&cluster, "its deletion", 2, end(&cluster, web)).await;
    let web = costs(&cluster, "its return", 2, start(&cluster, "web-0", "node-a", &[STATIC])).await;
    costs(&cluster, "its deletion once more", 2, end(&cluster, web)).await;
    let web = costs(&cluster, "its return elsewhere", 2, start(&cluster, "web-0", "node-b", &[STATIC])).await;

    let job = costs(&cluster, "a new plain pod", 4, start(&cluster, "job-0", "node-a", &[])).await;
    // The node's word, the release with its time, and three for two objects and a finalizer.
    costs(&cluster, "its deletion", 5, end(&cluster, job)).await;
    costs(&cluster, "nothing", 0, tokio::time::sleep(Duration::from_secs(3))).await;
    drop(web);
}
