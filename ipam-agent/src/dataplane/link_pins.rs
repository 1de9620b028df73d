//! TCX links and their pins.
//!
//! A pin is named `<interface>-<index>-<program>`. bpffs reserves dots in names, so a dot of the interface's name stands
//! as a colon, which no interface's name can have. The index in the name tells a device from a later one of the same
//! name without asking the kernel for the link's target.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with},
};

use super::{DataplaneError, Hook, Program, attachment::is_unknown_hook, error::chain, pin_dir};

/// What attaching a program took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The hook had no program of ours.
    New,
    /// A program of a former agent ran there; it was replaced in one step.
    Replaced,
    /// This very program runs there already.
    Unchanged,
}

/// A pinned link: a program attached to an interface, or one that was before the interface went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPin {
    /// Name of the interface when the program was attached.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// The program.
    pub program: Program,
}

impl LinkPin {
    fn file_name(&self) -> String {
        format!("{}-{}-{}", self.ifname.replace('.', ":"), self.ifindex, self.program.name())
    }

    fn parse(file_name: &str) -> Option<Self> {
        let (rest, program) = file_name.rsplit_once('-')?;
        let (ifname, ifindex) = rest.rsplit_once('-')?;
        Some(Self {
            ifname: ifname.replace(':', "."),
            ifindex: ifindex.parse().ok()?,
            program: Program::ALL.into_iter().find(|candidate| candidate.name() == program)?,
        })
    }

    pub(super) fn remove(&self, dir: &Path) -> Result<(), DataplaneError> {
        pin_dir::unlink(&dir.join(self.file_name()))
    }
}

/// The pins in `dir`, sorted. Names that are not ours are left alone.
pub fn list(dir: &Path) -> Result<Vec<LinkPin>, DataplaneError> {
    let mut pins: Vec<_> = pin_dir::names(dir)?.iter().filter_map(|name| LinkPin::parse(name)).collect();
    pins.sort();
    Ok(pins)
}

/// Gives every pinned link of this program's kind the program, whatever interface it is of. Links whose device is gone
/// are left for [`attach`] and the caller's tidying.
pub fn replace_all(dir: &Path, program: &mut SchedClassifier, kind: Program) -> Result<(), DataplaneError> {
    for pin in list(dir)?.into_iter().filter(|pin| pin.program == kind) {
        replace(&dir.join(pin.file_name()), program).map_err(|error| error.of(dir, &pin))?;
    }
    Ok(())
}

/// Attaches `program` as `wanted` says.
///
/// Of the pins that are there, the one of this hook is given the new program; one of a former device of this name, of
/// another program on this hook, or of a device that is gone is removed.
pub fn attach(
    dir: &Path,
    program: &mut SchedClassifier,
    wanted: LinkPin,
) -> Result<Attached, DataplaneError> {
    check_name(&wanted)?;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DataplaneError::Attach {
        program: wanted.program.name(),
        ifname: wanted.ifname.clone(),
        source,
    };
    let path = dir.join(wanted.file_name());
    for pin in list(dir)? {
        let same_hook = pin.program.hook() == wanted.program.hook();
        if !same_hook || (pin.ifindex != wanted.ifindex && pin.ifname != wanted.ifname) {
            continue;
        }
        if pin.ifindex == wanted.ifindex && pin.program == wanted.program {
            let pinned = dir.join(pin.file_name());
            if let Some(attached) = replace(&pinned, program).map_err(|error| error.of(dir, &pin))? {
                // The interface was renamed.
                if pinned != path {
                    fs::rename(&pinned, &path).map_err(|source| DataplaneError::Io {
                        action: "rename",
                        path: pinned,
                        source,
                    })?;
                }
                return Ok(attached);
            }
        }
        pin.remove(dir)?;
    }
    create(&path, program, &wanted).map_err(failed)?;
    Ok(Attached::New)
}

/// As [`attach`], for what was attached before: looks at nothing but the link itself. `None`: it is not as it should be.
pub fn keep(dir: &Path, program: &mut SchedClassifier, wanted: &LinkPin) -> Option<Attached> {
    replace(&dir.join(wanted.file_name()), program).ok().flatten()
}

/// Removes the pins of a hook: of this interface, and of a former one of its name.
pub fn detach_hook(dir: &Path, link: &LinkPin) -> Result<(), DataplaneError> {
    let of_the_hook = |pin: &&LinkPin| {
        pin.program.hook() == link.program.hook()
            && (pin.ifindex == link.ifindex || pin.ifname == link.ifname)
    };
    list(dir)?.iter().filter(of_the_hook).try_for_each(|pin| pin.remove(dir))
}

