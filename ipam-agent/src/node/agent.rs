//! Starts the node agent: opens everything, tidies up, and only then answers.

use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    dataplane::Dataplane,
    netlink::{Events, Netlink, sysctl},
    node::{
        NodeConfig, ack,
        bindings::Bindings,
        context::Node,
        eni, evict,
        journal::Journal,
        repair, server,
        standalone_pods::{PodRules, StandalonePods},
    },
};

/// How long calls that are being served have when the agent is asked to stop. What does not end in time is undone or
/// finished by the next start.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs the node agent in the network namespace of the process until `shutdown`. Existing pods keep their network
/// while it is not running.
///
/// # Errors
/// When it cannot start (each error names what and the remedy), or when a part of it ends that should not.
pub async fn run(client: Client, config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    // A second agent goes no further than this, and so never takes the first one's links for strays. Calls that come
    // now wait until the node is tidied up.
    let journal = Journal::open(&config.journal)?;
    let listener = server::listen(&config.socket)?;
    let dataplane = Dataplane::open(&config.bpffs_dir)?;
    let net = Netlink::open()?;
    let events = Events::subscribe()?;
    sysctl::enable_ipv4_forwarding()?;
    let (bindings, watch_bindings) = Bindings::new(client.clone(), &config.node_name);
    let (wanted_enis, watch_enis) = eni::watch_wanted(client.clone(), &config.node_name);
    let pods = config
        .create_pods
        .as_ref()
        .map(|rules: &PodRules| StandalonePods::new(client.clone(), &config.node_name, rules.clone()));
    let node = Arc::new(Node::new(config, net, dataplane, journal, bindings, pods));

    if let Err(error) = eni::reconcile(&node, &None).await {
        warn!(error = format!("{error:#}"), "not every ENI of the journal is up");
    }
    repair::adopt(&node).await.context("cannot adopt the node's attachments")?;
    if let Some(pods) = &node.pods {
        pods.sweep(&node).await.context("cannot list the Pod objects of this node")?;
    }
    info!(socket = %node.config.socket.display(), node = node.config.node_name, "node agent is ready for calls");

    let ended = tokio::select! {
        () = shutdown.cancelled() => None,
        () = server::serve(Arc::clone(&node), listener) => Some("the CNI server"),
        () = watch_bindings => Some("the watch of VpcIPs"),
        () = watch_enis => Some("the watch of the NodeENIConfig"),
        () = eni::keep(Arc::clone(&node), wanted_enis, events) => Some("the ENI keeper"),
        () = ack::keep(Arc::clone(&node), client.clone()) => Some("the acknowledger"),
        () = evict::keep(Arc::clone(&node), client) => Some("the eviction of bindings that are over"),
        () = repair::keep(Arc::clone(&node)) => Some("the repair"),
    };
    node.background.close();
    if tokio::time::timeout(GRACE, node.background.wait()).await.is_err() {
        warn!("calls were still being served; the next start undoes or finishes them");
    }
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has ended"),
    }
}
