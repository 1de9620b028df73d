//! What the agent has put into the dataplane that is of no single pod: ENIs, destinations of the stack, the node's own
//! addresses, the programs of ENIs. What was put there last is what should be there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipam_common::Eni;
use ipnet::IpNet;

use crate::{
    dataplane::{DataplaneError, Program},
    netlink::Link,
    node::{
        context::Node,
        drift::{Kind, dataplane::note_attached},
    },
};

#[derive(Default)]
struct Written {
    enis: BTreeMap<u32, Eni>,
    /// Every slot that is not in `enis` is to be empty. Not so until the API has told of the node's ENIs: a new journal
    /// takes the slots over from the map.
    all_enis: bool,
    stack_cidrs: Option<Vec<IpNet>>,
    node_addrs: Option<BTreeMap<IpAddr, u32>>,
    /// Names of the devices that a program of ENIs was attached to, by program and index.
    programs: BTreeMap<(Program, u32), String>,
}

/// What should be in the maps; nothing is known at first.
#[derive(Default)]
pub struct Tables(Mutex<Written>);

impl Tables {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What should be in a slot of `ENIS`, as far as this process has written it.
    #[must_use]
    pub fn eni(&self, slot: u32) -> Option<Eni> {
        self.lock().enis.get(&slot).copied()
    }

    /// From now on slots that were never written are to be empty.
    pub fn all_enis_are_known(&self) {
        self.lock().all_enis = true;
    }
}

/// Writes a slot of `ENIS`, unless it was written so before.
///
/// # Errors
/// When the kernel refuses.
pub fn set_eni(node: &Node, slot: u32, eni: &Eni) -> Result<(), DataplaneError> {
    let mut written = node.tables.lock();
    if written.enis.get(&slot) != Some(eni) {
        node.dataplane().set_eni(slot, eni)?;
        written.enis.insert(slot, *eni);
    }
    Ok(())
}

/// Makes these the destinations that belong to the stack.
///
/// # Errors
/// As [`crate::dataplane::Dataplane::set_stack_cidrs`].
pub fn set_stack_cidrs(node: &Node, cidrs: &[IpNet]) -> Result<(), DataplaneError> {
    let mut wanted: Vec<IpNet> = cidrs.iter().map(IpNet::trunc).collect();
    wanted.sort();
    wanted.dedup();
    let mut written = node.tables.lock();
    if written.stack_cidrs.as_ref() != Some(&wanted) {
        node.dataplane().set_stack_cidrs(&wanted)?;
        written.stack_cidrs = Some(wanted);
    }
    Ok(())
}

/// Makes these the node's own addresses, each with the slot of its ENI.
///
/// # Errors
/// When the kernel refuses.
pub fn set_node_addrs(node: &Node, addrs: BTreeMap<IpAddr, u32>) -> Result<(), DataplaneError> {
    let mut written = node.tables.lock();
    if written.node_addrs.as_ref() != Some(&addrs) {
        node.dataplane().set_node_addrs(&addrs)?;
        written.node_addrs = Some(addrs);
    }
    Ok(())
}

/// Attaches a program of ENIs, unless it is attached; where this agent had attached it before, that is a repair.
///
/// # Errors
/// When the interface does not exist or has another name, or the kernel refuses.
pub fn attach(node: &Node, program: Program, link: &Link) -> Result<(), DataplaneError> {
    let mut written = node.tables.lock();
    let attached = node.dataplane().keep_attached(program, link.index, &link.name)?;
    if written.programs.insert((program, link.index), link.name.clone()).is_some() {
        note_attached(node, attached, program.name(), &link.name);
    }
    Ok(())
}

/// A program is attached to these devices and no others.
pub fn forget_others(node: &Node, program: Program, ifindexes: &[u32]) {
    let keep = |key: &(Program, u32)| key.0 != program || ifindexes.contains(&key.1);
    node.tables.lock().programs.retain(|key, _| keep(key));
}

/// Compares the maps with what was written, and the programs with what was attached; repairs what differs.
///
/// # Errors
/// When the kernel refuses.
pub fn keep(node: &Node) -> Result<(), DataplaneError> {
    let written = node.tables.lock();
    for ((program, ifindex), ifname) in &written.programs {
        let attached = node.dataplane().keep_attached(*program, *ifindex, ifname);
        match attached {
            Ok(attached) => note_attached(node, attached, program.name(), ifname),
            // Gone or renamed: for the look at links to judge.
            Err(DataplaneError::Interface { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut dataplane = node.dataplane();
    let found: BTreeMap<u32, Eni> = dataplane.enis()?.into_iter().collect();
    let strangers = found.keys().filter(|slot| written.all_enis && !written.enis.contains_key(slot));
    let empty = strangers.map(|slot| (slot, &Eni::EMPTY));
    for (slot, wanted) in written.enis.iter().chain(empty) {
        let there = found.get(slot).unwrap_or(&Eni::EMPTY);
        if there != wanted {
            dataplane.set_eni(*slot, wanted)?;
            node.repairs.done(Kind::MapEntry, format_args!("ENI slot {slot}"), format_args!("{there:?}"));
        }
    }
    if let Some(wanted) = &written.stack_cidrs {
        let found = dataplane.stack_cidrs()?;
        if found != *wanted {
            dataplane.set_stack_cidrs(wanted)?;
            node.repairs.done(Kind::MapEntry, "stack CIDRs", format_args!("{found:?}"));
        }
    }
    if let Some(wanted) = &written.node_addrs {
        let found = dataplane.node_addrs()?;
        if found != *wanted {
            dataplane.set_node_addrs(wanted)?;
            node.repairs.done(Kind::MapEntry, "node addresses", format_args!("{found:?}"));
        }
    }
    Ok(())
}
