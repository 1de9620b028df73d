//! Nodes: each gets a `NodeENIConfig`, which goes with the node.

use std::sync::Arc;
use std::time::Duration;

use ipam_common::maps::MAX_PODS;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;

use super::context::Context;
use super::error::ReconcileError;
use super::{ControllerConfig, fencing, write};
use crate::api::condition::reason;
use crate::api::scheduling::ZONE_LABEL;
use crate::api::{MachineStatus, NodeENIConfig, NodeENIConfigSpec};

/// Label of a node's machine type, as Kubernetes defines it.
const TYPE_LABEL: &str = "node.kubernetes.io/instance-type";

/// Secondary ENIs of a machine of which nobody knows how many it can take.
const MAX_ENIS: u32 = 3;
/// Secondary addresses of its ENIs.
const MAX_IPS_PER_ENI: u32 = 9;

/// How often a node's ENIs are compared with what the cloud says.
const RESYNC: Duration = Duration::from_secs(300);

/// Creates the node's configuration, and keeps what it says of the machine true.
pub async fn reconcile_node(node: Arc<Node>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    fencing::look_at(&node, &context);
    let name = node.name_any();
    let api = context.configs();
    let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    let instance_id = provider_id
        .and_then(|id| id.rsplit('/').next())
        .filter(|id| !id.is_empty())
        .unwrap_or(&name)
        .to_owned();
    let zone = node.labels().get(ZONE_LABEL).cloned().unwrap_or_default();
    let instance_type = node.labels().get(TYPE_LABEL).cloned().unwrap_or_default();
    let existing = write::live(&api, &name).await?;
    let known = existing.as_ref().and_then(|config| config.status.as_ref()?.machine.clone());
    let asked = known.as_ref().is_some_and(|known| {
        known.instance_type == instance_type
            && existing.as_ref().is_some_and(|config| config.spec.instance_id == instance_id)
    });
    let machine = match asked {
        true => None,
        false => machine(&context, &name, &instance_id, &instance_type).await?,
    };
    let limits = context.config.limits(machine.as_ref());
    let Some(existing) = existing else {
        let (max_enis, max_ips_per_eni) = limits;
        let spec = NodeENIConfigSpec { instance_id, zone, max_enis, max_ips_per_eni, warm: None };
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let config = NodeENIConfig { metadata, spec, status: None };
        if let Some(config) = write::create(&api, &config).await? {
            note_machine(&context, &config, machine).await?;
        }
        return Ok(Action::await_change());
    };
    // Limits are the operator's to change: they follow the machine as long as they say what the machine said. What the
    // machine is, is the node's to say.
    let config = write::object(&api, &existing, |config| {
        config.spec.instance_id = instance_id;
        config.spec.zone = zone;
        // Before the machine was known, they were guessed.
        if machine.is_some() {
            let before = context.config.limits(known.as_ref());
            follow(&mut config.spec.max_enis, before.0, limits.0);
            follow(&mut config.spec.max_ips_per_eni, before.1, limits.1);
        }
    })
    .await?;
    note_machine(&context, &config, machine).await?;
    Ok(Action::await_change())
}

fn follow(limit: &mut u32, before: u32, now: u32) {
    if *limit == before {
        *limit = now;
    }
}

impl ControllerConfig {
    /// ENIs of a node and addresses of an ENI: as configured, as the cloud says of the machine, or as a careful guess.
    fn limits(&self, machine: Option<&MachineStatus>) -> (u32, u32) {
        let enis = machine.map_or(MAX_ENIS, |machine| machine.max_enis);
        let ips = machine.map_or(MAX_IPS_PER_ENI, |machine| machine.max_ips_per_eni);
        let (enis, ips) = (self.max_enis.unwrap_or(enis), self.max_ips_per_eni.unwrap_or(ips));
        // What the node's maps hold.
        let most_ips = u32::try_from(MAX_PODS).unwrap_or(u32::MAX);
        (enis.min(ipam_common::MAX_ENIS), ips.clamp(1, most_ips))
    }
}

/// What the cloud says of a machine. An error that will pass is waited for; another is told, and the node gets a guess.
async fn machine(
    context: &Context,
    node: &str,
    instance_id: &str,
    instance_type: &str,
) -> Result<Option<MachineStatus>, ReconcileError> {
    if context.config.max_enis.is_some() && context.config.max_ips_per_eni.is_some() {
        return Ok(None);
    }
    let type_ = Some(instance_type).filter(|type_| !type_.is_empty());
    match context.provider.limits(instance_id, type_).await {
        Ok(limits) => Ok(limits.map(|limits| MachineStatus {
            instance_type: instance_type.to_owned(),
            max_enis: limits.max_enis,
            max_ips_per_eni: limits.max_ips_per_eni,
        })),
        Err(error) if error.kind.is_transient() => Err(error.into()),
        Err(error) => {
            let note = format!(
                "limits of {instance_id} not known: {error}; {MAX_ENIS} ENIs of {MAX_IPS_PER_ENI} addresses are assumed \
                 (--max-enis, --max-ips-per-eni)"
            );
            context.warn_of_node(node, reason::CLOUD_ERROR, "ReadLimits", &note).await;
            Ok(None)
        }
    }
}

async fn note_machine(
    context: &Context,
    config: &NodeENIConfig,
    machine: Option<MachineStatus>,
) -> Result<(), ReconcileError> {
    let Some(machine) = machine else { return Ok(()) };
    write::status(&context.configs(), config, |config| {
        config.status.get_or_insert_default().machine = Some(machine);
    })
    .await?;
    Ok(())
}

/// Keeps the status true, and deletes the configuration of a node that is gone.
pub async fn reconcile_config(
    config: Arc<NodeENIConfig>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let name = config.name_any();
    if context.node_gone(&name).await? {
        context.pools.forget(&name);
        context.sights.forget(&name);
        write::delete(&context.configs(), &*config).await?;
        return Ok(Action::await_change());
    }
    context.pools.refresh(&name).await;
    Ok(Action::requeue(RESYNC))
}
