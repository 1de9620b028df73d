//! A node's warm addresses: filled up when there are few, taken back when there have been many for a while.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use tracing::{debug, info};

use super::super::context::Context;
use super::super::write;
use super::round::Round;
use crate::api::VpcIP;
use crate::ipam::family::Family;
use crate::ipam::pool::warm::{WarmTarget, WarmView, Warming, decide, warm_pods};

/// What the node's configuration says, or the flags.
pub fn target(node: &str, context: &Context) -> WarmTarget {
    let own = context.stores.configs.get(&ObjectRef::new(node)).and_then(|config| config.spec.warm);
    own.map_or(context.config.warm, |warm| WarmTarget { min: warm.min as usize, max: warm.max as usize })
}

/// Brings the node's warm addresses between the least and the most.
pub async fn run(round: &mut Round<'_>) {
    let target = target(round.node, round.context);
    // An ENI is filled or drained in one step each.
    for _ in 0..=2 * round.pod_enis().count() {
        let mut view = look(round);
        let warming = decide(&view, target, round.context.config.warm_patience);
        let drains = matches!(warming, Warming::Drain { .. } | Warming::Wait);
        match drains {
            true => drop(round.memory.surplus_since.get_or_insert_with(Instant::now)),
            false => round.memory.surplus_since = None,
        }
        view.surplus_for = round.memory.surplus_for();
        let done = match warming {
            Warming::Rest => break,
            Warming::Wait => break,
            Warming::Fill { eni_id, count } => fill(round, &eni_id, count).await,
            Warming::Drain { eni_id, ips } => drain(round, &eni_id, ips).await,
        };
        if !done {
            break;
        }
    }
    remember(round, target);
}

/// What other tasks must know, and when to look again.
fn remember(round: &mut Round<'_>, target: WarmTarget) {
    let view = look(round);
    round.memory.warm = warm_pods(&view);
    let warm: Vec<IpAddr> = view.enis.iter().flat_map(|eni| eni.warm.iter().copied()).collect();
    let patience = round.context.config.warm_patience;
    let again = round
        .memory
        .surplus_since
        .map(|since| (since + patience).max(Instant::now() + round.context.config.retry));
    let short = (round.memory.warm < target.min).then(|| Instant::now() + patience);
    round.memory.look_at = [again, short].into_iter().flatten().min();
    let mut all = round.context.pools.warm();
    match warm.is_empty() {
        true => drop(all.remove(round.node)),
        false => drop(all.insert(round.node.to_owned(), warm)),
    }
}

fn look(round: &Round<'_>) -> WarmView {
    let context = round.context;
    let mut node = round.view();
    let configured = |id: &str| round.subnets.iter().any(|subnet| subnet.id == id);
    node.enis.retain(|eni| configured(&eni.subnet_id));
    let first = context.config.families.iter().next().unwrap_or(Family::V4);
    let used: usize = (node.enis.iter())
        .map(|eni| eni.ips.difference(&eni.warm).filter(|ip| Family::of(**ip) == first).count())
        .sum();
    let pods = max_pods(round).unwrap_or(node.max_enis * node.max_ips_per_eni);
    let waiting = context.stores.waiting.get("").len() as u64;
    let views = round.subnet_views();
    let of_node = |id: &str| node.enis.iter().any(|eni| eni.subnet_id == id);
    let spare: Vec<(String, u64)> = (views.iter().filter(|subnet| of_node(&subnet.id)))
        .map(|subnet| (subnet.id.clone(), subnet.free(&round.taken).saturating_sub(waiting)))
        .collect();
    let full = views.iter().any(|subnet| of_node(&subnet.id) && subnet.free(&round.taken) < 2);
    WarmView {
        enis: node.enis,
        max_ips_per_eni: node.max_ips_per_eni,
        families: context.config.families.clone(),
        pods_to_come: pods.saturating_sub(used),
        spare,
        others_wait: waiting > 0 && full,
        surplus_for: round.memory.surplus_for(),
    }
}

/// Pods that the kubelet takes.
fn max_pods(round: &Round<'_>) -> Option<usize> {
    let node = round.context.stores.nodes.get(&ObjectRef::new(round.node))?;
    node.status.as_ref()?.allocatable.as_ref()?.get("pods")?.0.parse().ok()
}

async fn fill(round: &mut Round<'_>, eni_id: &str, count: usize) -> bool {
    let Some(subnet_id) = round.pod_enis().find(|eni| eni.id == eni_id).map(|eni| eni.subnet_id.clone())
    else {
        return false;
    };
    let views = round.subnet_views();
    let Some(subnet) = views.iter().find(|subnet| subnet.id == subnet_id) else { return false };
    let mut ips = Vec::new();
    for family in round.context.config.families.iter() {
        for _ in 0..count {
            let free = subnet.net(family).and_then(|net| net.pick(&round.taken, rand::random()));
            let Some(ip) = free else { return false };
            round.taken.insert(ip);
            ips.push(ip);
        }
    }
    match round.context.provider.assign_ips(eni_id, &ips).await {
        Ok(()) => {
            debug!(node = round.node, eni = eni_id, count, "warm");
            if let Some(eni) = round.enis.iter_mut().find(|eni| eni.id == eni_id) {
                eni.secondary_ips.extend(&ips);
            }
            true
        }
        Err(error) => {
            // Some may be there: the next look shows it.
            debug!(node = round.node, eni = eni_id, %error, "not warm");
            false
        }
    }
}

/// Takes warm addresses back. The API itself must say that each is nobody's: absence in a cache releases nothing.
async fn drain(round: &mut Round<'_>, eni_id: &str, ips: Vec<IpAddr>) -> bool {
    let mut free = Vec::new();
    for ip in ips {
        match write::live(&round.context.ips(), &VpcIP::name_of(ip)).await {
            Ok(None) => free.push(ip),
            Ok(Some(_)) => round.own(ip),
            Err(_) => return false,
        }
    }
    if free.is_empty() {
        return true;
    }
    if let Err(error) = round.context.provider.unassign_ips(eni_id, &free).await {
        debug!(node = round.node, eni = eni_id, %error, "not taken back");
        return false;
    }
    info!(node = round.node, eni = eni_id, count = free.len(), "took back addresses that no pod uses");
    let free: BTreeSet<IpAddr> = free.into_iter().collect();
    if let Some(eni) = round.enis.iter_mut().find(|eni| eni.id == eni_id) {
        eni.secondary_ips.retain(|ip| !free.contains(ip));
    }
    for ip in &free {
        round.taken.remove(ip);
    }
    round.context.pools.room.made();
    true
}
