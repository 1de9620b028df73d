//! What all reconcilers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use tracing::warn;

use super::ControllerConfig;
use super::error::ReconcileError;
use super::pool::Pools;
use super::write;
use crate::api::{NodeENIConfig, VpcIP, VpcIPClaim};
use crate::cloud::EniProvider;

/// The caches, each filled by the watch of its reconciler.
#[derive(Clone)]
pub struct Stores {
    pub pods: Store<Pod>,
    pub claims: Store<VpcIPClaim>,
    pub ips: Store<VpcIP>,
    pub nodes: Store<Node>,
    pub configs: Store<NodeENIConfig>,
}

/// Shared by all reconcilers.
pub struct Context {
    pub client: Client,
    pub provider: Arc<dyn EniProvider>,
    pub config: ControllerConfig,
    pub stores: Stores,
    pub pools: Pools,
    recorder: Recorder,
    /// Since when this process has watched a thing being in a state, by the thing's UID. The monotonic clock
    /// that stands beside every time read from an object.
    watched: Mutex<HashMap<(String, &'static str), Instant>>,
    /// Addresses this process has just created, by claim UID: the cache may not show them yet.
    created: Mutex<HashMap<String, String>>,
}

impl Context {
    pub fn new(
        client: Client,
        provider: Arc<dyn EniProvider>,
        config: ControllerConfig,
        stores: Stores,
    ) -> Arc<Self> {
        Arc::new_cyclic(|context| Self {
            recorder: Recorder::new(
                client.clone(),
                Reporter { controller: "eni-ipam-controller".into(), instance: None },
            ),
            pools: Pools::new(context.clone()),
            client,
            provider,
            config,
            stores,
            watched: Mutex::default(),
            created: Mutex::default(),
        })
    }

    /// Waits until every cache has its first list. No decision is made on half a picture.
    pub async fn ready(&self) -> Result<(), ReconcileError> {
        let Stores { pods, claims, ips, nodes, configs } = &self.stores;
        tokio::try_join!(
            pods.wait_until_ready(),
            claims.wait_until_ready(),
            ips.wait_until_ready(),
            nodes.wait_until_ready(),
            configs.wait_until_ready()
        )
        .map(|_| ())
        .map_err(|_| ReconcileError::Caches)
    }

    pub fn claims(&self, namespace: &str) -> Api<VpcIPClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn ips(&self) -> Api<VpcIP> {
        Api::all(self.client.clone())
    }

    pub fn configs(&self) -> Api<NodeENIConfig> {
        Api::all(self.client.clone())
    }

    /// A pod: from the cache, and where the cache has none, from the API. Absence in a cache releases nothing.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Arc<Pod>>, ReconcileError> {
        if let Some(pod) = self.stores.pods.get(&ObjectRef::new(name).within(namespace)) {
            return Ok(Some(pod));
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        Ok(write::live(&pods, name).await?.map(Arc::new))
    }

    /// Whether a node object is gone, by a live read.
    pub async fn node_gone(&self, name: &str) -> Result<bool, ReconcileError> {
        if self.stores.nodes.get(&ObjectRef::new(name)).is_some() {
            return Ok(false);
        }
        Ok(write::live(&Api::<Node>::all(self.client.clone()), name).await?.is_none())
    }

    /// Whether nothing can run on a node any more, by a live read: its object is gone, or the operator has said with
    /// the taint of KEP-2268 that the machine is off.
    pub async fn node_fenced(&self, name: &str) -> Result<bool, ReconcileError> {
        if self.stores.nodes.get(&ObjectRef::new(name)).is_some_and(|node| !is_out_of_service(&node)) {
            return Ok(false);
        }
        let node = write::live(&Api::<Node>::all(self.client.clone()), name).await?;
        Ok(node.is_none_or(|node| is_out_of_service(&node)))
    }

    /// How long this process has watched a thing being in a state. The first call starts the clock.
    pub fn watched_for(&self, uid: &str, state: &'static str) -> Duration {
        let mut watched = self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        watched.entry((uid.to_owned(), state)).or_insert_with(Instant::now).elapsed()
    }

    /// The thing is no longer in that state.
    pub fn stop_watching(&self, uid: &str, state: &'static str) {
        self.watched
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&(uid.to_owned(), state));
    }

    /// Remembers an address created for a claim until the claim's status names it.
    pub fn remember_created(&self, claim_uid: &str, address: Option<String>) {
        let mut created = self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match address {
            Some(address) => created.insert(claim_uid.to_owned(), address),
            None => created.remove(claim_uid),
        };
    }

    /// The address created for a claim that its status does not name yet.
    pub fn created_for(&self, claim_uid: &str) -> Option<String> {
        self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(claim_uid).cloned()
    }

    /// Tells the operator. An event that cannot be written is only logged.
    pub async fn warn(&self, about: ObjectReference, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: action.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            warn!(reason, note, %error, "event not written");
        }
    }
}

/// The taint that says that a machine is off, whatever the reason; see Kubernetes, "Non-graceful node shutdown handling".
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}
