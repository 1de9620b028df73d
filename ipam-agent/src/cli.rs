//! The command line of `ipam-agent`: which parts run in this process, and with what.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

use crate::api::DeletePolicy;
use crate::client::{self, heard, in_time, naming_permissions};
use crate::cloud::EniProvider;
use crate::controller::{self, ControllerConfig, Scheduling};
use crate::crds;
use crate::health::Health;
use crate::install::InstallArgs;
use crate::ipam::family::Families;
use crate::leader::{self, fenced_client, fenced_provider};
use crate::metrics::{ListenAddress, Metrics};
use crate::node::{self, NodeArgs, PodRules};
use crate::webhook::WebhookConfig;

mod api;
mod election;
mod pool;
mod provider;
mod webhook;

use api::{ApiArgs, EmbeddedArgs};
use election::LeaderArgs;
use pool::PoolArgs;
use provider::ProviderArgs;
use webhook::WebhookArgs;

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
    #[command(flatten)]
    leader: LeaderArgs,
    #[command(flatten)]
    webhook: WebhookArgs,
    /// Where to serve Prometheus metrics at /metrics, and probes at /healthz and /readyz; nothing serves none.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9471")]
    metrics_address: ListenAddress,
    #[command(flatten)]
    health: HealthArgs,
}

#[derive(Debug, Args)]
struct NodeCommand {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    metrics: NodeMetricsArgs,
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
    #[command(flatten)]
    metrics: NodeMetricsArgs,
}

#[derive(Debug, Args)]
struct NodeMetricsArgs {
    /// Where to serve Prometheus metrics at /metrics, and probes at /healthz and /readyz; nothing serves none.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9470")]
    metrics_address: ListenAddress,
    #[command(flatten)]
    health: HealthArgs,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// /healthz fails when a step of the work takes longer than this, or a part of it has not come back for so long.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    stuck_after: Duration,
}

#[derive(Debug, Args)]
struct ControllerArgs {
    /// Name of the cluster; tags its ENIs.
    #[arg(long, default_value = "default")]
    cluster_id: String,
    /// How long the address of a static pod is kept after the pod is gone: a duration of at least 5m, or never.
    #[arg(long, default_value = "never", value_parser = expiry)]
    claim_expired_duration: Expiry,
    /// Give addresses back when the workload at the top of their pod's owners is deleted, once the pod is detached.
    #[arg(long)]
    enable_ownerref: bool,
    /// How long an address stays out of use after its release.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    cooldown: Duration,
    /// How long, after the Node object says so, a silent node keeps addresses of claims with `fencing: Optimistic`. Longer
    /// than the agents' --self-fence-after.
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = humantime::parse_duration)]
    takeover_after: Duration,
    /// Policy of pods without the annotation: Immediate, or Never (every pod is static).
    #[arg(long, default_value = "Immediate", value_parser = delete_policy)]
    default_delete_policy: DeletePolicy,
    /// Secondary ENIs that a node can take. Without it: what the cloud says of its machine, or 3 where it says nothing.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=64))]
    max_enis: Option<u32>,
    #[command(flatten)]
    pool: PoolArgs,
    /// Families of which every pod has one address, all on one ENI: ipv4, ipv6 or ipv4,ipv6. A pod is not served before
    /// it has all of them.
    #[arg(long, default_value_t = Families::ipv4(), value_name = "FAMILIES")]
    ip_families: Families,
    /// Secondary addresses of one ENI, of each family, its primary one not counted. Without it: what the cloud says of the
    /// machine, or 9 where it says nothing.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_ips_per_eni: Option<u32>,
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
    fn config(&self, metrics: &Metrics, health: &Health) -> ControllerConfig {
        ControllerConfig {
            cluster_id: self.cluster_id.clone(),
            cooldown: self.cooldown,
            takeover_after: self.takeover_after,
            expired_duration: self.claim_expired_duration.0,
            default_policy: self.default_delete_policy,
            cascade: self.enable_ownerref,
            max_enis: self.max_enis,
            max_ips_per_eni: self.max_ips_per_eni,
            metrics: metrics.clone(),
            health: health.clone(),
            families: self.ip_families.clone(),
            min_enis: self.pool.min_enis,
            reserve_eni_quota: self.pool.reserve_eni_quota,
            nominated_only_subnets: self.pool.only_nominated_eni_subnets.clone(),
            warm: self.pool.warm(),
            ..ControllerConfig::default()
        }
    }
}

