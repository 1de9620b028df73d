//! Keeps what attachments have on the node as the journal says: adopts it after a restart, repairs drift, finishes
//! what was left half-way, and collects attachments whose namespace is gone.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    dataplane::{LinkPin, Program},
    netlink::{Link, PodHostRoute},
    node::{
        attach::pod_route,
        context::{Node, is_host_link},
        failure::Failure,
        journal::{Change, Record, State},
        names::HOST_IFNAME_PREFIX,
    },
};

/// How often drift is looked for.
const PERIOD: Duration = Duration::from_secs(5);

/// What a look at the node found, once for all attachments. Taken before the journal is read: whatever is in it
/// without a record has none since before this look.
struct Seen {
    links: Vec<Link>,
    routes: Vec<PodHostRoute>,
    pins: Vec<LinkPin>,
}

impl Seen {
    async fn now(node: &Node) -> Result<Self, Failure> {
        let pins = node.dataplane().links()?;
        Ok(Self { links: node.net.links().await?, routes: node.net.pod_routes().await?, pins })
    }
}

/// Makes the node agree with the journal before the first call is answered. Existing traffic is not touched: map
/// entries and routes that are right are left alone, and programs are replaced in one step.
///
/// # Errors
/// When the kernel, the dataplane or the journal refuse.
pub async fn adopt(node: &Node) -> Result<(), Failure> {
    let before = node.journal.book().attachments.len();
    for record in node.journal.book().attachments.values() {
        if record.state != State::Committed {
            info!(key = ?record.key, state = ?record.state, "taking away what was left half-way");
            node.take_away(record).await?;
        }
    }
    let seen = Seen::now(node).await?;
    for record in node.journal.book().attachments.values() {
        match seen.links.iter().find(|link| is_host_link(record, link)) {
            // The programs are this agent's now, whatever they were.
            Some(link) => {
                node.dataplane().attach_pod(link.index, &link.name)?;
                restore(node, record, link, &seen).await?;
            }
            None => note_missing(node, record),
        }
    }
    remove_strays(node, &seen).await?;
    let now = node.journal.book().attachments.len();
    info!(attachments = now, undone = before - now, "attachments of the journal adopted");
    Ok(())
}

/// Repairs until the process ends.
pub async fn keep(node: Arc<Node>) {
    let mut tick = tokio::time::interval(PERIOD.min(node.config.gc_period));
    loop {
        tick.tick().await;
        let result = repair(&node).await;
        if let Err(failure) = &result {
            warn!(%failure, "attachments are not as they should be; trying again");
        }
        node.broken.store(matches!(result, Err(Failure::Dataplane(_))), Ordering::Relaxed);
    }
}

/// One look at every attachment that no call is at work on.
///
/// # Errors
/// The first error; every other attachment was looked at nevertheless.
async fn repair(node: &Node) -> Result<(), Failure> {
    let seen = Seen::now(node).await?;
    let mut result = Ok(());
    for key in node.journal.book().attachments.keys() {
        let Some(_locked) = node.locks.try_lock(key) else { continue };
        let Some(record) = node.journal.get(key) else { continue };
        if let Err(failure) = repair_one(node, &record, &seen).await {
            warn!(?key, %failure, "cannot repair an attachment");
            if result.is_ok() {
                result = Err(failure);
            }
        }
    }
    result
}

async fn repair_one(node: &Node, record: &Record, seen: &Seen) -> Result<(), Failure> {
    if record.state != State::Committed {
        return node.take_away(record).await;
    }
    if let Some(link) = seen.links.iter().find(|link| is_host_link(record, link)) {
        node.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.key);
        return restore(node, record, link, seen).await;
    }
    // The link may have come after this look was taken.
    if node.host_link(record).await?.is_some() || missing_for(node, record) < node.config.gc_period {
        note_missing(node, record);
        return Ok(());
    }
    info!(key = ?record.key, ip = %record.ip, "the pod's namespace is gone: detaching");
    node.journal.change(Change::Detach(record.key.clone())).await?;
    node.take_away(record).await?;
    node.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.key);
    Ok(())
}

