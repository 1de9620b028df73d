//! Pods: a pod that was scheduled gets a claim of its name.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tracing::info;

use super::context::Context;
use super::error::ReconcileError;
use super::workloads::{Owners, controller};
use super::{views, write};
use crate::api::annotations::{AddressWish, Takeover};
use crate::api::pod::{on_host_network, runtime_uid};
use crate::api::{IN_USE_FINALIZER, OwnerWorkload, VpcIPClaim, VpcIPClaimSpec};

/// Creates the pod's claim, or brings an old claim of this name up to what the new pod asks for.
pub async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let seen = views::pod(&pod);
    if on_host_network(&pod) || seen.finished || seen.deleting || seen.node.is_none() {
        return Ok(Action::await_change());
    }
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let (wish, bad) = context.wish_of(&pod);
    let cached = context.stores.claims.get(&ObjectRef::new(&name).within(&namespace));
    let takeover = wish.takeover.unwrap_or(if context.config.cascade {
        Takeover::SameWorkload
    } else {
        Takeover::ByName
    });
    let owners = owners_of(&pod, &wish, cached.as_deref(), &context).await;
    let again = if owners.complete { Action::await_change() } else { Action::requeue(context.config.retry) };
    let spec = VpcIPClaimSpec {
        delete_policy: wish.delete_policy.unwrap_or(context.config.default_policy),
        nominated_ip: wish.nominated_text(),
        expired_duration: wish.expired_duration,
        nominated_subnets: wish.nominated_subnets,
        when_deleted: wish.when_deleted,
        when_scaled: wish.when_scaled,
        fencing: wish.fencing.unwrap_or_default(),
        owner: owners.top,
        maker: owners.maker,
    };
    if !bad.is_empty() && cached.as_ref().is_none_or(|claim| claim.spec != spec) {
        let problems: Vec<String> = bad.iter().map(ToString::to_string).collect();
        context.warn(pod.object_ref(&()), "BadAnnotation", "ReadAnnotations", &problems.join(" | ")).await;
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
            Some(_) => return Ok(again),
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
    let kept = existing.status.as_ref().filter(|status| status.pod_uid != runtime_uid(&pod));
    let kept = kept.and_then(|status| status.address.clone());
    let other =
        |former: &&OwnerWorkload| claim.spec.owner.as_ref().is_none_or(|owner| owner.uid != former.uid);
    let former = existing.spec.owner.as_ref().filter(other).zip(kept);
    if let Some((former, _)) = &former
        && takeover == Takeover::SameWorkload
        && context.workloads.is_gone(&namespace, former).await?
    {
        info!(claim = name, workload = former.name, uid = former.uid, "not taken over: its workload is gone");
        write::delete(&api, &*existing).await?;
        return Ok(Action::requeue(context.config.retry));
    }
    write::object(&api, &existing, |existing| {
        existing.spec = claim.spec;
        if !existing.finalizers().iter().any(|finalizer| finalizer == IN_USE_FINALIZER) {
            existing.finalizers_mut().push(IN_USE_FINALIZER.into());
        }
    })
    .await?;
    if let Some((OwnerWorkload { kind, name, uid, .. }, address)) = former {
        let note = format!("{address} is taken over from {kind} {name}, UID {uid}");
        context.note(pod.object_ref(&()), "AddressTakenOver", "BindAddress", &note).await;
    }
    Ok(again)
}

/// The pod's workloads. They are climbed only where something depends on it; and what was known before is not given up
/// for less.
async fn owners_of(pod: &Pod, wish: &AddressWish, claim: Option<&VpcIPClaim>, context: &Context) -> Owners {
    let matters = context.config.cascade
        || wish.when_deleted.is_some()
        || wish.when_scaled.is_some()
        || wish.takeover == Some(Takeover::SameWorkload);
    let direct = controller(pod.owner_references());
    if !matters {
        return Owners { top: direct, maker: None, complete: true };
    }
    let owners = context.workloads.owners_of(pod).await;
    match claim {
        Some(claim) if !owners.complete && claim.spec.maker.is_some() && claim.spec.maker == direct => {
            Owners { top: claim.spec.owner.clone(), maker: claim.spec.maker.clone(), complete: true }
        }
        _ => owners,
    }
}
