//! Many pods at once cost few calls, when they come and when they go.

use ipam_lab::cluster::eventually;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::tools::*;

#[tokio::test(flavor = "multi_thread")]
async fn thirty_pods_cost_three_calls_to_come_and_three_to_go() {
    let (plane, _dir) = plane().await;
    plane.add_node("big", "zone-1", (2, 40), 110).await.unwrap();
    let config = ipam_agent::controller::ControllerConfig {
        // On a busy machine a burst comes slowly.
        gather: std::time::Duration::from_millis(500),
        ..eager()
    };
    plane.start_controller_with(config, None).unwrap();
    has_enis(&plane, "big", 1).await;
    let before = plane.cloud.calls().len();
    let bound = pods(&plane, "pod", 30, "big").await;
    let calls = calls_since(&plane, before);
    println!("30 pods come: {calls:?}");
    // 10 addresses in a call is what the API takes. A machine that stops in the midst of the burst splits it.
    assert!((3..=5).contains(&calls["AssignPrivateIpAddresses"]), "{calls:?}");
    // Looks do not grow with the pods: one for each task, and some for the nodes.
    let looks: usize =
        calls.iter().filter(|(action, _)| action.starts_with("Describe")).map(|(_, count)| count).sum();
    assert!(looks <= 3 + 12, "{calls:?}");

    let before = plane.cloud.calls().len();
    let api = Api::<Pod>::default_namespaced(plane.client.clone());
    futures::future::join_all(bound.keys().map(|name| {
        let api = api.clone();
        async move { api.delete(name, &Default::default()).await.unwrap() }
    }))
    .await;
    eventually("all addresses to be off the ENI", async || {
        plane.cloud.snapshot().enis.iter().all(|eni| eni.addresses.len() == 1)
    })
    .await
    .unwrap();
    let calls = calls_since(&plane, before);
    println!("30 pods go: {calls:?}");
    assert!(calls["UnassignPrivateIpAddresses"] <= 6, "{calls:?}");
    plane.settled().await.unwrap();
}