fn note_missing(node: &Node, record: &Record) {
    let mut missing = node.missing.lock().unwrap_or_else(PoisonError::into_inner);
    missing.entry(record.key.clone()).or_insert_with(Instant::now);
}

fn missing_for(node: &Node, record: &Record) -> Duration {
    let missing = node.missing.lock().unwrap_or_else(PoisonError::into_inner);
    missing.get(&record.key).map_or(Duration::ZERO, Instant::elapsed)
}

/// Puts back whatever an attachment lacks.
async fn restore(node: &Node, record: &Record, link: &Link, seen: &Seen) -> Result<(), Failure> {
    if !link.up {
        warn!(link = link.name, "repaired: the link was down");
        node.net.set_up(link.index).await?;
    }
    let pinned = |pin: &LinkPin| {
        pin.program == Program::FromPod && (pin.ifindex, &pin.ifname) == (link.index, &link.name)
    };
    if !seen.pins.iter().any(pinned) {
        node.dataplane().attach_pod(link.index, &link.name)?;
        warn!(link = link.name, "repaired: the program was not attached");
    }
    let _address = node.addresses.lock(&record.ip).await;
    if node.journal.book().owner_of(record.ip).is_none_or(|owner| owner.key != record.key) {
        return Ok(());
    }
    let expected = pod_route(record, link.index)?;
    let found = node.dataplane().route(record.ip)?;
    if found != Some(expected) {
        node.dataplane().set_route(record.ip, &expected)?;
        warn!(ip = %record.ip, ?found, "repaired: the map entry was missing or wrong");
    }
    let route = PodHostRoute { ip: record.ip, ifindex: link.index };
    // A link that was down has lost its routes.
    if !link.up || !seen.routes.contains(&route) {
        node.net.set_pod_route(route).await?;
        warn!(ip = %record.ip, link = link.name, "repaired: the route was missing or wrong");
    }
    Ok(())
}

/// Removes what is ours by name or mark, but of no attachment. Only before the first call: an ADD under way would make
/// such things.
async fn remove_strays(node: &Node, seen: &Seen) -> Result<(), Failure> {
    let book = node.journal.book();
    let known = |ifindex: u32| book.attachments.values().any(|record| record.host_ifindex == Some(ifindex));
    // Not in the head of the loop, which would hold the dataplane through its body.
    let entries = node.dataplane().routes()?;
    for (ip, route) in entries {
        if book.owner_of(ip).is_none() {
            warn!(%ip, ifindex = route.ifindex, "removing a map entry of no attachment");
            node.dataplane().remove_route(ip, Some(route.ifindex))?;
        }
    }
    for route in &seen.routes {
        if book.owner_of(route.ip).is_none() || !known(route.ifindex) {
            warn!(ip = %route.ip, ifindex = route.ifindex, "removing a route of no attachment");
            node.net.remove_pod_route(*route).await?;
        }
    }
    let names: HashSet<_> = book.attachments.values().map(|record| record.host_ifname.as_str()).collect();
    for pin in seen.pins.iter().filter(|pin| pin.program == Program::FromPod) {
        if !names.contains(pin.ifname.as_str()) {
            warn!(link = pin.ifname, "removing the program of no attachment");
            node.dataplane().detach(&pin.ifname)?;
        }
    }
    for link in &seen.links {
        if is_host_ifname(&link.name) && link.kind == "veth" && !names.contains(link.name.as_str()) {
            warn!(link = link.name, "removing a link of no attachment");
            node.net.delete_link(link.index).await?;
        }
    }
    Ok(())
}

/// Whether only we give links such a name.
fn is_host_ifname(name: &str) -> bool {
    let lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    name.strip_prefix(HOST_IFNAME_PREFIX).is_some_and(|rest| rest.len() == 11 && rest.chars().all(lower_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_ours() {
        assert!(is_host_ifname("ipam0123456789a"));
        for other in ["ipam", "ipam0", "ipam0123456789g", "ipam0123456789A", "veth0123456789a"] {
            assert!(!is_host_ifname(other), "{other}");
        }
    }
}
