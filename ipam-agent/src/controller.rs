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
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tracing::{info, warn};

use crate::api::{DeletePolicy, NodeENIConfig, VpcIP, VpcIPClaim};
use crate::cloud::EniProvider;

mod addresses;
mod census;
mod claims;
mod context;
mod error;
mod feed;
mod nodes;
mod pods;
mod pool;
mod views;
mod write;

use context::{Context, Stores};
use error::ReconcileError;
use feed::Feed;

/// How the controller behaves.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
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
    /// Secondary ENIs that a node can take.
    pub max_enis: u32,
    /// Secondary addresses of one ENI.
    pub max_ips_per_eni: u32,
    /// How long to wait before trying again what the cloud refused or had no room for.
    pub retry: Duration,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            cluster_id: "default".into(),
            cooldown: Duration::from_secs(30),
            quarantine: Duration::from_secs(600),
            orphan_period: Duration::from_secs(60),
            expired_duration: None,
            default_policy: DeletePolicy::Immediate,
            max_enis: 3,
            max_ips_per_eni: 9,
            retry: Duration::from_secs(2),
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
    let mut pods = Feed::<Pod>::new(Api::all(client.clone()));
    let mut claims = Feed::<VpcIPClaim>::new(Api::all(client.clone()));
    let mut ips = Feed::<VpcIP>::new(Api::all(client.clone()));
    let mut nodes = Feed::<Node>::new(Api::all(client.clone()));
    let mut configs = Feed::<NodeENIConfig>::new(Api::all(client.clone()));
    let stores = Stores {
        pods: pods.store(),
        claims: claims.store(),
        ips: ips.store(),
        nodes: nodes.store(),
        configs: configs.store(),
    };

    let pods_controller = pods.controller();
    let claims_controller = claims.controller();
    let claims_controller = pods.wakes(claims_controller, |pod| {
        Some(ObjectRef::<VpcIPClaim>::new(&pod.name_any()).within(&pod.namespace().unwrap_or_default()))
    });
    let claims_controller = ips.wakes(claims_controller, |ip| {
        let claim = ip.spec.claim_ref.as_ref()?;
        Some(ObjectRef::<VpcIPClaim>::new(&claim.name).within(&claim.namespace))
    });
    let claims_controller = ips.wakes(claims_controller, {
        let claims = stores.claims.clone();
        move |ip| census::waiting_for_room(ip, &claims.state())
    });
    let claims_controller = nodes.wakes(claims_controller, {
        let claims = stores.claims.clone();
        move |node| claims_of_node(&claims.state(), &node.name_any())
    });
    let ips_controller = ips.controller();
    let ips_controller = claims.wakes(ips_controller, {
        let ips = stores.ips.clone();
        move |claim| ips_of_claim(&ips.state(), claim)
    });
    let nodes_controller = nodes.controller();
    let configs_controller = configs.controller();
    let configs_controller =
        nodes.wakes(configs_controller, |node| Some(ObjectRef::<NodeENIConfig>::new(&node.name_any())));

    let context = Context::new(client, provider, config, stores);
    let watches = futures::future::join5(pods.run(), claims.run(), ips.run(), nodes.run(), configs.run());
    let shutdown = shutdown.shared();

    macro_rules! drive {
        ($controller:expr, $name:literal, $reconcile:path) => {
            $controller
                .graceful_shutdown_on(shutdown.clone())
                .run($reconcile, |_, error, _| retry_after(error), context.clone())
                .for_each(|outcome| async move {
                    if let Err(error) = outcome {
                        report($name, &error);
                    }
                })
                .map(|()| $name)
                .boxed()
        };
    }
    let reconcilers: Vec<BoxFuture<'_, &str>> = vec![
        drive!(pods_controller, "pods", pods::reconcile),
        drive!(claims_controller, "claims", claims::reconcile),
        drive!(ips_controller, "addresses", addresses::reconcile),
        drive!(nodes_controller, "nodes", nodes::reconcile_node),
        drive!(configs_controller, "configs", nodes::reconcile_config),
        watches.map(|_| "watches").boxed(),
    ];
    info!("controller started");
    let (ended, _, others) = futures::future::select_all(reconcilers).await;
    if shutdown.clone().now_or_never().is_none() {
        anyhow::bail!("the reconciler of {ended} ended by itself");
    }
    drop(others);
    info!("controller stopped");
    Ok(())
}

/// Addresses made for a claim: the one that it holds, and any that it has left for another.
fn ips_of_claim(ips: &[Arc<VpcIP>], claim: &VpcIPClaim) -> Vec<ObjectRef<VpcIP>> {
    let uid = claim.uid();
    ips.iter()
        .filter(|ip| ip.spec.claim_ref.as_ref().map(|claim| &claim.uid) == uid.as_ref())
        .map(|ip| ObjectRef::from_obj(&**ip))
        .collect()
}

/// Claims whose address was last on this node, or which wait for it.
fn claims_of_node(claims: &[Arc<VpcIPClaim>], node: &str) -> Vec<ObjectRef<VpcIPClaim>> {
    claims
        .iter()
        .filter(|claim| claim.status.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(node)))
        .map(|claim| ObjectRef::from_obj(&**claim))
        .collect()
}

fn retry_after(error: &ReconcileError) -> Action {
    Action::requeue(if error.is_conflict() { Duration::from_millis(50) } else { Duration::from_secs(1) })
}

fn report(reconciler: &str, error: &kube::runtime::controller::Error<ReconcileError, watcher::Error>) {
    use kube::runtime::controller::Error;
    match error {
        // The object went before its turn came: what is asked for has happened.
        Error::ObjectNotFound(_) => {}
        Error::ReconcilerFailed(error, _) if error.is_conflict() => {
            tracing::debug!(reconciler, %error, "stale; deciding again");
        }
        error => {
            warn!(reconciler, error = %anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": "), "will retry")
        }
    }
}
