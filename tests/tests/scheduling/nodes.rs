//! Taint, condition and number of a node.

use std::net::IpAddr;
use std::time::Duration;

use ipam_agent::api::scheduling::{FOREIGN, NODE_LABEL, RESOURCE};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::cluster::eventually;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::site::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_closed_until_its_agent_is_ready_and_others_taints_stay() {
    let site = Site::new().await;
    let theirs = json!({ "spec": { "taints": [{ "key": "example.com/theirs", "effect": "NoExecute" }] } });
    site.nodes().patch("node-a", &PatchParams::default(), &Patch::Merge(theirs)).await.unwrap();
    let kubelets = json!({ "status": {
        "capacity": { "cpu": "4", "pods": "110" }, "allocatable": { "cpu": "3", "pods": "110" },
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    site.nodes().patch_status("node-a", &PatchParams::default(), &Patch::Merge(kubelets)).await.unwrap();
    site.plane.start_controller_with(config(), None).unwrap();
    let closed = |node: &_| is_tainted(node) && condition(node).is_some();
    let node = site.until("node-a", "closed", closed).await;
    assert_eq!(condition(&node).unwrap().status, "False");
    assert_eq!(reason(&node), "AgentNotReady");
    site.agent("node-a", false).await;
    site.until("node-b", "closed", is_tainted).await;

    site.agent("node-a", true).await;
    let node = site.until("node-a", "open", |node| !is_tainted(node)).await;
    assert_eq!(
        (condition(&node).unwrap().status.as_str(), reason(&node), number(&node)),
        ("True", "Ready", Some(2))
    );
    let taints: Vec<String> = node.spec.unwrap().taints.unwrap().into_iter().map(|taint| taint.key).collect();
    assert_eq!(taints, ["example.com/theirs"]);
    let status = node.status.unwrap();
    assert_eq!(status.conditions.unwrap().len(), 2);
    assert_eq!(status.allocatable.unwrap()["cpu"].0, "3");
    assert_eq!(status.capacity.unwrap()["cpu"].0, "4");
    assert!(is_tainted(&site.node("node-b").await), "the other one has no agent");

    // An agent that is being replaced closes nothing, and writes nothing.
    let before = site.node("node-a").await.resource_version();
    site.agent("node-a", false).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(site.node("node-a").await.resource_version(), before);
    site.agent("node-a", true).await;

    // What others take away comes back: a kubelet that registers anew sets extended resources to none.
    let gone = json!({ "status": { "capacity": { RESOURCE: null }, "allocatable": { RESOURCE: null } } });
    site.nodes().patch_status("node-a", &PatchParams::default(), &Patch::Merge(gone)).await.unwrap();
    site.until("node-a", "counted", |node| number(node) == Some(2)).await;
    let untainted = json!({ "spec": { "taints": null } });
    site.nodes().patch("node-b", &PatchParams::default(), &Patch::Merge(untainted)).await.unwrap();
    site.until("node-b", "closed again", is_tainted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_network_is_left_alone() {
    let site = Site::new().await;
    let labels = |labels: serde_json::Value| json!({ "metadata": { "labels": labels } });
    let windows = labels(json!({ "kubernetes.io/os": "windows" }));
    site.nodes().patch("node-b", &PatchParams::default(), &Patch::Merge(windows)).await.unwrap();
    let untouched = site.node("node-b").await.resource_version();
    site.plane.start_controller_with(config(), None).unwrap();
    site.until("node-a", "closed", is_tainted).await;
    assert_eq!(site.node("node-b").await.resource_version(), untouched);
    // Said later: what was written is taken back.
    let foreign = labels(json!({ NODE_LABEL: FOREIGN }));
    site.nodes().patch("node-a", &PatchParams::default(), &Patch::Merge(foreign)).await.unwrap();
    site.until("node-a", "left alone", |node| {
        !is_tainted(node) && condition(node).is_none() && number(node).is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_is_what_the_subnets_allow() {
    let site = Site::new().await;
    // Four addresses are left: one for an ENI, three for pods. The limits allow five.
    for last in 6..=254u8 {
        site.plane.cloud.take_address([10, 0, 1, last]);
    }
    let config = ControllerConfig { max_ips_per_eni: Some(5), ..config() };
    site.plane.start_controller_with(config, None).unwrap();
    site.agent("node-a", true).await;
    let node = site.until("node-a", "counted", |node| number(node) == Some(3) && !is_tainted(node)).await;
    assert_eq!(reason(&node), "SubnetExhausted");
    let message = condition(&node).unwrap().message.clone().unwrap();
    assert!(
        message.starts_with("3 pods can have an address, of 5 that the node's limits allow"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_follows_what_the_controller_itself_takes() {
    let site = Site::new().await;
    let cloud = &site.plane.cloud;
    let config = ControllerConfig { max_ips_per_eni: Some(5), min_enis: 1, ..config() };
    site.plane.start_controller_with(config, None).unwrap();
    site.agent("node-a", true).await;
    site.until("node-a", "counted", |node| number(node) == Some(5) && !is_tainted(node)).await;
    let enis = || cloud.snapshot().enis.iter().filter(|eni| !eni.primary).count();
    eventually("both nodes to have an ENI", async || enis() == 2).await.unwrap();

    // Somebody outside takes all but three addresses. Seen with the next look at the cloud, which the next pod causes once
    // the last look is too old to serve it (`controller/pool/subnets.rs`).
    let is_free = |ip: &[u8; 4]| cloud.snapshot().holder(IpAddr::from(*ip)).is_none();
    let addresses: Vec<[u8; 4]> = (2..=254).map(|last| [10, 0, 1, last]).filter(is_free).collect();
    let (left, theirs) = addresses.split_at(3);
    for ip in theirs {
        cloud.take_address(*ip);
    }
    tokio::time::sleep(Duration::from_secs(11)).await;

    // A pod that asked the scheduler for its address is counted by the scheduler; one that did not is counted here. The
    // look that gave it an address came before, when one more was free.
    site.nominated_pod("job-0", left[0]).await;
    let node = site.until("node-a", "counted with the pod", |node| number(node) == Some(2)).await;
    assert_eq!(reason(&node), "SubnetExhausted");
    let message = condition(&node).unwrap().message.clone().unwrap();
    assert_eq!(
        message,
        "3 pods can have an address, of 5 that the node's limits allow: subnet subnet-a has 2 free"
    );

    for ip in &theirs[..2] {
        cloud.free_address(*ip);
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    site.nominated_pod("job-1", left[1]).await;
    let node = site.until("node-a", "counted with two pods", |node| number(node) == Some(3)).await;
    assert_eq!(reason(&node), "Ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_reached_is_told_and_heals() {
    let site = Site::new().await;
    let quota = FaultKind::Error {
        code: "LimitExceeded.NetworkInterfaceLimitExceeded".into(),
        message: "three ENIs and no more".into(),
    };
    site.plane.cloud.faults().add(Some("CreateNetworkInterface"), When::Always, quota);
    site.plane.start_controller_with(config(), None).unwrap();
    site.agent("node-a", true).await;
    site.until("node-a", "open: nobody knows yet", |node| !is_tainted(node) && number(node) == Some(2)).await;
    let pod = json!({
        "metadata": { "name": "job-0" },
        "spec": { "nodeName": "node-a", "containers": [{
            "name": "main", "resources": { "requests": { RESOURCE: "1" }, "limits": { RESOURCE: "1" } },
        }] },
    });
    let pod = serde_json::from_value(pod).unwrap();
    site.pods("default").create(&Default::default(), &pod).await.unwrap();
    let node = site.until("node-a", "without addresses", |node| number(node) == Some(0)).await;
    let condition = site.until("node-a", "at its limit", |node| reason(node) == "ENILimit").await;
    let message = crate::site::condition(&condition).unwrap().message.clone().unwrap();
    assert!(message.contains("three ENIs and no more"), "{message}");
    assert!(!is_tainted(&node), "a node that served stays open for the time of the grace");
    site.plane.cloud.faults().clear();
    site.until("node-a", "served", |node| number(node) == Some(2) && reason(node) == "Ready").await;
}
