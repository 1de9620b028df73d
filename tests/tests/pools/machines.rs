//! How many ENIs and addresses a machine takes is what the cloud says of it, unless somebody says otherwise.

use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::InstanceConfig;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::tools::*;

async fn limits(plane: &ControlPlane, node: &str, enis: u32, ips: u32) {
    let mut last = None;
    eventually(&format!("{node} to have {enis} ENIs of {ips} addresses"), async || {
        last = nec(plane, node).await.map(|nec| (nec.spec.max_enis, nec.spec.max_ips_per_eni));
        last == Some((enis, ips))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
}

async fn set_type(plane: &ControlPlane, node: &str, type_: &str) {
    let patch = json!({ "metadata": { "labels": { "node.kubernetes.io/instance-type": type_ } } });
    let nodes = Api::<Node>::all(plane.client.clone());
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_the_clouds_and_follow_the_machine_but_not_over_an_operator() {
    let (plane, _dir) = plane().await;
    plane.add_node("small", "zone-1", (2, 6), 20).await.unwrap();
    plane.add_node("large", "zone-1", (8, 30), 250).await.unwrap();
    plane.start_controller(None).unwrap();
    limits(&plane, "small", 1, 5).await;
    limits(&plane, "large", 7, 29).await;
    // What the machine was is written down after that; a machine cannot change its type in between.
    for node in ["small", "large"] {
        let known = async || nec(&plane, node).await.and_then(|nec| nec.status?.machine).is_some();
        eventually("the machine to be known", known).await.unwrap();
    }
    // Twice, when the node's first status came in between.
    let of_typed = |call: &&ipam_lab::cloud_server::Call| {
        call.action == "DescribeNetworkInterfaceLimit" && call.params["InstanceId"] == "ins-small"
    };
    let asked = || plane.cloud.calls().iter().filter(of_typed).count();
    let before = asked();
    assert!((1..=2).contains(&before), "{before}");
    // An operator keeps the large one small.
    let patch = json!({ "spec": { "maxENIs": 2 } });
    let necs = Api::<ipam_agent::api::NodeENIConfig>::all(plane.client.clone());
    necs.patch("large", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    for node in ["small", "large"] {
        plane.cloud.resize_instance(&format!("ins-{node}"), |instance| {
            (instance.max_enis, instance.max_ips_per_eni) = (5, 15);
        });
        set_type(&plane, node, "S5.2XLARGE").await;
    }
    limits(&plane, "small", 4, 14).await;
    limits(&plane, "large", 2, 14).await;
    set_type(&plane, "small", "S5.2XLARGE").await;
    plane.pod("web-0", "small", false).await.unwrap();
    plane.kill_controller().await;
    plane.start_controller(None).unwrap();
    plane.pod("web-1", "small", false).await.unwrap();
    assert_eq!(asked() - before, 1, "once for each type, also across a restart");
}

/// A kubelet registers its Node before the cloud's controller has said which machine it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_machine_is_known_later_gets_its_limits_then() {
    let (plane, _dir) = plane().await;
    plane.start_controller(None).unwrap();
    let nodes = Api::<Node>::all(plane.client.clone());
    let bare = json!({ "metadata": { "name": "late" }, "status": { "allocatable": { "pods": "20" } } });
    nodes.create(&PostParams::default(), &serde_json::from_value(bare).unwrap()).await.unwrap();
    limits(&plane, "late", 3, 9).await;
    plane.cloud.add_instance(
        "ins-late",
        InstanceConfig { zone: "zone-1".into(), max_enis: 6, max_ips_per_eni: 20, primary: None },
    );
    let known = json!({
        "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-1" } },
        "spec": { "providerID": "qcloud:///zone-1/ins-late" },
    });
    nodes.patch("late", &PatchParams::default(), &Patch::Merge(known)).await.unwrap();
    set_type(&plane, "late", "S5.LARGE").await;
    limits(&plane, "late", 5, 19).await;
    plane.pod("web-0", "late", true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_are_above_the_cloud_and_a_cloud_that_refuses_to_say_is_guessed() {
    let (plane, _dir) = plane().await;
    let config = ControllerConfig { max_enis: Some(1), max_ips_per_eni: Some(3), ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    limits(&plane, "node-a", 1, 3).await;
    assert_eq!(plane.cloud.count("DescribeNetworkInterfaceLimit"), 0);
    plane.kill_controller().await;
    let refused = ipam_lab::cloud_server::FaultKind::Error {
        code: "UnauthorizedOperation".into(),
        message: "no permission".into(),
    };
    let always = ipam_lab::cloud_server::When::Always;
    plane.cloud.faults().add(Some("DescribeNetworkInterfaceLimit"), always, refused);
    plane.add_node("node-c", "zone-1", (4, 10), 110).await.unwrap();
    plane.start_controller(None).unwrap();
    limits(&plane, "node-c", 3, 9).await;
    let note = event(&plane, "node-c", "CloudError").await;
    assert!(note.contains("no permission") && note.contains("--max-enis"), "{note}");
}
