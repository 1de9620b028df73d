//! User space of the dataplane: loads the TC programs, keeps them attached, and writes their maps.
//!
//! Maps and links are pinned in one directory on a bpffs, so both outlive the agent: packets flow while it is away, and
//! [`Dataplane::open`] adopts what it finds. Nothing here knows of Kubernetes, and nothing needs more than CAP_BPF and
//! CAP_NET_ADMIN, and before Linux 6.17 CAP_PERFMON, without which older verifiers refuse paths that only a mispredicted
//! branch takes; except [`hook_programs`], which is for tests and tools.
//!
//! Interfaces are named by index, in the network namespace of the calling thread.

mod anchors;
mod attachment;
mod clsact;
mod entries;
mod error;
mod flow_table;
mod link_pins;
mod loading;
#[cfg(feature = "ebpf-log")]
mod log;
mod maps;
mod migration;
mod pin_dir;
mod test_run;

use std::path::{Path, PathBuf};

use aya::Ebpf;

use self::{anchors::Anchors, maps::Maps};
pub use self::{
    attachment::Attachment,
    error::DataplaneError,
    flow_table::FlowTable,
    link_pins::{Attached, LinkPin},
    test_run::{TestFrame, TestVerdict},
};

/// A TC program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// Ingress of the node's end of a pod's veth.
    FromPod,
    /// Ingress of an ENI.
    FromEni,
    /// Egress of the node's end of a pod's veth.
    ToPod,
    /// Egress of an ENI.
    ToEni,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 4] = [Self::FromPod, Self::FromEni, Self::ToPod, Self::ToEni];

    /// Its name in the object, in the kernel and in the name of a link's pin.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::FromEni => "from_eni",
            Self::ToPod => "to_pod",
            Self::ToEni => "to_eni",
        }
    }

    /// The hook it is for.
    #[must_use]
    pub const fn hook(self) -> Hook {
        match self {
            Self::FromPod | Self::FromEni => Hook::Ingress,
            Self::ToPod | Self::ToEni => Hook::Egress,
        }
    }
}

/// A hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

/// The loaded programs and their maps.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: Maps,
    anchors: Anchors,
    dir: PathBuf,
    attachment: Attachment,
    /// Where there is TCX: filters that an agent without has left, until [`Self::attach`] puts a link before them.
    former_filters: Vec<LinkPin>,
}

/// Names of all programs, ours or not, on a hook of an interface, in the order in which they run: those of TCX, then
/// the filters of a clsact qdisc. Needs CAP_SYS_ADMIN.
///
/// # Errors
///
/// When the interface does not exist, or the kernel refuses.
pub fn hook_programs(ifindex: u32, hook: Hook) -> Result<Vec<String>, DataplaneError> {
    let mut programs = link_pins::programs(ifindex, hook)?;
    programs.extend(clsact::programs(ifindex, hook)?);
    Ok(programs)
}

impl Dataplane {
    /// Loads the programs on the maps pinned in `pin_dir`, which are made if they are missing. What is attached already
    /// keeps running the programs of the former agent until [`Self::attach_pod`] or [`Self::attach_eni`] replaces them; but
    /// when the maps are of another version, they are migrated, and everything attached runs this agent's programs then.
    ///
    /// # Errors
    ///
    /// When `pin_dir` is not on a bpffs or not owned by this user, when it holds maps of a version that cannot be read or
    /// something that is not ours, or when the kernel refuses a map or a program. Each names the cause and the remedy, and changes
    /// nothing that was pinned before.
    pub fn open(pin_dir: &Path) -> Result<Self, DataplaneError> {
        Self::open_with(pin_dir, Attachment::probe())
    }

