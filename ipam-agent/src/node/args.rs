//! Configuration of the node agent.

use std::{path::PathBuf, time::Duration};

use ipam_cni::protocol::DEFAULT_SOCKET;
use ipnet::Ipv4Net;

use crate::node::PodRules;

/// What the node agent is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of the node in the API.
    pub node_name: String,
    /// Socket for the CNI plugin.
    pub socket: PathBuf,
    /// File of the journal.
    pub journal: PathBuf,
    /// Directory of the pinned maps and links, on a bpffs.
    pub bpffs_dir: PathBuf,
    /// Destinations that pods reach through the host stack, beside the node itself and 169.254.0.0/16.
    pub stack_cidrs: Vec<Ipv4Net>,
    /// Standalone mode: makes a Pod object for each container, by these rules.
    pub create_pods: Option<PodRules>,
    /// How long an attachment's link must be gone before the attachment is collected.
    pub gc_period: Duration,
}

/// Arguments of the node agent.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// Name of this node in the API; the host's name unless given.
    #[arg(long, env = "NODE_NAME", default_value_t = host_name())]
    pub node_name: String,
    /// Socket for the CNI plugin; only root may use it.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// File that remembers every attachment of this node. Keep it across restarts of the agent; a reboot, which ends
    /// every attachment, may take it: so it lies on the tmpfs of /run, where writes are quick.
    #[arg(long, value_name = "PATH", default_value = "/run/eni-ipam/node.redb")]
    pub journal: PathBuf,
    /// Directory of the pinned eBPF maps and links; on a bpffs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/ipam")]
    pub bpffs_dir: PathBuf,
    /// Destinations that pods reach through the host stack, such as the service CIDR; can be given more than once.
    #[arg(long = "stack-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub stack_cidrs: Vec<Ipv4Net>,
    /// How long a pod's interface must be gone before its attachment is taken away without a DEL.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub gc_period: Duration,
}

impl NodeArgs {
    /// The configuration of the agent; `create_pods` in standalone mode.
    #[must_use]
    pub fn config(self, create_pods: Option<PodRules>) -> NodeConfig {
        NodeConfig {
            node_name: self.node_name,
            socket: self.socket,
            journal: self.journal,
            bpffs_dir: self.bpffs_dir,
            stack_cidrs: self.stack_cidrs,
            create_pods,
            gc_period: self.gc_period,
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
