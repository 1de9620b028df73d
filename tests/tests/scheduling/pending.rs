//! A pod that no node takes for want of an address says so.

use ipam_agent::api::scheduling::{RESOURCE, ZONE_LABEL};
use ipam_lab::cluster::eventually;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::scheduler::schedule;
use crate::site::*;

/// A pod as the webhook leaves it.
async fn create(site: &Site, name: &str, zone: Option<&str>) -> Pod {
    let one = json!({ RESOURCE: "1" });
    let container = json!({ "name": "main", "resources": { "requests": one, "limits": one } });
    let mut pod = json!({
        "metadata": { "name": name, "annotations": { "eni-ipam.dev/vpc-ip-claim-delete-policy": "Never" } },
        "spec": { "containers": [container] },
    });
    if let Some(zone) = zone {
        let demand = json!({ "key": ZONE_LABEL, "operator": "In", "values": [zone] });
        let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [demand] }] });
        pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = terms;
    }
    site.pods("default").create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
}

/// Plays the scheduler until it finds a node.
async fn scheduled(site: &Site, name: &str) -> String {
    let mut node = String::new();
    let what = format!("a node for {name}");
    let found = eventually(&what, async || match schedule(site, name).await {
        Ok(found) => {
            node = found;
            true
        }
        Err(_) => false,
    });
    found.await.unwrap();
    node
}

/// The sentence of the pod's event.
async fn told(site: &Site, pod: &str) -> String {
    let events = Api::<Event>::namespaced(site.plane.client.clone(), "default");
    let mut note = None;
    eventually(&format!("{pod} to be told"), async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        let mut about = all.into_iter().filter(|event| {
            event.reason.as_deref() == Some("NoAddressLeft")
                && event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some(pod)
        });
        note = about.next().and_then(|event| event.note);
        note.is_some()
    })
    .await
    .unwrap();
    note.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_only_zone_is_full_stays_pending_and_says_why() {
    let site = Site::new().await;
    let elsewhere: Value = json!({ "metadata": { "name": "node-z", "labels": { ZONE_LABEL: "zone-2" } } });
    let elsewhere = serde_json::from_value(elsewhere).unwrap();
    site.nodes().create(&PostParams::default(), &elsewhere).await.unwrap();
    site.plane.start_controller_with(config(), None).unwrap();
    for node in ["node-a", "node-b"] {
        site.agent(node, true).await;
        site.until(node, "open", |node| !is_tainted(node) && number(node) == Some(2)).await;
    }
    site.until("node-z", "closed", is_tainted).await;
    for n in 0..4 {
        let name = format!("web-{n}");
        let pod = create(&site, &name, None).await;
        scheduled(&site, &name).await;
        let claims = Api::<ipam_agent::api::VpcIPClaim>::default_namespaced(site.plane.client.clone());
        eventually(&format!("{name} to be bound"), async || {
            let claim = claims.get_opt(&name).await.unwrap().and_then(|claim| claim.status);
            claim.is_some_and(|status| status.address.is_some() && status.pod_uid == pod.metadata.uid)
        })
        .await
        .unwrap();
    }
    // All addresses of the zone are in use; the pod may go nowhere else.
    create(&site, "web-4", Some("zone-1")).await;
    let message = schedule(&site, "web-4").await.unwrap_err();
    let wanted = format!(
        "0/3 nodes are available: Insufficient {RESOURCE}, Insufficient {RESOURCE}, node(s) had untolerated taint(s)."
    );
    assert_eq!(message, wanted);
    let note = told(&site, "web-4").await;
    assert!(note.starts_with("no node has an address left for this pod: zone-1 ("), "{note}");
    assert!(note.contains("node-a: 2 pods can have an address, of 2 that the node's limits allow"), "{note}");
    assert!(!note.contains("zone-2"), "{note}");

    // A pod goes for good, and its address with it: there is room.
    site.pods("default").delete("web-0", &DeleteParams::default()).await.unwrap();
    let claims = Api::<ipam_agent::api::VpcIPClaim>::default_namespaced(site.plane.client.clone());
    claims.delete("web-0", &DeleteParams::default()).await.unwrap();
    scheduled(&site, "web-4").await;
}
