//! All ENIs that carry the cluster's tag, looked at from time to time: those that nobody needs are collected, those that are
//! stuck are taken back, and objects of primary addresses whose ENI is gone go with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use kube::ResourceExt;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::super::context::Context;
use super::super::error::ReconcileError;
use super::super::write;
use super::new_eni::Intent;
use crate::api::condition::reason;
use crate::api::{IpPhase, VpcIP, VpcIPType};
use crate::cloud::{EniCloudState, EniInfo};
use crate::ipam::pool::collect::{EniSeen, Verdict, verdict};

/// Since when each thing has been seen in a state.
type Seen<S> = HashMap<String, (S, Instant)>;

/// What it remembers between two looks.
#[derive(Default)]
struct Sweep {
    enis: Seen<(EniCloudState, bool, usize)>,
    /// Objects of primary addresses without an ENI.
    orphans: Seen<String>,
    /// Addresses that are bound and not on their ENI.
    lost: Seen<(String, i64)>,
    /// ENIs that are told of as kept for their addresses.
    held: HashSet<String>,
}

/// Looks again and again, for as long as the process lives.
pub async fn run(context: Arc<Context>) {
    let mut sweep = Sweep::default();
    loop {
        if context.ready().await.is_err() {
            // The watches have ended, and with them the process.
            std::future::pending::<()>().await;
        }
        if let Err(error) = sweep.look(&context).await {
            warn!(%error, "ENIs of the cluster not looked at");
        }
        sleep(context.config.eni_period).await;
    }
}

/// Since when it has been in this state.
fn since<S: PartialEq>(seen: &mut Seen<S>, id: &str, state: S) -> Instant {
    let now = Instant::now();
    match seen.get(id) {
        Some((known, since)) if *known == state => *since,
        _ => {
            seen.insert(id.to_owned(), (state, now));
            now
        }
    }
}

impl Sweep {
    async fn look(&mut self, context: &Context) -> Result<(), ReconcileError> {
        let enis = context.provider.enis_of_cluster(&context.config.cluster_id).await?;
        if enis.iter().any(|eni| eni.assignable.is_some()) {
            // They are what a file lists: nothing was made here.
            return Ok(());
        }
        let there: HashSet<&str> = enis.iter().map(|eni| eni.id.as_str()).collect();
        self.enis.retain(|id, _| there.contains(id.as_str()));
        self.held.retain(|id| there.contains(id.as_str()));
        let nodes: BTreeMap<String, String> = (context.stores.configs.state().iter())
            .map(|config| (config.spec.instance_id.clone(), config.name_any()))
            .collect();
        for eni in &enis {
            let node = eni.instance_id.as_ref().and_then(|id| nodes.get(id)).or(eni.node.as_ref());
            if let Err(error) = self.judge(context, eni, node.map(String::as_str)).await {
                warn!(eni = eni.id, %error, "not collected");
            }
        }
        self.forget_primaries(context, &enis).await?;
        self.restore_addresses(context, &enis).await;
        Ok(())
    }

    /// An address that is bound is on its ENI, or was taken off behind our back: then it is put back, unless somebody else
    /// has it by now.
    async fn restore_addresses(&mut self, context: &Context, enis: &[EniInfo]) {
        let mut lost = HashSet::new();
        for ip in context.stores.ips.state().iter().filter(|ip| ip.spec.type_ == VpcIPType::Pod) {
            let status = ip.state();
            let (Some(eni_id), Ok(address)) = (status.eni_id, ip.spec.ip.parse::<IpAddr>()) else { continue };
            let on = enis.iter().find(|eni| eni.id == eni_id && eni.state == EniCloudState::Attached);
            if status.phase != IpPhase::Bound || on.is_none_or(|eni| eni.secondary_ips.contains(&address)) {
                continue;
            }
            let name = ip.name_any();
            lost.insert(name.clone());
            let period = context.config.eni_period;
            if since(&mut self.lost, &name, (eni_id.clone(), status.epoch)).elapsed() < period {
                continue;
            }
            let live = write::live(&context.ips(), &name).await.ok().flatten().map(|ip| ip.state());
            if live.is_none_or(|live| live.phase != IpPhase::Bound || live.epoch != status.epoch) {
                continue;
            }
            let end = match context.provider.assign_ips(&eni_id, &[address]).await {
                Ok(()) => "it was put back".to_owned(),
                Err(error) => format!("it could not be put back: {}", error.words()),
            };
            let note = format!("{address} was not on {eni_id} any more, though a pod has it; {end}");
            warn!("{note}");
            let node = status.node_name.unwrap_or_else(|| "-".into());
            context.warn_of_node(&node, "AddressLost", "RestoreAddress", &note).await;
        }
        self.lost.retain(|name, _| lost.contains(name));
    }

