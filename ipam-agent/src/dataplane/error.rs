//! What can go wrong, and what to do about it.

use std::{io, ops::RangeInclusive, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// An error of the dataplane.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The pin directory is on an ordinary file system.
    #[error(
        "`{}` is not on a bpffs: maps and links cannot be pinned there; mount one (`mount -t bpf bpf /sys/fs/bpf`), or \
         choose a directory below it", path.display()
    )]
    NotBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory is somebody else's.
    #[error(
        "`{}` belongs to user {found}, but this agent runs as user {expected}: whoever owns it could change the maps; \
         remove it, or choose another directory", path.display()
    )]
    ForeignOwner {
        /// The pin directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The user of this process.
        expected: u32,
    },
    /// The pin directory cannot be made, read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The maps are those of another version.
    #[error(
        "`{}` holds maps of ABI version {found}, this agent reads versions {} to {}: run the agent that made them, or \
         move the pods away from this node, remove the directory and start again",
        path.display(), readable.start(), readable.end()
    )]
    AbiVersion {
        /// The pin directory.
        path: PathBuf,
        /// The version in its `ABI` map.
        found: u32,
        /// The versions that this agent can read.
        readable: RangeInclusive<u32>,
    },
    /// The maps of another version cannot be converted.
    #[error(
        "`{}` holds maps of another version, and they cannot be converted: {reason}; run the agent that made them, or \
         move the pods away from this node, remove the directory and start again", path.display()
    )]
    Unreadable {
        /// The pin directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A pinned map has another shape.
    #[error(
        "pinned map `{}`: found {found}, expected {expected}; it was made by something else or by another version: \
         move the pods away from this node, remove the file and start again", path.display()
    )]
    ForeignMap {
        /// The pin.
        path: PathBuf,
        /// Its type and sizes.
        found: String,
        /// The type and sizes that this agent needs.
        expected: String,
    },
    /// A pin is not what its name says.
    #[error("`{}` is not a pinned BPF {expected}; remove it and start again", path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// `map` or `link`.
        expected: &'static str,
    },
    /// The object cannot be loaded.
    #[error("cannot load the eBPF object (it needs CAP_BPF and CAP_NET_ADMIN): {}", chain(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program cannot be loaded or run.
    #[error("eBPF program `{program}`: {}", chain(.source))]
    Program {
        /// Name of the program.
        program: &'static str,
        /// Why not.
        source: Box<ProgramError>,
    },
    /// The interface does not exist, or it is another one than the caller thinks.
    #[error("interface {ifindex} is {}, not `{expected}`", found.as_ref().map_or("gone".to_owned(), |name| format!("`{name}`")))]
    Interface {
        /// The interface's index.
        ifindex: u32,
        /// Its name, if it exists in this thread's network namespace.
        found: Option<String>,
        /// The name that the caller gave.
        expected: String,
    },
    /// A program cannot be attached.
    #[error("cannot attach `{program}` to `{ifname}`: {source}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// The interface.
        ifname: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The programs of an interface cannot be listed.
    #[error("cannot list the TCX programs of `{ifname}` (this needs CAP_SYS_ADMIN): {message}")]
    Query {
        /// The interface.
        ifname: String,
        /// Why not.
        message: String,
    },
    /// The filters of an interface's qdisc cannot be listed or removed.
    #[error("cannot {action} the filters of `{ifname}`: {source}")]
    Filters {
        /// What was tried.
        action: &'static str,
        /// The interface.
        ifname: String,
        /// Why not.
        source: io::Error,
    },
    /// A map cannot be read or written.
    #[error("cannot {action} in map `{map}`: {}", chain(.source))]
    Map {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: Box<MapError>,
    },
    /// A slot outside of the map, or slot 0, which means "no ENI".
    #[error("ENI slot {slot} is not within 1..={}", ipam_common::MAX_ENIS - 1)]
    EniSlot {
        /// The slot.
        slot: u32,
    },
    /// More prefixes than the map can hold.
    #[error("{count} stack CIDRs: at most {} fit", ipam_common::maps::MAX_STACK_CIDRS)]
    TooManyStackCidrs {
        /// How many were given.
        count: usize,
    },
}

/// An error and its causes in one line: aya's own messages leave the system's error to the source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
