//! The controller: claims from pods, addresses from claims, ENIs by need, release by policy.
//!
//! ```text
//! Pod ──pods──▶ VpcIPClaim ──claims──▶ VpcIP ──addresses──▶ gone
//! Node ─nodes─▶ NodeENIConfig      │
//!                                  └─pool (one per node)──▶ cloud: ENIs and their addresses
//! ```
//!
//! Each reconciler observes, asks [`crate::ipam`] for one step and takes it. Every write carries the
//! resourceVersion that the decision was made on; every call of the cloud comes after a write that a newer
//! controller would have made fail.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tracing::{info, warn};

use crate::api::{DeletePolicy, NodeENIConfig, VpcIP, VpcIPClaim};
use crate::client::is_refusal;
use crate::cloud::EniProvider;
use crate::health::{self, Health};
use crate::ipam::family::Families;
use crate::ipam::pool::warm::WarmTarget;
use crate::metrics::{Metrics, count_api_writes};

mod addresses;
mod capacity;
mod census;
mod claims;
mod clock;
mod context;
mod error;
mod feed;
mod fencing;
mod index;
mod metrics;
mod nodes;
mod pods;
mod pool;
mod records;
mod sights;
mod views;
mod watches;
mod workloads;
mod write;

pub use capacity::Scheduling;
use clock::ServerClock;
use context::{Context, Stores};
use error::ReconcileError;
use feed::Feed;
use metrics::ControllerMetrics;

/// What a controller that acts is not ready without.
pub const FIRST_LISTS: &str = "the first list of every kind";

/// How the controller behaves.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// An election lets nobody else act meanwhile: writes and calls of the cloud end with the term.
    pub elected: bool,
    /// Name of the cluster: the tag of its ENIs.
    pub cluster_id: String,
    /// How long an address stays out of use after its release.
    pub cooldown: Duration,
    /// How long an address that the cloud called taken is left alone.
    pub quarantine: Duration,
    /// An address without a claim is released when it has been seen so twice, this far apart.
    pub orphan_period: Duration,
    /// Retention of claims that say nothing; `None`: for ever.
    pub expired_duration: Option<Duration>,
    /// Policy of pods that say nothing.
    pub default_policy: DeletePolicy,
    /// Secondary ENIs that a node can take; `None`: what the cloud says of its machine.
    pub max_enis: Option<u32>,
    /// Secondary addresses of one ENI; `None`: what the cloud says of its machine.
    pub max_ips_per_eni: Option<u32>,
    /// ENIs that a node is given when it joins; the others come when pods need them.
    pub min_enis: u32,
    /// An ENI is only made where its subnet can hold it and all the addresses it may ever have.
    pub reserve_eni_quota: bool,
    /// Subnets only for pods that nominate them.
    pub nominated_only_subnets: Vec<String>,
    /// Addresses that wait on each node for pods.
    pub warm: WarmTarget,
    /// How long more addresses than that may wait before they are taken back.
    pub warm_patience: Duration,
    /// How long a node's pool waits for more of a burst after a pod that needs a call of the cloud, as long as more come.
    pub gather: Duration,
    /// Between two looks at all ENIs of the cluster. What is needless is collected when two have shown it so.
    pub eni_period: Duration,
    /// An ENI that has been on its way for so long will not arrive.
    pub eni_stuck: Duration,
    /// The families of which every pod has an address.
    pub families: Families,
    /// How long an address is watched being unused before its retention can be over.
    pub observation: Duration,
    /// How long a node's agent has to say by itself that a pod's network is gone before it is asked.
    pub patience: Duration,
    /// Addresses go with the workload at the top of their pod's owners (`--enable-ownerref`).
    pub cascade: bool,
    /// How long a node is silent before addresses of claims with `fencing: Optimistic` are taken from it.
    pub takeover_after: Duration,
    /// How long to wait before trying again what the cloud refused or had no room for.
    pub retry: Duration,
    /// It waits twice as long each time, at most so long.
    pub retry_max: Duration,
    /// Where the controller's metrics go.
    pub metrics: Metrics,
    /// Who is told of the controller's health.
    pub health: Health,
    /// Tell the scheduler where pods can have addresses; `None`: there is no scheduler.
    pub scheduling: Option<Scheduling>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            elected: false,
            cluster_id: "default".into(),
            cooldown: Duration::from_secs(30),
            quarantine: Duration::from_secs(600),
            orphan_period: Duration::from_secs(60),
            expired_duration: None,
            default_policy: DeletePolicy::Immediate,
            max_enis: None,
            max_ips_per_eni: None,
            min_enis: 1,
            reserve_eni_quota: false,
            nominated_only_subnets: Vec::new(),
            warm: WarmTarget::default(),
            warm_patience: Duration::from_secs(120),
            gather: Duration::from_millis(20),
            eni_period: Duration::from_secs(300),
            eni_stuck: Duration::from_secs(120),
            families: Families::ipv4(),
            observation: crate::ipam::retention::OBSERVATION,
            patience: Duration::from_secs(2),
            cascade: false,
            takeover_after: Duration::from_secs(50),
            retry: Duration::from_secs(2),
            retry_max: Duration::from_secs(60),
            metrics: Metrics::default(),
            health: Health::default(),
            scheduling: None,
        }
    }
}