    async fn judge(
        &mut self,
        context: &Context,
        eni: &EniInfo,
        node: Option<&str>,
    ) -> Result<(), ReconcileError> {
        let config = &context.config;
        let mut seen = see(context, eni, node, false).await?;
        let state = (eni.state, seen.expected, seen.holds);
        seen.seen_for = since(&mut self.enis, &eni.id, state).elapsed();
        let verdict_now = verdict(&seen, config.eni_period, config.eni_stuck);
        if verdict_now != Verdict::Hold {
            self.held.remove(&eni.id);
        }
        match verdict_now {
            Verdict::Keep | Verdict::Watch => Ok(()),
            Verdict::Hold => {
                if self.held.insert(eni.id.clone()) {
                    let note = format!(
                        "{} is on no machine and stays for {} addresses that claims hold: they go to their next pod's ENI, and \
                         then it is deleted",
                        eni.id, seen.holds
                    );
                    context.warn_of_node(node.unwrap_or("-"), "ENIKept", "CollectENI", &note).await;
                }
                Ok(())
            }
            Verdict::Collect | Verdict::Unstick => {
                // Not by a cache: the node may have come back, an address may have found an owner.
                let live = EniSeen { seen_for: seen.seen_for, ..see(context, eni, node, true).await? };
                if verdict(&live, config.eni_period, config.eni_stuck) != verdict_now
                    || !is_still(eni, context).await?
                {
                    return Ok(());
                }
                self.collect(context, eni, node, verdict_now).await
            }
        }
    }

    async fn collect(
        &mut self,
        context: &Context,
        eni: &EniInfo,
        node: Option<&str>,
        why: Verdict,
    ) -> Result<(), ReconcileError> {
        if why == Verdict::Unstick {
            context.provider.detach_eni(&eni.id).await?;
        }
        // An ENI that is on a machine by now is refused.
        context.provider.delete_eni(&eni.id).await?;
        self.enis.remove(&eni.id);
        let (reason, note) = match why {
            Verdict::Unstick => {
                (reason::ENI_STUCK, format!("{} was {:?} for too long and was deleted", eni.id, eni.state))
            }
            _ => ("ENICollected", format!("{} was on no machine and held nothing: deleted", eni.id)),
        };
        info!(eni = eni.id, ?node, "{note}");
        context.warn_of_node(node.unwrap_or("-"), reason, "CollectENI", &note).await;
        context.pools.room.made();
        Ok(())
    }

    /// The object of a primary address goes when two looks have shown that there is no such ENI.
    async fn forget_primaries(&mut self, context: &Context, enis: &[EniInfo]) -> Result<(), ReconcileError> {
        let primaries: HashSet<IpAddr> = enis.iter().map(|eni| eni.primary_ip.into()).collect();
        let intents = context.pools.intents.all();
        let mut orphans = HashSet::new();
        for ip in context.stores.ips.state().iter().filter(|ip| ip.spec.type_ == VpcIPType::Eni) {
            let name = ip.name_any();
            let intended = intents.get(&name).is_some_and(|intent| is_fresh(intent, context));
            let exists = ip.spec.ip.parse().is_ok_and(|ip| primaries.contains(&ip));
            if exists || intended {
                continue;
            }
            orphans.insert(name.clone());
            let uid = ip.uid().unwrap_or_default();
            let period = match ip.state().phase {
                IpPhase::Quarantined => context.config.quarantine,
                _ => context.config.eni_period,
            };
            if since(&mut self.orphans, &name, uid).elapsed() < period {
                continue;
            }
            context.pools.intents.forget(&name);
            write::delete(&context.ips(), &**ip).await?;
            info!(ip = name, "no ENI has this primary address any more");
            context.pools.room.made();
        }
        self.orphans.retain(|name, _| orphans.contains(name));
        Ok(())
    }
}

/// Whether an ENI that is on a machine, or on its way, is as it was when the look began: it may have arrived since.
async fn is_still(eni: &EniInfo, context: &Context) -> Result<bool, ReconcileError> {
    let Some(machine) = &eni.instance_id else { return Ok(true) };
    let now = context.provider.enis_of(machine).await?.into_iter().find(|now| now.id == eni.id);
    Ok(now.is_none_or(|now| now.state == eni.state && now.secondary_ips == eni.secondary_ips))
}

/// Whether somebody is at it still: what is intended is tried again at least so often.
fn is_fresh(intent: &Intent, context: &Context) -> bool {
    intent.asked.elapsed() < context.config.eni_period.max(2 * context.config.retry_max)
}

/// What bears on an ENI: by the caches, or by the API itself.
async fn see(
    context: &Context,
    eni: &EniInfo,
    node: Option<&str>,
    live: bool,
) -> Result<EniSeen, ReconcileError> {
    let mut holds = 0;
    for ip in &eni.secondary_ips {
        let name = VpcIP::name_of(*ip);
        let known = match live {
            true => write::live(&context.ips(), &name).await?.is_some(),
            false => context.stores.ips.get(&kube::runtime::reflector::ObjectRef::new(&name)).is_some(),
        };
        holds += usize::from(known);
    }
    let node_exists = match node {
        None => None,
        Some(node) => Some(!context.node_gone(node).await?),
    };
    let primary = VpcIP::name_of(eni.primary_ip.into());
    let listed = context.stores.configs.state().iter().any(|config| {
        config.status.iter().flat_map(|status| &status.enis).any(|known| known.id == eni.id)
            && eni.instance_id.as_ref() == Some(&config.spec.instance_id)
    });
    let intended = context.pools.intents.all().get(&primary).is_some_and(|intent| is_fresh(intent, context));
    let (on_machine, settled) = match eni.state {
        EniCloudState::Attached => (true, true),
        EniCloudState::Available => (false, true),
        EniCloudState::Attaching | EniCloudState::Detaching => (true, false),
        EniCloudState::Pending | EniCloudState::Deleting => (false, false),
    };
    Ok(EniSeen {
        primary: eni.primary,
        on_machine,
        settled,
        node_exists,
        expected: listed || intended,
        holds,
        seen_for: std::time::Duration::ZERO,
    })
}
