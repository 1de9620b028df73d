//! User space of the dataplane: loads the TC programs, keeps them attached, and writes their maps.
//!
//! Maps and links are pinned in one directory on a bpffs, so both outlive the agent: packets flow while it is away, and
//! [`Dataplane::open`] adopts what it finds. Nothing here knows of Kubernetes, and nothing needs more than CAP_BPF and
//! CAP_NET_ADMIN, except [`tcx_programs`], which is for tests and tools.
//!
//! Interfaces are named by index, in the network namespace of the calling thread.

mod error;
mod link_pins;
mod maps;
mod pin_dir;
mod test_run;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use ipam_common::{DropCount, DropReason, Eni, PodRoute, PodStats, StackFlow};
use ipnet::Ipv4Net;

use self::maps::Maps;
pub use self::{
    error::DataplaneError,
    link_pins::{Attached, LinkPin, tcx_programs},
    test_run::{TestFrame, TestVerdict},
};

/// The object that `build.rs` makes of `ipam-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipam-ebpf"));

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

/// A TCX hook of an interface.
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
    dir: PathBuf,
}

impl Dataplane {
    /// Loads the programs on the maps pinned in `pin_dir`, which are made if they are missing. What is attached already
    /// keeps running the programs of the former agent until [`Self::attach_pod`] or [`Self::attach_eni`] replaces them.
    ///
    /// # Errors
    ///
    /// When `pin_dir` is not on a bpffs or not owned by this user, when it holds maps of another layout or something
    /// that is not ours, or when the kernel refuses a map or a program. Each names the cause and the remedy, and changes
    /// nothing that was pinned before.
    pub fn open(pin_dir: &Path) -> Result<Self, DataplaneError> {
        pin_dir::prepare(pin_dir)?;
        maps::check_pinned(pin_dir)?;

        let mut loader = EbpfLoader::new();
        // The programs need no relocation against the kernel's own types.
        loader.btf(None);
        for name in maps::names() {
            loader.map_pin_path(name, Cow::Owned(pin_dir.join(name)));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|source| DataplaneError::Load(Box::new(source)))?;
        let maps = Maps::take(&mut ebpf)?;
        let mut dataplane = Self { ebpf, maps, dir: pin_dir.to_owned() };
        for program in Program::ALL {
            let loaded = dataplane.program_mut(program).and_then(SchedClassifier::load);
            loaded.map_err(|source| DataplaneError::Program {
                program: program.name(),
                source: Box::new(source),
            })?;
        }
        Ok(dataplane)
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

    /// Removes one pinned link. Not an error when there is none.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be written.
    pub fn detach_link(&mut self, pin: &LinkPin) -> Result<(), DataplaneError> {
        pin.remove(&self.links_dir())
    }

    /// Removes every pinned link of the interface; the kernel detaches the programs within moments. Not an error when
    /// there is none, nor when the interface is gone.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read or written.
    pub fn detach(&mut self, ifname: &str) -> Result<(), DataplaneError> {
        link_pins::detach(&self.links_dir(), ifname)
    }

    /// Every pinned link, of interfaces that are gone too.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read.
    pub fn links(&self) -> Result<Vec<LinkPin>, DataplaneError> {
        link_pins::list(&self.links_dir())
    }

    /// Sets the route of a pod's address, and makes its counters if it has none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does beyond [`ipam_common::maps::MAX_PODS`] pods; nothing is left half-done then.
    pub fn set_route(&mut self, ip: Ipv4Addr, route: &PodRoute) -> Result<(), DataplaneError> {
        self.maps.set_route(ip, route)
    }

    /// Removes the route of an address and its counters; with an `ifindex` only if the route still leads to that
    /// interface. Answers whether it was removed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove_route(&mut self, ip: Ipv4Addr, ifindex: Option<u32>) -> Result<bool, DataplaneError> {
        self.maps.remove_route(ip, ifindex)
    }

    /// The route of an address.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn route(&self, ip: Ipv4Addr) -> Result<Option<PodRoute>, DataplaneError> {
        self.maps.route(ip)
    }

    /// Every route.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn routes(&self) -> Result<Vec<(Ipv4Addr, PodRoute)>, DataplaneError> {
        self.maps.routes()
    }

    /// Sets what `from_pod` knows of the ENI in a slot; [`Eni::EMPTY`] empties it.
    ///
    /// # Errors
    ///
    /// When `slot` is not within `1..MAX_ENIS`.
    pub fn set_eni(&mut self, slot: u32, eni: &Eni) -> Result<(), DataplaneError> {
        self.maps.set_eni(slot, eni)
    }

    /// The slots that are not empty.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enis(&self) -> Result<Vec<(u32, Eni)>, DataplaneError> {
        self.maps.enis()
    }

    /// Makes these the destinations that belong to the host stack: adds what is missing, then removes the rest.
    ///
    /// # Errors
    ///
    /// When there are more than [`ipam_common::maps::MAX_STACK_CIDRS`] (nothing is changed then), or the kernel refuses.
    pub fn set_stack_cidrs(&mut self, cidrs: &[Ipv4Net]) -> Result<(), DataplaneError> {
        self.maps.set_stack_cidrs(cidrs)
    }

    /// The destinations that belong to the host stack, sorted.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn stack_cidrs(&self) -> Result<Vec<Ipv4Net>, DataplaneError> {
        self.maps.stack_cidrs()
    }

    /// Makes these the node's own addresses, each with the slot of its ENI (0: none).
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does beyond [`ipam_common::maps::MAX_NODE_ADDRS`] addresses.
    pub fn set_node_addrs(&mut self, addrs: &BTreeMap<Ipv4Addr, u32>) -> Result<(), DataplaneError> {
        self.maps.set_node_addrs(addrs)
    }

    /// The flows that the host stack has touched, in no order.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn stack_flows(&self) -> Result<Vec<StackFlow>, DataplaneError> {
        self.maps.stack_flows()
    }

    /// Counters of a pod since [`Self::set_route`] made them, all CPUs together; `None`: it has none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn pod_stats(&self, ip: Ipv4Addr) -> Result<Option<PodStats>, DataplaneError> {
        self.maps.pod_stats(ip)
    }

    /// Counters of every drop reason, all CPUs together.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn drops(&self) -> Result<Vec<(DropReason, DropCount)>, DataplaneError> {
        self.maps.drops()
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
        self.program_mut(program)
            .and_then(|classifier| frame.run(classifier))
            .map_err(|source| DataplaneError::Program { program: program.name(), source: Box::new(source) })
    }

    fn attach(&mut self, program: Program, ifindex: u32, ifname: &str) -> Result<Attached, DataplaneError> {
        let dir = self.links_dir();
        let classifier = self.program_mut(program).map_err(|source| DataplaneError::Program {
            program: program.name(),
            source: Box::new(source),
        })?;
        link_pins::attach(&dir, classifier, LinkPin { ifname: ifname.to_owned(), ifindex, program })
    }

    fn program_mut(&mut self, program: Program) -> Result<&mut SchedClassifier, ProgramError> {
        self.ebpf.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    fn links_dir(&self) -> PathBuf {
        self.dir.join(pin_dir::LINKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataplane_can_be_moved_to_another_thread() {
        fn assert_send<T: Send>() {}
        assert_send::<Dataplane>();
    }
}
