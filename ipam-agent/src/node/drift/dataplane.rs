//! Programs, pins and map entries of attachments. Nothing tells of their change, so they are looked at every other second;
//! nothing here waits for anything.

use ipam_common::PodRoute;

use crate::{
    dataplane::{Attached, DataplaneError},
    netlink::Link,
    node::{
        attach::pod_route,
        context::Node,
        drift::Kind,
        failure::Failure,
        journal::{BoundAddress, Record, State},
    },
};

/// Looks at everything in the dataplane once, but for the attachments that a call is at work on.
///
/// # Errors
/// The first error; everything else was looked at nevertheless.
pub async fn keep(node: &Node) -> Result<(), Failure> {
    let mut result = keep_pins(node).map_err(Failure::from);
    let mut keep_first = |failure: Failure| {
        if result.is_ok() {
            result = Err(failure);
        }
    };
    crate::node::drift::tables::keep(node).unwrap_or_else(|error| keep_first(error.into()));
    for key in node.journal.book().attachments.keys() {
        let Some(_locked) = node.locks.try_lock(key) else { continue };
        let Some(record) = node.journal.get(key).filter(|record| record.state == State::Committed) else {
            continue;
        };
        let Some(ifindex) = record.host_ifindex else { continue };
        match keep_programs(node, ifindex, &record.host_ifname) {
            // Gone or renamed: for the look at links to judge.
            Ok(()) | Err(DataplaneError::Interface { .. }) => {}
            Err(error) => keep_first(error.into()),
        }
        keep_entries(node, &record, ifindex).await.unwrap_or_else(&mut keep_first);
    }
    remove_stray_entries(node).await.unwrap_or_else(&mut keep_first);
    result
}

/// Pins again what lost its pin.
fn keep_pins(node: &Node) -> Result<(), DataplaneError> {
    // A variable, for the dataplane must not stay locked.
    let pinned = node.dataplane().keep_pins();
    match pinned {
        Ok(names) => {
            for name in names {
                node.repairs.done(Kind::Pin, name, "no pin");
            }
            Ok(())
        }
        Err(error) => {
            node.repairs.failed(Kind::Pin, node.config.bpffs_dir.display(), &error);
            Err(error)
        }
    }
}

/// Keeps the programs of a pod's link attached, once each.
///
/// # Errors
/// When the kernel refuses, as it does when the link is gone or has another name.
pub fn keep_programs(node: &Node, ifindex: u32, ifname: &str) -> Result<(), DataplaneError> {
    for program in node.pod_programs() {
        let attached = node.dataplane().keep_attached(*program, ifindex, ifname)?;
        note_attached(node, attached, program.name(), ifname);
    }
    Ok(())
}

/// Counts a program that had to be attached again.
pub fn note_attached(node: &Node, attached: Attached, program: &str, ifname: &str) {
    let found = match attached {
        Attached::Unchanged => return,
        Attached::New => "not attached",
        Attached::Replaced => "another program in its place",
    };
    node.repairs.done(Kind::Program, format_args!("{program} on {ifname}"), found);
}

/// Programs and map entry of a link that was found by a look at all links.
///
/// # Errors
/// When the kernel refuses.
pub async fn restore(node: &Node, record: &Record, link: &Link) -> Result<(), Failure> {
    keep_programs(node, link.index, &link.name)?;
    keep_entries(node, record, link.index).await
}

/// The pod's entries and counters.
async fn keep_entries(node: &Node, record: &Record, ifindex: u32) -> Result<(), Failure> {
    for address in record.addresses() {
        keep_entry(node, record, &address, ifindex).await?;
    }
    Ok(())
}

/// The entry and counters of one of the pod's addresses.
async fn keep_entry(
    node: &Node,
    record: &Record,
    address: &BoundAddress,
    ifindex: u32,
) -> Result<(), Failure> {
    let ip = address.ip;
    let _address = node.addresses.lock(&ip).await;
    if node.cut.has(&record.key)
        || node.journal.book().owner_of(ip).is_none_or(|owner| owner.key != record.key)
    {
        return Ok(());
    }
    let expected: PodRoute = pod_route(record, address, ifindex)?;
    let (found, stats) = {
        let dataplane = node.dataplane();
        (dataplane.route(ip)?, dataplane.pod_stats(ip)?)
    };
    let wrong = match found {
        Some(found) if found == expected && stats.is_some() => return Ok(()),
        Some(found) if found == expected => "no counters".to_owned(),
        Some(found) => format!("{found:?}"),
        None => "no entry".to_owned(),
    };
    node.dataplane().set_route(ip, &expected)?;
    node.repairs.done(Kind::MapEntry, format_args!("route of {ip}"), wrong);
    Ok(())
}

/// Removes entries of addresses that no attachment has.
async fn remove_stray_entries(node: &Node) -> Result<(), Failure> {
    // Before the journal is read: what is in it without a record has had none since.
    let entries = node.dataplane().routes()?;
    let unknown = |ip| !node.journal.book().attachments.values().any(|record| record.has(ip));
    for (ip, _) in entries {
        if !unknown(ip) {
            continue;
        }
        // An ADD is in the journal before it takes this lock and writes the entry.
        let _address = node.addresses.lock(&ip).await;
        let route = node.dataplane().route(ip)?;
        if let Some(route) = route.filter(|_| unknown(ip)) {
            node.dataplane().remove_route(ip, None)?;
            node.repairs.done(
                Kind::MapEntry,
                format_args!("route of {ip}"),
                format_args!("{route:?}, of no attachment"),
            );
        }
    }
    Ok(())
}
