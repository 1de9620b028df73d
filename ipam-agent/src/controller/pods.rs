//! Pods: a pod that was scheduled gets a claim of its name.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use super::context::Context;
use super::error::ReconcileError;
use super::{views, write};
use crate::api::annotations::AddressWish;
use crate::api::{IN_USE_FINALIZER, OwnerWorkload, VpcIPClaim, VpcIPClaimSpec};

/// Creates the pod's claim, or brings an old claim of this name up to what the new pod asks for.
pub async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.ready().await?;
    let seen = views::pod(&pod);
    let on_host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    if on_host_network || seen.finished || seen.deleting || seen.node.is_none() {
        return Ok(Action::await_change());
    }
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let (wish, bad) = AddressWish::parse(pod.annotations());
    let cached = context.stores.claims.get(&ObjectRef::new(&name).within(&namespace));
    let spec = VpcIPClaimSpec {
        delete_policy: wish.delete_policy.unwrap_or(context.config.default_policy),
        expired_duration: wish.expired_duration,
        nominated_ip: wish.nominated_ip.map(|ip| ip.to_string()),
        nominated_subnets: wish.nominated_subnets,
        owner: owner(&pod),
    };
    if cached.as_ref().is_none_or(|claim| claim.spec != spec) {
        let problems: Vec<String> = bad.iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            context
                .warn(pod.object_ref(&()), "BadAnnotation", "ReadAnnotations", &problems.join(" | "))
                .await;
        }
    }
    let api = context.claims(&namespace);
    let claim = VpcIPClaim {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            finalizers: Some(vec![IN_USE_FINALIZER.into()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let existing = match cached {
        Some(claim) => claim,
        None => match write::create(&api, &claim).await? {
            Some(_) => return Ok(Action::await_change()),
            None => match write::live(&api, &name).await? {
                Some(claim) => Arc::new(claim),
                None => return Ok(Action::requeue(context.config.retry)),
            },
        },
    };
    if existing.metadata.deletion_timestamp.is_some() {
        // Asked for while an earlier pod lived; this pod gets a claim of its own when that one is gone.
        return Ok(Action::requeue(context.config.retry));
    }
    write::object(&api, &existing, |existing| {
        existing.spec = claim.spec;
        if !existing.finalizers().iter().any(|finalizer| finalizer == IN_USE_FINALIZER) {
            existing.finalizers_mut().push(IN_USE_FINALIZER.into());
        }
    })
    .await?;
    Ok(Action::await_change())
}

fn owner(pod: &Pod) -> Option<OwnerWorkload> {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    Some(OwnerWorkload {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}
