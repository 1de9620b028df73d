//! What the tests of pools have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use ipam_agent::api::{NodeENIConfig, VpcIP, VpcIPType};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::SubnetConfig;
use ipam_lab::cloud_server::state::Eni;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::{ControlPlane, SUBNET_TAG};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

/// A control plane without a controller.
pub async fn plane() -> (ControlPlane, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (ControlPlane::new(dir.path()).await.unwrap(), dir)
}

/// A controller that gives each node an ENI when it joins.
pub fn eager() -> ControllerConfig {
    ControllerConfig { min_enis: 1, ..ControlPlane::config() }
}

/// How often all ENIs are looked at by [`watchful`].
pub const PERIOD: Duration = Duration::from_millis(300);

/// A controller that looks at all ENIs again and again.
pub fn watchful() -> ControllerConfig {
    ControllerConfig { eni_period: PERIOD, eni_stuck: Duration::from_millis(900), ..ControlPlane::config() }
}

/// Adds a subnet that the controller finds by its tag.
pub fn add_subnet(plane: &ControlPlane, id: &str, zone: &str, cidr: &str) {
    let cidr = cidr.parse().unwrap();
    plane.cloud.add_subnet(SubnetConfig { id: id.into(), zone: zone.into(), cidr, cidr_v6: None });
    plane.cloud.tag_subnet(id, SUBNET_TAG.0, SUBNET_TAG.1);
}

/// A node's configuration.
pub async fn nec(plane: &ControlPlane, node: &str) -> Option<NodeENIConfig> {
    Api::<NodeENIConfig>::all(plane.client.clone()).get_opt(node).await.unwrap()
}

/// Waits until a node has so many ENIs by its status.
pub async fn has_enis(plane: &ControlPlane, node: &str, count: u32) -> NodeENIConfig {
    let mut last = None;
    eventually(&format!("{node} to have {count} ENIs"), async || {
        last = nec(plane, node).await;
        last.as_ref().and_then(|nec| nec.status.as_ref()).is_some_and(|status| status.eni_count == count)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    last.unwrap()
}

/// Waits until the condition `type_` of a node's configuration has a reason. Gives the message.
pub async fn says(plane: &ControlPlane, node: &str, type_: &str, reason: &str) -> String {
    let mut last = None;
    let mut message = None;
    eventually(&format!("{node} to say {reason}"), async || {
        last = nec(plane, node).await.and_then(|nec| nec.status);
        let conditions = last.iter().flat_map(|status| &status.conditions);
        message = conditions
            .into_iter()
            .find(|known| known.type_ == type_ && known.reason == reason)
            .map(|known| known.message.clone());
        message.is_some()
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    message.unwrap()
}

/// Waits for an event about a node. Gives its note.
pub async fn event(plane: &ControlPlane, node: &str, reason: &str) -> String {
    let events = Api::<Event>::all(plane.client.clone());
    let mut note = None;
    eventually(&format!("an event {reason} about {node}"), async || {
        note = events.list(&Default::default()).await.unwrap().into_iter().find_map(|event| {
            let about = event.regarding.as_ref()?;
            // A node that is gone is told of by its configuration's name.
            let fits = matches!(about.kind.as_deref(), Some("Node" | "NodeENIConfig"))
                && about.name.as_deref() == Some(node);
            (fits && event.reason.as_deref() == Some(reason)).then(|| event.note.clone().unwrap())
        });
        note.is_some()
    })
    .await
    .unwrap();
    note.unwrap()
}

/// Objects of primary addresses.
pub async fn primaries(plane: &ControlPlane) -> Vec<VpcIP> {
    let all = Api::<VpcIP>::all(plane.client.clone()).list(&Default::default()).await.unwrap();
    all.into_iter().filter(|ip| ip.spec.type_ == VpcIPType::Eni).collect()
}

/// Creates many pods at once, scheduled to a node, and waits until each is bound. Gives their addresses.
pub async fn pods(plane: &ControlPlane, prefix: &str, count: usize, node: &str) -> BTreeMap<String, String> {
    let create = |n: usize| {
        let name = format!("{prefix}-{n}");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
        }))
        .unwrap();
        let pods = Api::<Pod>::default_namespaced(plane.client.clone());
        async move { pods.create(&PostParams::default(), &pod).await.unwrap() }
    };
    let created = futures::future::join_all((0..count).map(create)).await;
    let mut bound = BTreeMap::new();
    for pod in created {
        bound.insert(pod.name_any(), plane.bound(&pod).await.unwrap());
    }
    bound
}

/// Calls of the cloud by action since so many had come.
pub fn calls_since(plane: &ControlPlane, before: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in plane.cloud.calls().into_iter().skip(before) {
        *counts.entry(call.action).or_default() += 1;
    }
    counts
}

/// ENIs on a node's machine.
pub fn enis_on(plane: &ControlPlane, node: &str) -> Vec<Eni> {
    let on = |eni: &Eni| eni.attachment.as_ref().is_some_and(|(id, _)| *id == format!("ins-{node}"));
    plane.cloud.snapshot().enis.into_iter().filter(on).collect()
}
