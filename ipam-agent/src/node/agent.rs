//! Starts the node agent: opens everything, tidies up, and only then answers.

use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    client::expect_watch,
    dataplane::{Attachment, Dataplane},
    metrics::count_api_writes,
    netlink::{Events, Netlink, SettingEvents},
    node::{
        NodeConfig, ack,
        bindings::Bindings,
        contact::{self, Contact},
        context::Node,
        drift::{self, settings},
        drops, eni, evict, inspect,
        journal::{Change, Journal},
        metrics, rebuild, repair, self_fence, server,
        standalone_pods::{PodRules, StandalonePods},
        status,
    },
};

/// How long calls that are being served have when the agent is asked to stop. What does not end in time is undone or
/// finished by the next start.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// What the agent is not ready without.
const START: &str = "its start: programs, ENIs and the attachments of before";

/// Runs the node agent in the network namespace of the process until `shutdown`. Existing pods keep their network
/// while it is not running.
///
/// # Errors
/// When it cannot start (each error names what and the remedy), or when a part of it ends that should not.
pub async fn run(client: Client, config: NodeConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.health.awaits(START);
    for watched in ["vpcips", "nodeeniconfigs"] {
        expect_watch(&config.health, watched);
    }
    // A second agent goes no further than this, and so never takes the first one's links for strays. Calls that come
    // now wait until the node is tidied up.
    let journal = Journal::open(&config.journal)?;
    let listener = server::listen(&config.socket)?;
    let dataplane =
        Dataplane::open_with(&config.bpffs_dir, config.attachment.unwrap_or_else(Attachment::probe))?;
    let net = Netlink::open()?;
    // Every look at the ENIs asks for the gateways, whatever the kernel does; but it shall be known.
    net.keeps_neighbours().await;
    let events = Events::subscribe()?;
    let setting_events = SettingEvents::subscribe()?;
    let client = count_api_writes(client, &config.metrics);
    let contact = Contact::new(journal.book().heard.clone());
    let (bindings, watch_bindings) =
        Bindings::new(client.clone(), &config.node_name, journal.clone(), contact.clone(), config.offline);
    let (wanted_enis, watch_enis) = eni::watch_wanted(client.clone(), &config.node_name);
    let pods = config
        .create_pods
        .as_ref()
        .map(|rules: &PodRules| StandalonePods::new(client.clone(), &config.node_name, rules.clone()));
    let node = Arc::new(Node::new(config, net, dataplane, journal, bindings, contact, pods));

    settings::keep_ip_forward(&node, false);
    metrics::collect(&node);

    let rebuilding = node.journal.book().rebuilding;
    if rebuilding {
        rebuild::find(&node).await.context("cannot look for pods of a lost journal")?;
    }
    if let Err(error) = eni::reconcile(&node, &None).await {
        warn!(error = format!("{error:#}"), "not every ENI of the journal is up");
    }
    repair::adopt(&node).await.context("cannot adopt the node's attachments")?;
    if rebuilding {
        node.journal.change(Change::Rebuilt).await?;
    }
    // Whose Pod objects those of a lost journal are is not known yet.
    if let Some(pods) = node.pods.as_ref().filter(|_| !rebuild::has_unknown(&node)) {
        pods.sweep(&node).await.context("cannot list the Pod objects of this node")?;
    }
    node.config.health.came(START);
    node.config.health.asks({
        let socket = node.config.socket.clone();
        move || Box::pin(status::ask(socket.clone()))
    });
    info!(socket = %node.config.socket.display(), node = node.config.node_name, "node agent is ready for calls");

    let ended = tokio::select! {
        _ = node.journal.failed() => Some("the journal"),
        () = shutdown.cancelled() => None,
        () = server::serve(Arc::clone(&node), listener) => Some("the CNI server"),
        () = watch_bindings => Some("the watch of VpcIPs"),
        () = watch_enis => Some("the watch of the NodeENIConfig"),
        () = drift::keep(Arc::clone(&node), wanted_enis, events, setting_events) => Some("the repair"),
        () = contact::keep(Arc::clone(&node), client.clone()) => Some("the heartbeat"),
        () = rebuild::keep(Arc::clone(&node)) => Some("the identification of attachments"),
        () = self_fence::keep(Arc::clone(&node), client.clone()) => Some("the fence"),
        () = ack::keep(Arc::clone(&node), client.clone()) => Some("the acknowledger"),
        () = evict::keep(Arc::clone(&node), client) => Some("the eviction of bindings that are over"),
        () = drops::keep(Arc::clone(&node)) => Some("the reader of drops"),
        () = inspect::serve(Arc::clone(&node)) => Some("the server of questions"),
    };
    node.background.close();
    if tokio::time::timeout(GRACE, node.background.wait()).await.is_err() {
        warn!("calls were still being served; the next start undoes or finishes them");
    }
    // Other parts end with it.
    if let Some(error) = node.journal.failure() {
        return Err(error.into());
    }
    match ended {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has ended"),
    }
}
