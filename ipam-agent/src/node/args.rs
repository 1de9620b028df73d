//! Configuration of the node agent.

use std::{path::PathBuf, time::Duration};

use ipam_cni::protocol::DEFAULT_SOCKET;
use ipnet::IpNet;

use crate::{
    dataplane::Attachment,
    health::Health,
    inspect::DEBUG_SOCKET_NAME,
    ipam::continuation::Limits,
    metrics::Metrics,
    node::{PodRules, self_fence::SelfFence},
};

/// How long the API's last word counts for claims that are taken over when their node is silent. The controller waits for
/// no less than 40 s, the time of a node's lease.
pub const OPTIMISTIC_LIMIT: Duration = Duration::from_secs(30);

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
    /// How programs are attached; as the kernel allows unless given.
    pub attachment: Option<Attachment>,
    /// Destinations that pods reach through the host stack, beside the node itself and 169.254.0.0/16.
    pub stack_cidrs: Vec<IpNet>,
    /// Which destinations pods reach by their own address, all others being masqueraded; a format of ip-masq-agent.
    pub masquerade_file: Option<PathBuf>,
    /// Standalone mode: makes a Pod object for each container, by these rules.
    pub create_pods: Option<PodRules>,
    /// Whether flows that the host stack has touched stay on it: without, services do not work. Only tests switch it off.
    pub stack_affinity: bool,
    /// How long an attachment's link must be gone before the attachment is collected.
    pub gc_period: Duration,
    /// When the node gives up pods whose address may be taken over; never unless given.
    pub self_fence: Option<SelfFence>,
    /// How long the API's last word counts when it is away.
    pub offline: Limits,
    /// Where the node's metrics go.
    pub metrics: Metrics,
    /// Who is told of the node's health.
    pub health: Health,
    /// Socket for people's questions (`ipamctl`).
    pub debug_socket: PathBuf,
    /// While this file exists nothing that drifted is repaired, so that tests can look at broken pods.
    pub hold_repairs: Option<PathBuf>,
}

impl NodeConfig {
    /// Whether drift is to be left alone for now.
    #[must_use]
    pub fn repairs_are_held(&self) -> bool {
        self.hold_repairs.as_ref().is_some_and(|file| file.exists())
    }
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
    /// Attaches programs in this way even if the kernel has a better one, so that tests can try both on one kernel.
    #[arg(long, hide = true, value_enum, env = "IPAM_ATTACHMENT")]
    pub attachment: Option<Attachment>,
    /// Destinations that pods reach through the host stack, such as the service CIDR; can be given more than once.
    #[arg(long = "stack-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub stack_cidrs: Vec<IpNet>,
    /// File with the CIDRs that pods reach by their own address, in the format of ip-masq-agent:
    /// `nonMasqueradeCIDRs: [10.0.0.0/8]`. They reach everything else by the node's address. Without the file pods have
    /// their own address everywhere. It is read again every few seconds.
    #[arg(long, value_name = "PATH")]
    pub masquerade_file: Option<PathBuf>,
    /// Leaves out the egress programs, so that tests can tell what they are for.
    #[arg(long, hide = true)]
    pub no_stack_affinity: bool,
    /// How long a pod's interface must be gone before its attachment is taken away without a DEL.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub gc_period: Duration,
    /// How long pods whose address the API has told of are served while the API is away. Pods that run go on for ever.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub serve_offline_for: Duration,
    /// Disconnects pods whose claim has `fencing: Optimistic` when the API has not been heard for so long but others hear
    /// it: their address may be given to another node then. Shorter than the controller's --takeover-after. Never unless
    /// given.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "fence_witness")]
    pub self_fence_after: Option<Duration>,
    /// Who is asked whether others hear the API: metrics of another node's agent such as http://10.0.1.7:9470/metrics; can
    /// be given more than once.
    #[arg(long, value_name = "URL", value_delimiter = ',', requires = "self_fence_after", value_parser = witness)]
    pub fence_witness: Vec<String>,
    /// Socket that `ipamctl drops` and `ipamctl explain` ask; only root may use it. Absent: agent.sock beside the
    /// CNI plugin's.
    #[arg(long, value_name = "PATH")]
    pub debug_socket: Option<PathBuf>,
    /// While this file exists nothing that drifted is repaired.
    #[arg(long, value_name = "FILE", hide = true)]
    pub hold_repairs_while: Option<PathBuf>,
}

impl NodeArgs {
    /// The configuration of the agent; `create_pods` in standalone mode.
    #[must_use]
    pub fn config(self, create_pods: Option<PodRules>, metrics: &Metrics, health: &Health) -> NodeConfig {
        let debug_socket = self.debug_socket.unwrap_or_else(|| self.socket.with_file_name(DEBUG_SOCKET_NAME));
        NodeConfig {
            node_name: self.node_name,
            socket: self.socket,
            journal: self.journal,
            bpffs_dir: self.bpffs_dir,
            attachment: self.attachment,
            stack_cidrs: self.stack_cidrs,
            masquerade_file: self.masquerade_file,
            create_pods,
            stack_affinity: !self.no_stack_affinity,
            gc_period: self.gc_period,
            offline: Limits {
                strict: self.serve_offline_for,
                optimistic: self.self_fence_after.unwrap_or(OPTIMISTIC_LIMIT),
            },
            self_fence: self.self_fence_after.map(|after| SelfFence { after, witnesses: self.fence_witness }),
            metrics: metrics.clone(),
            health: health.clone(),
            debug_socket,
            hold_repairs: self.hold_repairs_while,
        }
    }
}

fn witness(text: &str) -> Result<String, String> {
    match text.parse::<http::Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => Ok(text.to_owned()),
        _ => Err("write a URL such as http://10.0.1.7:9470/metrics".to_owned()),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
