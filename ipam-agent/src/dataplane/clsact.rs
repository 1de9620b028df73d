//! Filters of a clsact qdisc: how programs are attached where there is no TCX.
//!
//! A filter lives as long as its interface, so it outlives the agent without a pin. Ours has one priority and one handle
//! on every hook: a hook can have no second one, replacing it is one request that the kernel carries out in one step, and
//! finding it takes no list. It is ours if its program has the name of one of ours as well.
//!
//! The qdisc is made when it is missing and never removed: an empty one does nothing, and others may have come to use it.

mod request;

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::programs::SchedClassifier;

use self::request::{Filter, Rtnl};
use super::{
    Attached, DataplaneError, Hook, LinkPin, Program,
    error::chain,
    link_pins::{check_name, name_of},
};

/// Attaches `program` as `wanted` says, in the place of our filter on this hook if there is one.
pub fn attach(program: &SchedClassifier, wanted: &LinkPin) -> Result<Attached, DataplaneError> {
    check_name(wanted)?;
    put(program, wanted)
}

/// Gives every one of our filters of this program's kind the program.
pub fn replace_all(program: &SchedClassifier, kind: Program) -> Result<(), DataplaneError> {
    list()?.iter().filter(|link| link.program == kind).try_for_each(|link| put(program, link).map(|_| ()))
}

fn put(program: &SchedClassifier, wanted: &LinkPin) -> Result<Attached, DataplaneError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DataplaneError::Attach {
        program: wanted.program.name(),
        ifname: wanted.ifname.clone(),
        source,
    };
    let id = program.info().map_err(|error| failed(chain(&error).into()))?.id();
    let fd = program.fd().map_err(|error| failed(chain(&error).into()))?;
    let put = || -> io::Result<Attached> {
        let mut rtnl = Rtnl::open()?;
        let hook = wanted.program.hook();
        let former = rtnl.our_filter(wanted.ifindex, hook)?;
        if former.as_ref().is_some_and(|former| former.program_id == Some(id)) {
            return Ok(Attached::Unchanged);
        }
        if former.is_none() {
            rtnl.ensure_qdisc(wanted.ifindex)?;
        }
        rtnl.put_filter(wanted.ifindex, hook, fd.as_fd().as_raw_fd(), wanted.program.name())?;
        Ok(if former.is_none() { Attached::New } else { Attached::Replaced })
    };
    put().map_err(|error| failed(error.into()))
}

/// Our filters on the interfaces of this thread's network namespace, sorted.
pub fn list() -> Result<Vec<LinkPin>, DataplaneError> {
    let mut found = Vec::new();
    let mut look = || -> io::Result<()> {
        let mut rtnl = Rtnl::open()?;
        for (ifindex, ifname) in rtnl.interfaces()? {
            for hook in [Hook::Ingress, Hook::Egress] {
                if let Some(program) = rtnl.our_filter(ifindex, hook)?.and_then(|filter| filter.ours()) {
                    found.push(LinkPin { ifname: ifname.clone(), ifindex, program });
                }
            }
        }
        Ok(())
    };
    look().map_err(|source| DataplaneError::Filters {
        action: "list",
        ifname: "every interface".into(),
        source,
    })?;
    found.sort();
    Ok(found)
}

/// Removes our filter of this program. Not an error when there is none.
pub fn remove(link: &LinkPin) -> Result<(), DataplaneError> {
    let remove = || -> io::Result<()> {
        let mut rtnl = Rtnl::open()?;
        let hook = link.program.hook();
        match rtnl.our_filter(link.ifindex, hook)? {
            Some(filter) if filter.ours() == Some(link.program) => rtnl.delete_filter(link.ifindex, hook),
            _ => Ok(()),
        }
    };
    remove().map_err(|source| DataplaneError::Filters {
        action: "remove",
        ifname: link.ifname.clone(),
        source,
    })
}

/// Names of the programs of all filters of a hook, ours or not, in their order.
pub fn programs(ifindex: u32, hook: Hook) -> Result<Vec<String>, DataplaneError> {
    let list = || Rtnl::open()?.filters(ifindex, hook);
    let filters = list().map_err(|source| DataplaneError::Filters {
        action: "list",
        ifname: name_of(ifindex).unwrap_or_else(|| ifindex.to_string()),
        source,
    })?;
    Ok(filters.into_iter().map(|filter| filter.name).collect())
}

impl Filter {
    /// Which of our programs it is by its name.
    fn ours(&self) -> Option<Program> {
        Program::ALL.into_iter().find(|program| program.name() == self.name)
    }
}