/// aya attaches by name: makes sure that the name is that of the index.
pub(super) fn check_name(wanted: &LinkPin) -> Result<(), DataplaneError> {
    let found = name_of(wanted.ifindex);
    if found.as_ref() == Some(&wanted.ifname) {
        return Ok(());
    }
    Err(DataplaneError::Interface { ifindex: wanted.ifindex, found, expected: wanted.ifname.clone() })
}

/// The name of an interface, if it exists in this thread's network namespace.
pub(super) fn name_of(ifindex: u32) -> Option<String> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::index_to_name(socket, ifindex).ok()
}

fn create(
    path: &Path,
    program: &mut SchedClassifier,
    wanted: &LinkPin,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(&wanted.ifname, attach_type(wanted.program.hook()), options)
        .map_err(|error| chain(&error))?;
    // Until it is pinned, the link ends with this process: a crash here leaves nothing.
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(path)
        .map_err(|error| format!("cannot pin the link at `{}`: {}", path.display(), chain(&error)))?;
    Ok(())
}

fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

enum ReplaceError {
    NotALink,
    Refused(String),
}

impl ReplaceError {
    fn of(self, dir: &Path, pin: &LinkPin) -> DataplaneError {
        match self {
            Self::NotALink => {
                DataplaneError::ForeignPin { path: dir.join(pin.file_name()), expected: "link" }
            }
            Self::Refused(message) => DataplaneError::Attach {
                program: pin.program.name(),
                ifname: pin.ifname.clone(),
                source: message.into(),
            },
        }
    }
}

/// Gives the link pinned at `path` this program (`BPF_LINK_UPDATE`). `None`: its device is gone.
fn replace(path: &PathBuf, program: &mut SchedClassifier) -> Result<Option<Attached>, ReplaceError> {
    let refused = |error: &dyn std::error::Error| ReplaceError::Refused(chain(error));
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(|error| refused(&error))?);
    let former = link.info().map_err(|_| ReplaceError::NotALink)?.program_id();
    let ours = program.info().map_err(|error| refused(&error))?.id();
    let link = SchedClassifierLink::try_from(link).map_err(|error| match error {
        LinkError::SyscallError(error) => refused(&error),
        _ => ReplaceError::NotALink,
    })?;
    // Also when the program is the same: it tells whether the device lives.
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin holds the link; the descriptor is not needed.
            drop(program.take_link(id).map_err(|error| refused(&error))?);
            Ok(Some(if former == ours { Attached::Unchanged } else { Attached::Replaced }))
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::NOLINK.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Names of all programs, ours or not, on a TCX hook of an interface, in their order; none where there is no TCX.
pub fn programs(ifindex: u32, hook: Hook) -> Result<Vec<String>, DataplaneError> {
    let gone = || DataplaneError::Interface { ifindex, found: None, expected: "any".to_owned() };
    let ifname = name_of(ifindex).ok_or_else(gone)?;
    loop {
        match SchedClassifier::query_tcx(&ifname, attach_type(hook)) {
            Ok((_, programs)) => {
                let name = |info: &ProgramInfo| info.name_as_str().unwrap_or_default().to_owned();
                return Ok(programs.iter().map(name).collect());
            }
            // Replaced between the kernel's naming its number and the question for its name.
            Err(error) if is_gone(&error) => {}
            Err(error) if is_unknown_hook(&error) => return Ok(Vec::new()),
            Err(error) => return Err(DataplaneError::Query { ifname, message: chain(&error) }),
        }
    }
}

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.call == "bpf_prog_get_fd_by_id"
        && error.io_error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_have_no_dots_and_can_be_read_back() {
        for ifname in ["eth0", "eth0.100", "a-1-from_eni", "ipam0123456789a"] {
            for program in Program::ALL {
                let pin = LinkPin { ifname: ifname.to_owned(), ifindex: 42, program };
                let name = pin.file_name();
                assert!(!name.contains('.'), "{name}");
                assert_eq!(LinkPin::parse(&name), Some(pin));
            }
        }
        for foreign in ["eth0", "eth0-from_pod", "eth0-x-from_pod", "eth0-1-to_host", ""] {
            assert_eq!(LinkPin::parse(foreign), None, "{foreign}");
        }
    }
}