/// Runs until `shutdown` completes.
///
/// # Errors
/// A reconciler ended by itself: the process must not go on as if all were well.
pub async fn run(
    client: Client,
    provider: Arc<dyn EniProvider>,
    config: ControllerConfig,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let metrics = ControllerMetrics::new(&config.metrics);
    let clock = ServerClock::new(&config.metrics);
    let client = clock.watching(count_api_writes(client, &config.metrics));
    let mut pods = Feed::<Pod>::new(Api::all(client.clone()));
    let mut claims = Feed::<VpcIPClaim>::new(Api::all(client.clone()));
    let mut ips = Feed::<VpcIP>::new(Api::all(client.clone()));
    let mut nodes = Feed::<Node>::new(Api::all(client.clone()));
    let mut configs = Feed::<NodeENIConfig>::new(Api::all(client.clone()));
    let mut namespaces = Feed::<Namespace>::new(Api::all(client.clone())).optional();
    let listed =
        [pods.listed(), claims.listed(), ips.listed(), nodes.listed(), configs.listed(), namespaces.listed()];
    let pods_of = pods.index(|pod| pod.namespace());
    let claims_on = claims.index(|claim| claim.status.as_ref()?.node_name.clone());
    let stores = Stores {
        pods: pods.store(),
        claims: claims.store(),
        ips: ips.store(),
        nodes: nodes.store(),
        configs: configs.store(),
        namespaces: namespaces.store(),
        ips_by_claim: ips.index(|ip| Some(ip.spec.claim_ref.as_ref()?.uid.clone())),
        waiting: claims.index(census::waits_for_room),
        listed,
    };
    let (wake, woken) = tokio::sync::mpsc::unbounded_channel();

    let pods_controller = pods.controller();
    // What a namespace asks for is asked for by its pods.
    let pods_controller =
        namespaces.wakes(pods_controller, move |namespace| pods_of.get(&namespace.name_any()));
    let claims_controller = claims.controller().reconcile_on(UnboundedReceiverStream::new(woken));
    let claims_controller = pods.wakes(claims_controller, |pod| {
        Some(ObjectRef::<VpcIPClaim>::new(&pod.name_any()).within(&pod.namespace().unwrap_or_default()))
    });
    let claims_controller = ips.wakes(claims_controller, |ip| {
        let claim = ip.spec.claim_ref.as_ref()?;
        Some(ObjectRef::<VpcIPClaim>::new(&claim.name).within(&claim.namespace))
    });
    let room = pool::Room::default();
    let claims_controller = ips.wakes(claims_controller, {
        let (stores, room) = (stores.clone(), room.clone());
        move |ip| {
            room.made_by(ip);
            // Only when its object has gone: that it has left its ENI is told by whoever took it off.
            match stores.ips.get(&ObjectRef::from_obj(ip)) {
                Some(_) => Vec::new(),
                None => census::waiting_for_room(&stores),
            }
        }
    });
    // Claims whose address was last on the node, or which wait for it.
    let claims_controller = nodes.wakes(claims_controller, move |node| claims_on.get(&node.name_any()));
    let ips_controller = ips.controller();
    let ips_controller = claims.wakes(ips_controller, {
        let ips = stores.ips_by_claim.clone();
        // The one that the claim holds, and any that it has left for another.
        move |claim| ips.get(&claim.uid().unwrap_or_default())
    });
    let nodes_controller = nodes.controller();
    let configs_controller = configs.controller();
    let configs_controller =
        nodes.wakes(configs_controller, |node| Some(ObjectRef::<NodeENIConfig>::new(&node.name_any())));

    let news = [pods.news(), ips.news(), nodes.news(), configs.news()];
    let (scheduling, health) = (config.scheduling.clone(), config.health.clone());

    let provider = metrics.count_calls(provider);
    metrics.count_objects(&stores, &provider);
    let context = Context::new(client, provider, config, stores, room, clock, wake);
    let first_lists = first_lists(context.clone());
    let capacity = match scheduling {
        Some(agents) => {
            capacity::keep(context.clone(), agents, futures::stream::select_all(news).boxed()).boxed()
        }
        None => std::future::pending().boxed(),
    };
    let shutdown = shutdown.shared();

    macro_rules! drive {
        ($controller:expr, $name:literal, $reconcile:path) => {{
            let metrics = metrics.clone();
            $controller
                .graceful_shutdown_on(shutdown.clone())
                .run(
                    |object, context| watched($name, $reconcile, object, context),
                    |_, error, _| retry_after(error),
                    context.clone(),
                )
                .for_each(move |outcome| {
                    if let Err(error) = outcome {
                        report($name, &error, &metrics);
                    }
                    std::future::ready(())
                })
                .map(|()| concat!("the reconciler of ", $name))
                .boxed()
        }};
    }
    let reconcilers: Vec<BoxFuture<'_, &str>> = vec![
        drive!(pods_controller, "pods", pods::reconcile),
        drive!(claims_controller, "claims", claims::reconcile),
        drive!(ips_controller, "addresses", addresses::reconcile),
        drive!(nodes_controller, "nodes", nodes::reconcile_node),
        drive!(configs_controller, "configs", nodes::reconcile_config),
        pods.run(&health).map(|()| "the watch of pods").boxed(),
        claims.run(&health).map(|()| "the watch of claims").boxed(),
        ips.run(&health).map(|()| "the watch of addresses").boxed(),
        nodes.run(&health).map(|()| "the watch of nodes").boxed(),
        configs.run(&health).map(|()| "the watch of configs").boxed(),
        namespaces.run(&health).map(|()| "the watch of namespaces").boxed(),
        first_lists.boxed(),
        context.forget_what_is_gone().boxed(),
        capacity.map(|()| "the nodes' capacity").boxed(),
        pool::sweep::run(context.clone()).map(|()| "ENIs").boxed(),
    ];
    info!("controller started");
    let (ended, _, others) = futures::future::select_all(reconcilers).await;
    if shutdown.clone().now_or_never().is_none() {
        anyhow::bail!("{ended} ended by itself");
    }
    drop(others);
    info!("controller stopped");
    Ok(())
}

