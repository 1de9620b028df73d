//! Claims whose fencing is [`Fencing::Optimistic`]: a node that has been silent for a while counts as lost for them.
//!
//! The cloud is what keeps the former pod from using the address: it moves it to the new node's ENI. Nobody knows whether
//! the former pod still runs.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::context::Context;
use crate::api::{Fencing, VpcIPStatus};

/// The state of a node that is not ready, for [`Context::watches`].
const SILENT: &str = "silent";

/// How often a claim that waits for a silent node is looked at: time makes no event.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When a claim that waits for a node is to be looked at again, though nothing has happened.
pub fn look_again(fencing: Fencing) -> Option<Duration> {
    (fencing == Fencing::Optimistic).then_some(LOOK_AGAIN)
}

/// Whether the address's node counts as lost for its claim: for [`super::ControllerConfig::takeover_after`], by this
/// process's own clock, its kubelet has not been heard.
pub fn is_taken_for_lost(status: &VpcIPStatus, context: &Context) -> bool {
    let (Fencing::Optimistic, Some(node)) = (status.fencing, &status.node_name) else { return false };
    let Some(node) = context.stores.nodes.get(&ObjectRef::new(node)) else { return false };
    let Some(silence) = silence(&node) else {
        heard(&node, context);
        return false;
    };
    let began = silence.last_transition_time.as_ref().map(|time| time.0);
    let uid = node.uid().unwrap_or_default();
    context.watches.watched_for(&uid, SILENT, began) >= context.config.takeover_after
}

/// Looked at with every change of a node, whether or not an address waits for it: a silence that is over does not count
/// for the next one.
pub fn look_at(node: &Node, context: &Context) {
    if silence(node).is_none() {
        heard(node, context);
    }
}

fn heard(node: &Node, context: &Context) {
    context.stop_watching(&node.uid().unwrap_or_default(), SILENT);
}

/// The condition that says that a node's kubelet is not heard. `Unknown` is what the node lifecycle controller writes when
/// the node's lease has run out; a kubelet that says `False` is not silent.
fn silence(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}
