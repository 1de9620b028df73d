//! Pods that the control plane or their own doing has left without a network: the first line names why.

use ipam_agent::api::{ClaimPhase, IpPhase, VpcIP, VpcIPClaim};
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::cluster::eventually;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::site::{Site, run};

#[tokio::test(flavor = "multi_thread")]
async fn healthy_pod_and_what_its_packets_meet() {
    let site = Site::new("explain-ok").await;
    let web = site.cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let local = site.cluster.run_pod("local", "node-a", &[]).await.unwrap();
    let text = site.explain("web-0", "node-a", &["--to", "10.0.1.250:80"]);
    println!("{text}");
    assert!(text.starts_with(&format!("default/web-0: healthy: {} on ENI eni-", web.ip())), "{text}");
    let line = |program: &str| {
        text.lines().find(|line| line.starts_with(program)).unwrap_or_else(|| panic!("{program}: {text}"))
    };
    assert!(line("from_pod ").contains("port 80 goes out of ENI eni-"), "{text}");
    assert!(
        line("from_eni ").contains(&format!("goes straight into the pod that has {}", web.ip())),
        "{text}"
    );
    assert!(line("to_pod ").contains("stays on the host stack"), "{text}");
    assert!(line("to_eni ").contains("stays on the host stack"), "{text}");
    assert_eq!(site.cluster.node("node-a").dump("STACK_FLOWS").unwrap().len(), 0, "trials leave no mark");

    let text = site.explain("web-0", "node-a", &["--to", &local.ip().to_string()]);
    assert!(text.contains(&format!("goes straight into the pod that has {}", local.ip())), "{text}");
    let text = site.explain("web-0", "node-a", &["--to", "127.0.0.1"]);
    assert!(text.contains("is dropped: invalid_destination"), "{text}");
    let line = site.first_line("web-0", "node-b");
    assert!(line.contains("the pod is on node node-a, and this is node node-b"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_such_pod() {
    let site = Site::new("explain-none").await;
    let line = site.first_line("web-9", "node-a");
    assert!(line.starts_with("default/web-9: FAULT: the pod does not exist, and has no claim"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pool_exhausted() {
    let site = Site::with("explain-pool", |builder| builder.limits(1, 1)).await;
    site.cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    site.cluster.create_pod("web-1", "node-a", &[]).await.unwrap();
    site.wait_for_fault("web-1", "node-a", "the claim is Pending: PoolExhausted: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_on_another_node() {
    let mut site = Site::new("explain-other").await;
    let first = site.cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    site.cluster.node_mut("node-a").agent().kill9().unwrap();
    site.cluster.delete_pod_object("web-0").await.unwrap();
    site.cluster.create_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    let expected =
        format!("its address {} is still bound on node node-a, and the pod is on node node-b", first.ip());
    site.wait_for_fault("web-0", "node-b", &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_not_running() {
    let (mut site, _pod) = Site::held("explain-agent").await;
    site.cluster.node_mut("node-a").agent().kill9().unwrap();
    site.assert_fault("the node agent does not answer: socket ");
}

#[tokio::test(flavor = "multi_thread")]
async fn cni_add_never_came() {
    let site = Site::new("explain-add").await;
    site.cluster.create_pod("web-0", "node-a", &[]).await.unwrap();
    let claims = site.cluster.api::<VpcIPClaim>();
    eventually("the claim to be bound", async || {
        let claim = claims.get_opt("web-0").await.ok().flatten();
        claim.and_then(|claim| claim.status).is_some_and(|status| status.phase == ClaimPhase::Bound)
    })
    .await
    .unwrap();
    // The agent may have listened for the plugin only, as yet.
    let expected = "the journal of node node-a has no attachment of the pod: CNI ADD has not come, or failed";
    site.wait_for_fault("web-0", "node-a", expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_scheduled() {
    let site = Site::new("explain-sched").await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "web-0" },
        "spec": { "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap();
    site.cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let line = site.first_line("web-0", "node-a");
    let known = ["FAULT: the pod is on no node yet", "FAULT: the claim is Pending: WaitingForNode"];
    assert!(known.iter().any(|words| line.contains(words)), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn address_quarantined() {
    let (site, pod) = Site::held("explain-quar").await;
    let ips = Api::<VpcIP>::all(site.cluster.client.clone());
    let mut ip = ips.get(&pod.ip().to_string()).await.unwrap();
    // The claim is given another address at once, and names this one for as long as that takes.
    let faults = site.cluster.cloud.faults();
    faults.add(Some("AssignPrivateIpAddresses"), When::Always, FaultKind::Throttle);
    ip.status.as_mut().unwrap().phase = IpPhase::Quarantined;
    ips.replace_status(&pod.ip().to_string(), &PostParams::default(), &ip).await.unwrap();
    site.wait_for_fault("web-0", "node-a", &format!("VpcIP {} is Quarantined", pod.ip())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn epoch_of_the_api_is_another() {
    let (site, pod) = Site::held("explain-epoch").await;
    let ips = Api::<VpcIP>::all(site.cluster.client.clone());
    let mut ip = ips.get(&pod.ip().to_string()).await.unwrap();
    ip.status.as_mut().unwrap().epoch = 7;
    ips.replace_status(&pod.ip().to_string(), &PostParams::default(), &ip).await.unwrap();
    let expected = format!("epoch of {}: the API is at 7, the attachment at 1", pod.ip());
    site.wait_for_fault("web-0", "node-a", &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attachments_of_one_address() {
    let (site, first) = Site::held("explain-two").await;
    let pod = site.cluster.pods().get("web-0").await.unwrap();
    let second = site.cluster.add_sandbox(&pod, "node-a").await.unwrap();
    assert_eq!(first.ip(), second.ip());
    let line = site.first_line("web-0", "node-a");
    let expected =
        format!("warning: {} has two attachments: this one, which has it, and a former one", first.ip());
    assert!(line.contains(&expected), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_lost_its_address() {
    let (site, pod) = Site::held("explain-addr").await;
    // Without promotion of the routes that went with the address.
    run(pod.sandbox.ns(), "ip address flush dev eth0");
    site.assert_fault(&format!("the pod's eth0 has lost its address {}", pod.ip()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_lost_its_default_route() {
    let (site, pod) = Site::held("explain-route").await;
    run(pod.sandbox.ns(), "ip route delete default");
    site.assert_fault("the pod has no default route to eth0");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_set_its_interface_down() {
    let (site, pod) = Site::held("explain-eth0").await;
    run(pod.sandbox.ns(), "ip link set eth0 down");
    site.assert_fault("the pod's eth0 is down");
}
