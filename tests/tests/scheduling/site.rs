//! A controller that tells the scheduler, two nodes, and their agents' pods as kubelets report them.

use std::net::Ipv4Addr;

use ipam_agent::api::scheduling::{CONDITION, RESOURCE, TAINT};
use ipam_agent::controller::{ControllerConfig, Scheduling};
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tempfile::TempDir;

pub struct Site {
    pub plane: ControlPlane,
    _dir: TempDir,
}

/// A controller's configuration with a scheduler to tell: nodes with room for two pods on one ENI.
pub fn config() -> ControllerConfig {
    ControllerConfig {
        max_enis: Some(1),
        max_ips_per_eni: Some(2),
        scheduling: Some(Scheduling::default()),
        ..ControlPlane::config()
    }
}

impl Site {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { plane: ControlPlane::new(dir.path()).await.unwrap(), _dir: dir }
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.plane.client.clone())
    }

    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.plane.client.clone(), namespace)
    }

    /// The agent's pod of a node, as the kubelet reports it.
    pub async fn agent(&self, node: &str, ready: bool) {
        let (pods, name) = (self.pods("kube-system"), format!("eni-ipam-node-{node}"));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app.kubernetes.io/name": "eni-ipam-node" } },
            "spec": { "nodeName": node, "hostNetwork": true, "containers": [{ "name": "agent" }] },
        }))
        .unwrap();
        // Which may be there.
        let _ = pods.create(&PostParams::default(), &pod).await;
        let status = if ready { "True" } else { "False" };
        let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] } });
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// A pod of `node-a` that wants this address and has not asked the scheduler for one.
    pub async fn nominated_pod(&self, name: &str, ip: [u8; 4]) {
        let ip = Ipv4Addr::from(ip).to_string();
        let pod = json!({
            "metadata": { "name": name, "annotations": { "eni-ipam.dev/nominated-vpc-ip": ip } },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
        });
        let pod = serde_json::from_value(pod).unwrap();
        let pod = self.pods("default").create(&PostParams::default(), &pod).await.unwrap();
        assert_eq!(self.plane.bound(&pod).await.unwrap(), ip);
    }

    pub async fn node(&self, name: &str) -> Node {
        self.nodes().get(name).await.unwrap()
    }

    /// Waits until a node is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Node) -> bool) -> Node {
        let mut last = Node::default();
        let what = format!("{name} to be {what}");
        let found = eventually(&what, async || {
            last = self.node(name).await;
            wanted(&last)
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}: {:?} {:?}", last.spec, last.status));
        last
    }
}

pub fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.key == TAINT && taint.effect == "NoSchedule").count() == 1
}

pub fn condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == CONDITION)
}

pub fn reason(node: &Node) -> &str {
    condition(node).and_then(|condition| condition.reason.as_deref()).unwrap_or_default()
}

/// The extended resource; capacity and allocatable have to be the same.
pub fn number(node: &Node) -> Option<u64> {
    let status = node.status.as_ref()?;
    let allocatable = status.allocatable.as_ref()?.get(RESOURCE)?;
    assert_eq!(status.capacity.as_ref()?.get(RESOURCE), Some(allocatable));
    allocatable.0.parse().ok()
}
