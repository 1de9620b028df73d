//! Keeps what attachments have on the node as the journal says: adopts it after a restart, repairs drift, finishes
//! what was left half-way, and collects attachments whose namespace is gone.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::PoisonError,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    dataplane::Program,
    netlink::{Link, PodHostRoute},
    node::{
        context::{Node, is_host_link},
        drift::{Kind, dataplane, links, settings},
        failure::Failure,
        journal::{Change, Record, State},
        names::is_host_ifname,
    },
};

/// What a look at the node found, once for all attachments. Taken before the journal is read: whatever is in it
/// without a record has none since before this look.
struct Seen {
    links: Vec<Link>,
    routes: Vec<PodHostRoute>,
}

impl Seen {
    async fn now(node: &Node) -> Result<Self, Failure> {
        Ok(Self { links: node.net.links().await?, routes: node.net.pod_routes().await? })
    }
}

/// Makes the node agree with the journal before the first call is answered. Existing traffic is not touched: map
/// entries and routes that are right are left alone, and programs are replaced in one step. An attachment that cannot be
/// put right now is left to the repair: it keeps no other from being served.
///
/// # Errors
/// When the kernel or the dataplane cannot be looked at, or the journal cannot be written.
pub async fn adopt(node: &Node) -> Result<(), Failure> {
    let before = node.journal.book().attachments.len();
    for record in node.journal.book().attachments.values() {
        if record.state != State::Committed {
            info!(key = ?record.key, state = ?record.state, "taking away what was left half-way");
            let done = node.take_away(record).await;
            go_on(node, record, done)?;
        }
    }
    let seen = Seen::now(node).await?;
    for record in node.journal.book().attachments.values() {
        match seen.links.iter().find(|link| is_host_link(record, link)) {
            // The programs are this agent's now, whatever they were.
            Some(link) => go_on(node, record, adopt_one(node, record, link, &seen).await)?,
            None => note_missing(node, record),
        }
    }
    remove_strays(node, &seen).await?;
    let now = node.journal.book().attachments.len();
    info!(attachments = now, undone = before - now, "attachments of the journal adopted");
    Ok(())
}

async fn adopt_one(node: &Node, record: &Record, link: &Link, seen: &Seen) -> Result<(), Failure> {
    node.attach_programs(link)?;
    restore(node, record, link, seen).await
}

/// Leaves an attachment that cannot be put right to the repair. A journal that is not written any more is all of them.
fn go_on(node: &Node, record: &Record, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if node.journal.failure().is_none() => {
            warn!(key = ?record.key, %failure, "cannot put an attachment right at the start; the repair goes on");
            Ok(())
        }
        result => result,
    }
}

/// One look at every attachment that no call is at work on.
///
/// # Errors
/// The first error; every other attachment was looked at nevertheless.
pub async fn repair(node: &Node) -> Result<(), Failure> {
    let seen = Seen::now(node).await?;
    let mut result = Ok(());
    forget_gone(node);
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
    remove_stray_routes(node, &seen).await?;
    result
}

async fn repair_one(node: &Node, record: &Record, seen: &Seen) -> Result<(), Failure> {
    if record.state != State::Committed {
        return node.take_away(record).await;
    }
    if let Some(link) = seen.links.iter().find(|link| is_host_link(record, link)) {
        node.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.key);
        if node.cut.has(&record.key) {
            return Ok(());
        }
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

/// Forgets links that were missed of attachments that are no more.
fn forget_gone(node: &Node) {
    let book = node.journal.book();
    let mut missing = node.missing.lock().unwrap_or_else(PoisonError::into_inner);
    missing.retain(|key, _| book.attachments.contains_key(key));
}

fn missing_for(node: &Node, record: &Record) -> Duration {
    let missing = node.missing.lock().unwrap_or_else(PoisonError::into_inner);
    missing.get(&record.key).map_or(Duration::ZERO, Instant::elapsed)
}

/// Puts back whatever an attachment lacks.
async fn restore(node: &Node, record: &Record, link: &Link, seen: &Seen) -> Result<(), Failure> {
    let link = &links::keep(node, record, link).await?;
    settings::keep_forwarding(node, link, true).await?;
    if record.ips().any(|ip| ip.is_ipv6()) {
        settings::keep_ipv6(node, &link.name);
    }
    dataplane::restore(node, record, link).await?;
    let _addresses = node.lock_addresses(record).await;
    for ip in record.ips() {
        restore_route(node, record, ip, link, seen).await?;
    }
    Ok(())
}

/// Puts back the host stack's route to an address, unless another attachment has taken it over.
async fn restore_route(
    node: &Node,
    record: &Record,
    ip: IpAddr,
    link: &Link,
    seen: &Seen,
) -> Result<(), Failure> {
    if node.cut.has(&record.key)
        || node.journal.book().owner_of(ip).is_none_or(|owner| owner.key != record.key)
    {
        return Ok(());
    }
    let route = PodHostRoute { ip, ifindex: link.index };
    if !link.up {
        // It has lost its routes with that.
        node.route_stack(record, route).await?;
    } else if !seen.routes.contains(&route) {
        node.route_stack(record, route).await?;
        let found = format_args!("no route to {} in the main table", link.name).to_string();
        node.repairs.done(Kind::PodRoute, ip, found);
    }
    Ok(())
}

/// Removes routes that bear our mark, but lead to an address of no attachment.
async fn remove_stray_routes(node: &Node, seen: &Seen) -> Result<(), Failure> {
    let unknown = |ip| !node.journal.book().attachments.values().any(|record| record.has(ip));
    for route in seen.routes.iter().filter(|route| unknown(route.ip)) {
        // An ADD is in the journal before it takes this lock and makes the route.
        let _address = node.addresses.lock(&route.ip).await;
        if unknown(route.ip) {
            node.net.remove_pod_route(*route).await?;
            node.repairs.done(
                Kind::PodRoute,
                route.ip,
                format_args!("a route to link {}, of no attachment", route.ifindex),
            );
        }
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
    let pins = node.dataplane().links()?;
    for pin in pins.iter().filter(|pin| matches!(pin.program, Program::FromPod | Program::ToPod)) {
        if !names.contains(pin.ifname.as_str()) {
            warn!(link = pin.ifname, "removing the program of no attachment");
            node.dataplane().detach(&pin.ifname)?;
        }
    }
    for link in &seen.links {
        if is_host_ifname(&link.name) && link.kind == "veth" && !names.contains(link.name.as_str()) {
            if book.rebuilding {
                // Nothing leads to it; but whether it is a pod's, nobody can tell.
                warn!(link = link.name, "leaving a link that no journal knows to its namespace");
                continue;
            }
            warn!(link = link.name, "removing a link of no attachment");
            node.net.delete_link(link.index).await?;
        }
    }
    Ok(())
}
