//! Subnets that come while the controller runs, and subnets that only some may have.

use ipam_agent::controller::ControllerConfig;
use ipam_lab::control_plane::ControlPlane;

use crate::tools::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_that_is_added_is_used_without_a_restart() {
    let (plane, _dir) = plane().await;
    // Five addresses: an ENI and four pods.
    add_subnet(&plane, "subnet-small", "zone-5", "10.5.0.0/29");
    plane.add_node("node-5", "zone-5", (4, 10), 110).await.unwrap();
    plane.start_controller(None).unwrap();
    for n in 0..4 {
        plane.pod(&format!("first-{n}"), "node-5", false).await.unwrap();
    }
    let waits = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "waits" },
        "spec": { "nodeName": "node-5", "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap();
    let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
    let waits = pods.create(&Default::default(), &waits).await.unwrap();
    let message = says(&plane, "node-5", ipam_agent::api::condition::READY, "PoolExhausted").await;
    assert!(
        message.contains("subnet subnet-small (10.5.0.0/29) has 0 free, an ENI and its pod need 2"),
        "{message}"
    );
    add_subnet(&plane, "subnet-new", "zone-5", "10.5.2.0/24");
    let address = plane.bound(&waits).await.unwrap();
    assert!(address.starts_with("10.5.2."), "{address}");
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_for_nominated_use_is_given_to_those_who_name_it() {
    let (plane, _dir) = plane().await;
    add_subnet(&plane, "subnet-kept", "zone-1", "10.0.4.0/22");
    let config =
        ControllerConfig { nominated_only_subnets: vec!["subnet-kept".into()], ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    for (name, address) in pods(&plane, "any", 12, "node-a").await {
        assert!(address.starts_with("10.0.1."), "{name} has {address}, though the larger subnet is kept");
    }
    let named: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "named", "annotations": { "tke.cloud.tencent.com/nominated-eni-subnets": "subnet-kept" } },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap();
    let api = kube::Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
    let named = api.create(&Default::default(), &named).await.unwrap();
    let address = plane.bound(&named).await.unwrap();
    assert!(
        address.starts_with("10.0.4.")
            || address.starts_with("10.0.5.")
            || address.starts_with("10.0.6.")
            || address.starts_with("10.0.7."),
        "{address}"
    );
    plane.settled().await.unwrap();
}