impl Cli {
    /// These arguments, if they fit each other, which the parser of each cannot see.
    ///
    /// # Errors
    /// What is wrong: to be printed, and the exit status is 2.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let checked = match &self.command {
            Command::Controller(command) => command.leader.check().and_then(|()| command.provider.check()),
            Command::Standalone(command) => command.provider.check(),
            _ => Ok(()),
        };
        match checked {
            Ok(()) => Ok(self),
            Err(problem) => Err(clap::Error::raw(ErrorKind::ValueValidation, format!("{problem}\n"))),
        }
    }

    /// The usage of a subcommand; of the program, if there is no such.
    #[must_use]
    pub fn usage(subcommand: Option<&str>) -> String {
        let mut program = Self::command();
        program.build();
        let usage = subcommand.and_then(|name| Some(program.find_subcommand_mut(name)?.render_usage()));
        usage.unwrap_or_else(|| Self::command().render_usage()).to_string()
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
            print!("{}", crds::yaml());
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
    let (metrics, health) = (Metrics::default(), Health::new(command.health.stuck_after));
    let client = in_time(client, client::ANSWER);
    let client = heard(naming_permissions(client, "deploy/base/controller-rbac.yaml"), &health);
    // Before anybody can ask.
    health.awaits(if command.leader.is_on() { leader::LOOK } else { controller::FIRST_LISTS });
    let config = command.controller.config(&metrics, &health);
    let config = ControllerConfig {
        elected: command.leader.is_on(),
        scheduling: Some(Scheduling::default()),
        ..config
    };
    // Every replica serves it, whoever leads.
    let webhook = command.webhook.config(&config.families);
    let admission = serve_webhook(client.clone(), provider.clone(), webhook, stop.clone());
    let stopped = stop.clone().cancelled_owned();
    let election = command.leader.election(&metrics, &health);
    let controller = async {
        let served = crds::check(client.clone());
        tokio::select! { served = served => served?, () = stop.cancelled() => return Ok(()) }
        match election {
            None => controller::run(client, provider, config, stopped).await,
            Some(election) => {
                let lead = |term| {
                    let (client, provider) =
                        (fenced_client(client.clone(), &term), fenced_provider(provider, &term));
                    controller::run(client, provider, config, stopped)
                };
                election.lead(client.clone(), stop.clone(), lead).await
            }
        }
    };
    let told = metrics.serve(health, command.metrics_address, stop.clone()).map(Ok);
    tokio::try_join!(controller, admission, serving, told)?;
    Ok(())
}

async fn serve_webhook(
    client: kube::Client,
    provider: Arc<dyn EniProvider>,
    config: Option<WebhookConfig>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match config {
        Some(config) => crate::webhook::run(client, provider, config, stop).await,
        None => Ok(()),
    }
}

async fn run_node(command: NodeCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let (client, serving) = command.api.connect(&stop).await?;
    let (metrics, health) = (Metrics::default(), Health::new(command.metrics.health.stuck_after));
    let client = in_time(client, client::ANSWER);
    let client = heard(naming_permissions(client, "deploy/base/node-rbac.yaml"), &health);
    let config = command.node.config(None, &metrics, &health);
    let told = metrics.serve(health, command.metrics.metrics_address, stop.clone()).map(Ok);
    // Beside the work: pods of this node come up while the API is away.
    let served = async {
        tokio::select! { served = crds::check(client.clone()) => served, () = stop.cancelled() => Ok(()) }
    };
    tokio::try_join!(node::run(client.clone(), config, stop.clone()), serving, told, served)?;
    Ok(())
}

async fn run_standalone(command: StandaloneCommand, stop: CancellationToken) -> anyhow::Result<()> {
    let provider = command.provider.provider()?;
    let (client, serving) = command.embedded.connect(&stop).await?;
    let (metrics, health) = (Metrics::default(), Health::new(command.metrics.health.stuck_after));
    let client = heard(in_time(client, client::ANSWER), &health);
    let config = command.node.config(Some(command.pods), &metrics, &health);
    register_node(&client, &config.node_name).await?;
    let controller = controller::run(
        client.clone(),
        provider,
        command.controller.config(&metrics, &health),
        stop.clone().cancelled_owned(),
    );
    let told = metrics.serve(health, command.metrics.metrics_address, stop.clone()).map(Ok);
    tokio::try_join!(controller, node::run(client, config, stop), serving, told)?;
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