/// A reconciler's step, of which the health of this process knows. It begins when every cache has had its first list.
async fn watched<K, Step>(
    reconciler: &'static str,
    step: impl FnOnce(Arc<K>, Arc<Context>) -> Step,
    object: Arc<K>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError>
where
    Step: Future<Output = Result<Action, ReconcileError>>,
{
    context.ready().await?;
    let _taken = context.config.health.step(format!("the reconciler of {reconciler}"));
    health::stick(reconciler).await;
    step(object, context).await
}

/// Tells when every cache has had its first list; never ends by itself.
async fn first_lists(context: Arc<Context>) -> &'static str {
    context.config.health.awaits(FIRST_LISTS);
    if context.ready().await.is_ok() {
        context.config.health.came(FIRST_LISTS);
    }
    std::future::pending().await
}

fn retry_after(error: &ReconcileError) -> Action {
    Action::requeue(if error.is_conflict() { Duration::from_millis(50) } else { Duration::from_secs(1) })
}

fn report(
    reconciler: &'static str,
    error: &kube::runtime::controller::Error<ReconcileError, watcher::Error>,
    metrics: &ControllerMetrics,
) {
    use kube::runtime::controller::Error;
    match error {
        // The object went before its turn came: what is asked for has happened.
        Error::ObjectNotFound(_) => {}
        Error::ReconcilerFailed(error, _) if error.is_conflict() => {
            metrics.step_failed(reconciler, true);
            tracing::debug!(reconciler, %error, "stale; deciding again");
        }
        // Told of once, where it comes from.
        error if is_refusal(error) => metrics.step_failed(reconciler, false),
        error => {
            metrics.step_failed(reconciler, false);
            warn!(reconciler, error = %anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": "), "will retry")
        }
    }
}
