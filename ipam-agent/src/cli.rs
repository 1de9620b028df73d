//! The command line of `ipam-agent`: which parts run in this process, and with what.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::api::DeletePolicy;
use crate::controller::{self, ControllerConfig};
use crate::install::InstallArgs;
use crate::node::{self, NodeArgs};

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
    #[arg(long, default_value_t = 3)]
    max_enis: u32,
    /// Secondary addresses of one ENI, its primary one not counted.
    #[arg(long, default_value_t = 9)]
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
    if let Command::Install(args) = cli.command {
        return crate::install::run(&args);
    }
    rustls::crypto::ring::default_provider().install_default().ok().context("TLS provider set twice")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let stop = stop_signal()?;
        match cli.command {
            Command::Controller(command) => {
                let provider = command.provider.provider()?;
                let (client, serving) = command.api.connect(stop.clone()).await?;
                let running = controller::run(client, provider, command.controller.config(), stop);
                tokio::try_join!(running, serving)?;
            }
            Command::Node(command) => {
                let (client, serving) = command.api.connect(stop.clone()).await?;
                tokio::try_join!(node::run(client, command.node.config()?, stop), serving)?;
            }
            Command::Standalone(command) => {
                let provider = command.provider.provider()?;
                let (client, serving) = command.embedded.connect(stop.clone()).await?;
                let controller =
                    controller::run(client.clone(), provider, command.controller.config(), stop.clone());
                let node = node::run_standalone(client, command.node.config()?, stop);
                tokio::try_join!(controller, node, serving)?;
            }
            Command::Install(_) => {}
        }
        Ok(())
    })
}

/// Completes at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<api::Stop> {
    use futures::FutureExt;
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    }
    .boxed()
    .shared())
}
