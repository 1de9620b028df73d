//! What is written into a Node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::api::scheduling::{CONDITION, RESOURCE, TAINT};
use crate::ipam::capacity::standing::Standing;

/// What a node's condition of ours says; none: there is none.
pub fn said(node: &Node) -> Option<bool> {
    Some(own_condition(node)?.status == "True")
}

fn own_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == CONDITION)
}

/// The differences between a node and what it should say.
pub struct Write {
    pub name: String,
    resource_version: Option<String>,
    /// The taints as they should be, if they are not.
    taints: Option<Vec<Taint>>,
    /// Likewise the status, as a merge patch.
    status: Option<Value>,
    /// A node that is closed is closed first and described afterwards, so that no pod slips in.
    closes: bool,
}

impl Write {
    /// Compares a node with its standing and its number.
    pub fn of(node: &Node, standing: &Standing, number: Option<u64>) -> Self {
        let mut status = serde_json::Map::new();
        if let Some(number) = number {
            for (field, quantities) in quantities(node) {
                let text = number.to_string();
                if quantities != Some(&text) {
                    status.insert(field.to_owned(), json!({ RESOURCE: text }));
                }
            }
        }
        // Words with numbers are only as fresh as the number.
        let with_number = !status.is_empty();
        if !standing.quiet
            && let Some(conditions) = conditions(node, standing, with_number)
        {
            status.insert("conditions".to_owned(), json!(conditions));
        }
        Self {
            name: node.name_any(),
            resource_version: node.resource_version(),
            taints: taints(node, !standing.open),
            status: (!status.is_empty()).then_some(status.into()),
            closes: !standing.open,
        }
    }

    /// A node that is none of ours: what we may have written is taken back.
    pub fn foreign(node: &Node) -> Self {
        let mut status = serde_json::Map::new();
        for (field, quantities) in quantities(node) {
            if quantities.is_some() {
                status.insert(field.to_owned(), json!({ RESOURCE: null }));
            }
        }
        if own_condition(node).is_some() {
            let all = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let others: Vec<_> = all.filter(|condition| condition.type_ != CONDITION).collect();
            status.insert("conditions".to_owned(), json!(others));
        }
        Self {
            name: node.name_any(),
            resource_version: node.resource_version(),
            taints: taints(node, false),
            status: (!status.is_empty()).then_some(status.into()),
            closes: false,
        }
    }

    /// Writes what is different, and says what was; nothing when nothing is.
    pub async fn send(self, nodes: &Api<Node>) -> Result<Option<String>, kube::Error> {
        let mut version = self.resource_version;
        let mut changes = Vec::new();
        let order = if self.closes { [true, false] } else { [false, true] };
        for taint_now in order {
            let metadata = json!({ "resourceVersion": version });
            let params = PatchParams::default();
            let written = match (&self.taints, &self.status) {
                (Some(taints), _) if taint_now => {
                    changes.push(if self.closes { "tainted".to_owned() } else { "taint removed".to_owned() });
                    let patch = json!({ "metadata": metadata, "spec": { "taints": taints } });
                    nodes.patch(&self.name, &params, &Patch::Merge(patch)).await?
                }
                (_, Some(status)) if !taint_now => {
                    let fields: Vec<&str> =
                        status.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
                    changes.push(fields.join(", "));
                    let patch = json!({ "metadata": metadata, "status": status });
                    nodes.patch_status(&self.name, &params, &Patch::Merge(patch)).await?
                }
                _ => continue,
            };
            version = written.resource_version();
        }
        Ok((!changes.is_empty()).then(|| changes.join("; ")))
    }
}

/// The number that the node has, by the field that it is in.
fn quantities(node: &Node) -> [(&'static str, Option<&String>); 2] {
    let status = node.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref());
    let allocatable = status.and_then(|status| status.allocatable.as_ref());
    [("capacity", capacity), ("allocatable", allocatable)].map(|(field, quantities)| {
        (field, quantities.and_then(|all| all.get(RESOURCE)).map(|quantity| &quantity.0))
    })
}

/// All taints with ours on or off; nothing when it is so.
fn taints(node: &Node, closed: bool) -> Option<Vec<Taint>> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let is_ours = |taint: &Taint| taint.key == TAINT;
    let no_schedule = |taint: &Taint| is_ours(taint) && taint.effect == "NoSchedule";
    match closed {
        true if taints.iter().any(no_schedule) => None,
        false if !taints.iter().any(is_ours) => None,
        true => {
            let ours = Taint {
                key: TAINT.into(),
                value: Some("true".into()),
                effect: "NoSchedule".into(),
                ..Taint::default()
            };
            Some(taints.into_iter().chain([ours]).collect())
        }
        false => Some(taints.into_iter().filter(|taint| !is_ours(taint)).collect()),
    }
}

/// All conditions with ours as it should be; nothing when it is so. The message alone is no reason to write unless it
/// shall be fresh.
fn conditions(node: &Node, standing: &Standing, fresh: bool) -> Option<Vec<NodeCondition>> {
    let status = if standing.open { "True" } else { "False" };
    let old = own_condition(node);
    if old.is_some_and(|old| {
        old.status == status
            && old.reason.as_deref() == Some(standing.reason)
            && (!fresh || old.message.as_ref() == Some(&standing.message))
    }) {
        return None;
    }
    let now = Time(Timestamp::now());
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    let ours = NodeCondition {
        type_: CONDITION.into(),
        status: status.into(),
        reason: Some(standing.reason.into()),
        message: Some(standing.message.clone()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(since.unwrap_or(now)),
    };
    let all = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    Some(all.into_iter().filter(|condition| condition.type_ != CONDITION).chain([ours]).collect())
}
