//! Nodes: each gets a `NodeENIConfig`, which goes with the node.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;

use super::context::Context;
use super::error::ReconcileError;
use super::write;
use crate::api::{NodeENIConfig, NodeENIConfigSpec};

/// Label of a node's zone, as Kubernetes defines it.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// How often a node's ENIs are compared with what the cloud says.
const RESYNC: Duration = Duration::from_secs(300);

/// Creates the node's configuration.
pub async fn reconcile_node(node: Arc<Node>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.ready().await?;
    let name = node.name_any();
    let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    let spec = NodeENIConfigSpec {
        instance_id: provider_id
            .and_then(|id| id.rsplit('/').next())
            .filter(|id| !id.is_empty())
            .unwrap_or(&name)
            .to_owned(),
        zone: node.labels().get(ZONE_LABEL).cloned().unwrap_or_default(),
        max_enis: context.config.max_enis,
        max_ips_per_eni: context.config.max_ips_per_eni,
    };
    let config = NodeENIConfig {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        spec,
        status: None,
    };
    if write::create(&context.configs(), &config).await?.is_none()
        && let Some(existing) = write::live(&context.configs(), &name).await?
    {
        // Limits are the operator's to change; what the machine is, is the node's to say.
        write::object(&context.configs(), &existing, |existing| {
            existing.spec.instance_id = config.spec.instance_id;
            existing.spec.zone = config.spec.zone;
        })
        .await?;
    }
    Ok(Action::await_change())
}

/// Keeps the status true, and deletes the configuration of a node that is gone.
pub async fn reconcile_config(
    config: Arc<NodeENIConfig>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    context.ready().await?;
    let name = config.name_any();
    if context.node_gone(&name).await? {
        context.pools.forget(&name);
        write::delete(&context.configs(), &*config).await?;
        return Ok(Action::await_change());
    }
    context.pools.refresh(&name).await;
    Ok(Action::requeue(RESYNC))
}
