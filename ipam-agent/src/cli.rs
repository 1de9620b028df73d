//! The command line of `ipam-agent`: which parts run in this process, and with what.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

use crate::api::DeletePolicy;
use crate::controller::{self, ControllerConfig};
use crate::install::InstallArgs;
use crate::node::{self, NodeArgs, PodRules};

mod api;
mod provider;

use api::{ApiArgs, EmbeddedArgs};
use provider::ProviderArgs;

/// Static pod IPs from ENI pools, on an eBPF dataplane.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Own the addresses: bind, retain, release. The only holder of cloud credentials.
    Controller(Box<ControllerCommand>),
    /// Serve this node: ENIs, CNI calls, eBPF programs.
    Node(Box<NodeCommand>),
    /// Controller and node in one process on an API of its own: a machine with no cluster.
    Standalone(Box<StandaloneCommand>),
    /// Put the CNI plugin and its configuration in place, or take them away.
    Install(InstallArgs),
    /// Print the custom resource definitions as YAML.
    Crds,
}

#[derive(Debug, Args)]
struct ControllerCommand {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    provider: ProviderArgs,
    #[command(flatten)]
    controller: ControllerArgs,
}

#[derive(Debug, Args)]
struct NodeCommand {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
struct StandaloneCommand {
    #[command(flatten)]
    embedded: EmbeddedArgs,
    #[command(flatten)]
    provider: ProviderArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    pods: PodRules,
}

#[derive(Debug, Args)]
struct ControllerArgs {
    /// Name of the cluster; tags its ENIs.
    #[arg(long, default_value = "default")]
    cluster_id: String,
    /// How long the address of a static pod is kept after the pod is gone: a duration of at least 5m, or never.
    #[arg(long, default_value = "never", value_parser = expiry)]
    claim_expired_duration: Expiry,
    /// How long an address stays out of use after its release.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    cooldown: Duration,
    /// Policy of pods without the annotation: Immediate, or Never (every pod is static).
    #[arg(long, default_value = "Immediate", value_parser = delete_policy)]
    default_delete_policy: DeletePolicy,
    /// Secondary ENIs that a node can take.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=64))]
    max_enis: u32,
    /// Secondary addresses of one ENI, its primary one not counted.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_ips_per_eni: u32,
}

/// A retention; `None` is never.
#[derive(Clone, Copy, Debug)]
struct Expiry(Option<Duration>);

fn expiry(text: &str) -> Result<Expiry, String> {
    crate::api::annotations::parse_expiry(text)
        .map(Expiry)
        .map_err(|problem| format!("{problem}; write a duration of at least 5m such as 1h30m, or never"))
}

fn delete_policy(text: &str) -> Result<DeletePolicy, String> {
    match text {
        "Immediate" => Ok(DeletePolicy::Immediate),
        "Never" => Ok(DeletePolicy::Never),
        _ => Err("write Immediate or Never".into()),
    }
}

impl ControllerArgs {
    fn config(&self) -> ControllerConfig {
        ControllerConfig {
            cluster_id: self.cluster_id.clone(),
            cooldown: self.cooldown,
            expired_duration: self.claim_expired_duration.0,
            default_policy: self.default_delete_policy,
            max_enis: self.max_enis,
            max_ips_per_eni: self.max_ips_per_eni,
            ..ControllerConfig::default()
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What made it end, with file, field, value and remedy where there are such.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Install(args) => {
            for (path, outcome) in crate::install::run(&args)? {
                println!("{}: {outcome:?}", path.display());
            }
            Ok(())
        }
        Command::Crds => {
            print!("{}", crate::crds::yaml());
            Ok(())
        }
        Command::Controller(command) => serve(async |stop| run_controller(*command, stop).await),
        Command::Node(command) => serve(async |stop| run_node(*command, stop).await),
        Command::Standalone(command) => serve(async |stop| run_standalone(*command, stop).await),
    }
}
/// Runs until the work ends or a signal says stop.
fn serve(work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok().context("TLS provider set twice")?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async { work(stop_at_signal()?).await })
}

async fn run_controller(command: ControllerCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let provider = command.provider.provider()?;
    let (client, serving) = command.api.connect(&stop).await?;
    let controller = controller::run(client, provider, command.controller.config(), stop.cancelled_owned());
    tokio::try_join!(controller, serving)?;
    Ok(())
}

async fn run_node(command: NodeCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let (client, serving) = command.api.connect(&stop).await?;
    tokio::try_join!(node::run(client, command.node.config(None), stop), serving)?;
    Ok(())
}

async fn run_standalone(command: StandaloneCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let provider = command.provider.provider()?;
    let (client, serving) = command.embedded.connect(&stop).await?;
    let config = command.node.config(Some(command.pods));
    register_node(&client, &config.node_name).await?;
    let controller = controller::run(
        client.clone(),
        provider,
        command.controller.config(),
        stop.clone().cancelled_owned(),
    );
    tokio::try_join!(controller, node::run(client, config, stop), serving)?;
    Ok(())
}

/// Makes the machine's Node object, as a kubelet would.
async fn register_node(client: &kube::Client, name: &str) -> anyhow::Result<()> {
    let node = Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    match Api::all(client.clone()).create(&PostParams::default(), &node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error).with_context(|| format!("--node-name {name}: cannot make the Node object")),
    }
}

/// Is cancelled at SIGTERM or SIGINT.
fn stop_at_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        stopping.cancel();
    });
    Ok(stop)
}
