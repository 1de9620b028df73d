//! Nodes: machines on which pods run.

use std::{ops::Deref, path::PathBuf};

use super::{host::VpcHost, pod::LabPod};

/// A machine prepared as Kubernetes wants its nodes, with places for an agent's files.
#[derive(Debug)]
pub struct LabNode(VpcHost);

impl LabNode {
    /// Makes a machine a node. It forwards IPv4, which Kubernetes asks of container runtimes' hosts.
    pub(super) fn new(host: VpcHost) -> anyhow::Result<Self> {
        host.ns().sysctl("ipv4/ip_forward", "1")?;
        Ok(Self(host))
    }

    /// Where the node's agent pins maps and links. The agent creates it; the lab removes it at its end.
    pub fn bpffs_dir(&self) -> PathBuf {
        self.scope().bpf_dir(self.name())
    }

    /// The agent's CNI socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("cni.sock")
    }

    /// The agent's journal.
    pub fn journal(&self) -> PathBuf {
        self.dir().join("journal.redb")
    }

    /// A pod's namespace on this node, without an interface yet.
    ///
    /// # Errors
    /// The plugin is not built, or the pod's name is taken in this lab.
    pub fn pod(&self, name: &str) -> anyhow::Result<LabPod> {
        LabPod::new(self, name)
    }
}

impl Deref for LabNode {
    type Target = VpcHost;

    fn deref(&self) -> &VpcHost {
        &self.0
    }
}
