//! Addresses after their claim: off the ENI, through the cooldown, gone. And addresses that have lost their
//! claim.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use tracing::{info, warn};

use super::context::Context;
use super::error::ReconcileError;
use super::{views, write};
use crate::api::{IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPStatus, VpcIPType};
use crate::cloud::CloudErrorKind;

const COOLING: &str = "cooling";
const ORPHAN: &str = "orphan";

/// Takes the next step of an address that no claim takes any more.
pub async fn reconcile(ip: Arc<VpcIP>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let status = ip.state();
    match status.phase {
        _ if ip.spec.type_ == VpcIPType::Eni => Ok(Action::await_change()),
        IpPhase::Cooldown if !context.watches.is_watched(&ip.uid().unwrap_or_default(), COOLING) => {
            take_off_eni(&ip, &status, &context).await
        }
        IpPhase::Cooldown if is_named(&ip, &context) => Ok(Action::requeue(context.config.retry)),
        IpPhase::Cooldown => delete_after(&ip, &status, context.config.cooldown, &context).await,
        IpPhase::Quarantined => delete_after(&ip, &status, context.config.quarantine, &context).await,
        _ => release_orphan(&ip, &status, &context).await,
    }
}

async fn take_off_eni(ip: &VpcIP, status: &VpcIPStatus, context: &Context) -> Result<Action, ReconcileError> {
    if let (Some(eni), Ok(address)) = (ip.eni(), ip.spec.ip.parse()) {
        // Only what its node has let go may wait there for another pod. Of anything else the node may still have a pod,
        // which the cloud must cut off.
        let node = status.node_name.as_deref();
        match context.pools.take_off(node, &eni, address, status.is_let_go()).await {
            Ok(()) => {}
            // An ENI that is gone took its addresses along.
            Err(error) if error.kind == CloudErrorKind::NotFound => {}
            Err(error) => {
                // Without the request's name: the same words again are no write, and so no reason to look again at once.
                write::status(&context.ips(), ip, |ip| {
                    ip.status.get_or_insert_default().message = error.words();
                })
                .await?;
                let passing = error.kind.is_transient();
                let config = &context.config;
                return Ok(Action::requeue(if passing { config.retry } else { config.retry_max }));
            }
        }
    }
    // Not written: after a restart the cloud is asked once more, which changes nothing.
    context.watched_for(&ip.uid().unwrap_or_default(), COOLING);
    context.wake_who_waits_for_room();
    delete_after(ip, status, context.config.cooldown, context).await
}

/// The claim goes, or says that it holds another address, before the object of the released one does: so whoever reads
/// the claim knows what became of the address that it names.
fn is_named(ip: &VpcIP, context: &Context) -> bool {
    let Some(holder) = &ip.spec.claim_ref else { return false };
    let claim = context.stores.claims.get(&ObjectRef::new(&holder.name).within(&holder.namespace));
    claim.filter(|claim| claim.uid().as_ref() == Some(&holder.uid)).is_some_and(|claim| {
        claim.status.iter().flat_map(VpcIPClaimStatus::all_addresses).any(|named| named == ip.spec.ip)
    })
}

/// Deletes the object when both clocks say that the time is over.
async fn delete_after(
    ip: &VpcIP,
    status: &VpcIPStatus,
    period: Duration,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let uid = ip.uid().unwrap_or_default();
    let by_watch = period.saturating_sub(context.watched_for(&uid, COOLING));
    let by_wall = status
        .released_at
        .as_ref()
        .and_then(|since| Duration::try_from(Timestamp::now().duration_since(since.0)).ok())
        .map_or(Duration::ZERO, |passed| period.saturating_sub(passed));
    let left = by_watch.max(by_wall);
    if left > Duration::ZERO {
        return Ok(Action::requeue(left));
    }
    write::delete(&context.ips(), ip).await?;
    context.stop_watching(&uid, COOLING);
    info!(ip = %ip.name_any(), "free");
    Ok(Action::await_change())
}

/// An address whose claim does not exist, or holds another address, is released when it has been seen so
/// twice and the API itself confirms it. A node that may still use it is asked first.
async fn release_orphan(
    ip: &VpcIP,
    status: &VpcIPStatus,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let uid = ip.uid().unwrap_or_default();
    if !is_orphan(ip, context, false).await? {
        context.stop_watching(&uid, ORPHAN);
        return Ok(Action::await_change());
    }
    let watched = context.watched_for(&uid, ORPHAN);
    if watched < context.config.orphan_period {
        return Ok(Action::requeue(context.config.orphan_period - watched));
    }
    if !is_orphan(ip, context, true).await? {
        return Ok(Action::await_change());
    }
    let fenced = status.is_let_go()
        || match &status.node_name {
            Some(node) => context.node_fenced(node).await?,
            None => true,
        };
    let next = match status.phase {
        IpPhase::Bound => IpPhase::Detaching,
        IpPhase::Detaching if !fenced => return Ok(Action::requeue(context.config.orphan_period)),
        _ => IpPhase::Cooldown,
    };
    warn!(ip = %ip.name_any(), ?next, "no claim holds this address");
    write::status(&context.ips(), ip, |ip| {
        let status = ip.status.get_or_insert_default();
        status.phase = next;
        if next == IpPhase::Cooldown {
            status.released_at = Some(Time(Timestamp::now()));
        }
    })
    .await?;
    Ok(Action::requeue(context.config.retry))
}

async fn is_orphan(ip: &VpcIP, context: &Context, live: bool) -> Result<bool, ReconcileError> {
    let Some(holder) = &ip.spec.claim_ref else { return Ok(true) };
    let cached = context.stores.claims.get(&ObjectRef::new(&holder.name).within(&holder.namespace));
    let claim = match cached.filter(|_| !live) {
        Some(claim) => Some(claim),
        None => write::live(&context.claims(&holder.namespace), &holder.name).await?.map(Arc::new),
    };
    Ok(claim.is_none_or(|claim| claim.uid().as_ref() != Some(&holder.uid) || has_left(&claim, ip, context)))
}

/// Whether a claim has left an address for another of the same family, or has its addresses and none of a family that
/// pods do not have any more.
fn has_left(claim: &VpcIPClaim, ip: &VpcIP, context: &Context) -> bool {
    let family = views::family(&ip.spec.ip);
    let held: Vec<&str> = claim.status.iter().flat_map(VpcIPClaimStatus::all_addresses).collect();
    // One that the claim does not want any more is on its way out, and this one is fetched in its place.
    let wants = |held: &str| {
        let named =
            held.parse().ok().and_then(|ip| context.stores.ips.get(&ObjectRef::new(&VpcIP::name_of(ip))));
        named.is_none_or(|named| views::is_wanted(&named, claim))
    };
    let replaced = held.iter().any(|held| views::family(held) == family && wants(held))
        || !family.is_some_and(|family| context.config.families.contains(family));
    !held.is_empty() && replaced && !held.contains(&ip.spec.ip.as_str())
}