    /// As [`Self::open`], with programs attached in this way, whatever else the kernel may have.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with(pin_dir: &Path, attachment: Attachment) -> Result<Self, DataplaneError> {
        pin_dir::prepare(pin_dir)?;
        migration::finish(pin_dir)?;
        let found = migration::examine(pin_dir)?;
        let mut ebpf = loading::load(pin_dir, &found)?;
        #[cfg(feature = "ebpf-log")]
        log::follow(&mut ebpf);
        loading::adopt(&mut ebpf, pin_dir, found)?;
        let maps = Maps::take(&mut ebpf)?;
        let anchors = Anchors::hold(pin_dir)?;
        let former_filters = match attachment {
            Attachment::Tcx => clsact::list()?,
            Attachment::Clsact => Vec::new(),
        };
        let dir = pin_dir.to_owned();
        Ok(Self { ebpf, maps, anchors, dir, attachment, former_filters })
    }

    /// Attaches `from_pod` to the node's end of a pod's veth, in the place of the program of a former agent if there
    /// is one: the hook is never without a program, and never has two.
    ///
    /// # Errors
    ///
    /// When the interface does not exist or has another name, or the kernel refuses the link.
    pub fn attach_pod(&mut self, host_ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        self.attach(Program::FromPod, host_ifindex, ifname)
    }

    /// Attaches `from_eni` to an ENI, in the same way.
    ///
    /// # Errors
    ///
    /// As [`Self::attach_pod`].
    pub fn attach_eni(&mut self, ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        self.attach(Program::FromEni, ifindex, ifname)
    }

    /// Attaches `to_pod` to the node's end of a pod's veth, in the same way.
    ///
    /// # Errors
    ///
    /// As [`Self::attach_pod`].
    pub fn attach_to_pod(&mut self, host_ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        self.attach(Program::ToPod, host_ifindex, ifname)
    }

    /// Attaches `to_eni` to an ENI, the primary one too, in the same way.
    ///
    /// # Errors
    ///
    /// As [`Self::attach_pod`].
    pub fn attach_to_eni(&mut self, ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        self.attach(Program::ToEni, ifindex, ifname)
    }

    /// Makes sure that a program is attached and that nobody has put another in its place; what [`Self::attach_pod`]
    /// and the like have attached is only looked at.
    ///
    /// # Errors
    ///
    /// As [`Self::attach_pod`].
    pub fn keep_attached(
        &mut self,
        program: Program,
        ifindex: u32,
        ifname: &str,
    ) -> Result<Attached, DataplaneError> {
        if self.attachment == Attachment::Tcx {
            let dir = self.links_dir();
            let wanted = LinkPin { ifname: ifname.to_owned(), ifindex, program };
            let classifier = loading::program_mut(&mut self.ebpf, program)?;
            if let Some(attached) = link_pins::keep(&dir, classifier, &wanted) {
                return Ok(attached);
            }
        }
        self.attach(program, ifindex, ifname)
    }

    /// Pins the maps again whose pins are gone, makes the directory again if it is, and mounts the bpffs that was there
    /// if it can; answers what was gone.
    ///
    /// # Errors
    ///
    /// When there is no bpffs any more and none can be mounted, or something else is pinned in a map's place.
    pub fn keep_pins(&self) -> Result<Vec<&'static str>, DataplaneError> {
        self.anchors.keep(&self.dir)
    }

    /// Detaches one program. Not an error when it is not attached.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be written, or the kernel refuses.
    pub fn detach_link(&mut self, link: &LinkPin) -> Result<(), DataplaneError> {
        link.remove(&self.links_dir())?;
        match self.attachment {
            Attachment::Tcx => self.remove_former_filters(|former| former == link),
            Attachment::Clsact => clsact::remove(link),
        }
    }

    /// Detaches every program of the interface, which the kernel carries out within moments. Not an error when there is
    /// none, nor when the interface is gone.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read or written, or the kernel refuses.
    pub fn detach(&mut self, ifname: &str) -> Result<(), DataplaneError> {
        self.links()?.iter().filter(|link| link.ifname == ifname).try_for_each(|link| self.detach_link(link))
    }

    /// Every attached program: pinned links, of interfaces that are gone too, and filters.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read, or the kernel refuses.
    pub fn links(&self) -> Result<Vec<LinkPin>, DataplaneError> {
        let mut links = link_pins::list(&self.links_dir())?;
        match self.attachment {
            Attachment::Tcx => links.extend(self.former_filters.iter().cloned()),
            Attachment::Clsact => links.extend(clsact::list()?),
        }
        links.sort();
        links.dedup();
        Ok(links)
    }

    /// How this dataplane attaches its programs.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Runs a program on a frame without sending anything (`BPF_PROG_TEST_RUN`). Counters and maps are the real ones.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the frame, or there is no such interface in this thread's network namespace.
    pub fn test_run(
        &mut self,
        program: Program,
        frame: &TestFrame<'_>,
    ) -> Result<TestVerdict, DataplaneError> {
        loading::with_program(&mut self.ebpf, program, |classifier| frame.run(classifier))
    }

    /// Attaches a program, then takes away what an agent that attached in the other way has left on this hook. For that
    /// moment there are two programs. TCX runs first, and on ingress its verdict is final: the filter sees nothing. The
    /// egress programs let the next one have its turn: a flow may be marked by both, as one that stays on the stack,
    /// which is slower but never wrong, whereas a moment without a program could lose a packet.
    fn attach(&mut self, program: Program, ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        let dir = self.links_dir();
        let attachment = self.attachment;
        let classifier = loading::program_mut(&mut self.ebpf, program)?;
        let wanted = LinkPin { ifname: ifname.to_owned(), ifindex, program };
        match attachment {
            Attachment::Tcx => {
                let attached = link_pins::attach(&dir, classifier, wanted)?;
                self.remove_former_filters(|former| {
                    former.ifindex == ifindex && former.program.hook() == program.hook()
                })?;
                Ok(attached)
            }
            Attachment::Clsact => {
                let attached = clsact::attach(classifier, &wanted)?;
                link_pins::detach_hook(&dir, &wanted)?;
                Ok(attached)
            }
        }
    }

    fn remove_former_filters(&mut self, chosen: impl Fn(&LinkPin) -> bool) -> Result<(), DataplaneError> {
        self.former_filters.iter().filter(|former| chosen(former)).try_for_each(clsact::remove)?;
        self.former_filters.retain(|former| !chosen(former));
        Ok(())
    }

    fn links_dir(&self) -> PathBuf {
        self.dir.join(pin_dir::LINKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "ebpf-log"))]
    #[test]
    fn an_ordinary_object_logs_nothing() {
        let log_map = b"AYA_LOG";
        assert!(!loading::OBJECT.windows(log_map.len()).any(|bytes| bytes == log_map));
    }

    #[test]
    fn a_dataplane_can_be_moved_to_another_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<Dataplane>();
    }
}
