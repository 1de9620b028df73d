//! What all reconcilers share.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::ControllerConfig;
use super::clock::ServerClock;
use super::error::ReconcileError;
use super::index::Index;
use super::pool::{Pools, Room};
use super::sights::Sights;
use super::watches::Watches;
use super::workloads::Workloads;
use super::write;
use crate::api::annotations::{AddressWish, BadAnnotation};
use crate::api::{NodeENIConfig, NodeENIConfigSpec, VpcIP, VpcIPClaim};
use crate::client::is_refusal;
use crate::cloud::{EniProvider, OwnChanges};

/// The caches, each filled by the watch of its reconciler.
#[derive(Clone)]
pub struct Stores {
    pub pods: Store<Pod>,
    pub claims: Store<VpcIPClaim>,
    pub ips: Store<VpcIP>,
    pub nodes: Store<Node>,
    pub configs: Store<NodeENIConfig>,
    pub namespaces: Store<Namespace>,
    /// Addresses by the UID of their claim.
    pub ips_by_claim: Arc<Index<VpcIP>>,
    /// Claims that wait for an address to become free, all under one key: see [`super::census::waits_for_room`].
    pub waiting: Arc<Index<VpcIPClaim>>,
    /// Whether each of them has had its first list.
    pub listed: [tokio::sync::watch::Receiver<bool>; 6],
}

/// Shared by all reconcilers.
pub struct Context {
    pub client: Client,
    pub provider: Arc<dyn EniProvider>,
    /// The same, for what was done through it.
    pub own_changes: Arc<OwnChanges>,
    pub config: ControllerConfig,
    pub stores: Stores,
    pub pools: Pools,
    pub workloads: Workloads,
    pub clock: Arc<ServerClock>,
    /// Wakes the reconciler of claims.
    wake: UnboundedSender<ObjectRef<VpcIPClaim>>,
    /// What the rounds of the pools have seen.
    pub sights: Sights,
    recorder: Recorder,
    /// What this process watches being in a state.
    pub watches: Watches,
    /// Names of addresses this process has just created, by claim UID: the cache may not show them yet.
    created: Mutex<HashMap<String, Vec<String>>>,
    /// Addresses as this process has just bound them, by UID: the cache may still show what they were.
    bound: Mutex<HashMap<String, Arc<VpcIP>>>,
}

impl Context {
    pub fn new(
        client: Client,
        provider: Arc<dyn EniProvider>,
        config: ControllerConfig,
        stores: Stores,
        room: Room,
        clock: Arc<ServerClock>,
        wake: UnboundedSender<ObjectRef<VpcIPClaim>>,
    ) -> Arc<Self> {
        let own_changes = Arc::new(OwnChanges::new(provider));
        Arc::new_cyclic(|context| Self {
            recorder: Recorder::new(
                client.clone(),
                Reporter { controller: "eni-ipam-controller".into(), instance: None },
            ),
            pools: Pools::new(context.clone(), room),
            workloads: Workloads::new(client.clone()),
            clock,
            wake,
            sights: Sights::default(),
            client,
            provider: own_changes.clone(),
            own_changes,
            config,
            stores,
            watches: Watches::default(),
            created: Mutex::default(),
            bound: Mutex::default(),
        })
    }

    /// Waits until every cache has its first list. No decision is made on half a picture.
    pub async fn ready(&self) -> Result<(), ReconcileError> {
        for listed in &self.stores.listed {
            listed.clone().wait_for(|listed| *listed).await.map_err(|_| ReconcileError::Caches)?;
        }
        Ok(())
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

    /// What a pod asks for, by its own annotations and then by those of its namespace, and what of both cannot be
    /// followed.
    pub fn wish_of(&self, pod: &Pod) -> (AddressWish, Vec<BadAnnotation>) {
        let (mut wish, mut bad) = AddressWish::parse(pod.annotations());
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(namespace) = self.stores.namespaces.get(&ObjectRef::new(&namespace)) {
            let (defaults, bad_defaults) = AddressWish::of_namespace(namespace.annotations());
            wish = wish.or(defaults);
            bad.extend(bad_defaults);
        }
        (wish, bad)
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
        self.watches.watched_for(uid, state, None)
    }

    /// The thing is no longer in that state.
    pub fn stop_watching(&self, uid: &str, state: &'static str) {
        self.watches.stop(uid, state);
    }

    /// An address has made room: whoever waits for one looks again, in the order in which their claims were made.
    pub fn wake_who_waits_for_room(&self) {
        self.pools.made_room();
        for claim in super::census::waiting_for_room(&self.stores) {
            // Nobody listens only when the controller ends.
            let _ = self.wake.send(claim);
        }
    }

    /// From time to time drops what is remembered of objects that are gone, for as long as the process lives. One that the
    /// caches do not show yet is at worst watched anew, which releases nothing early.
    pub async fn forget_what_is_gone(&self) -> &'static str {
        while self.ready().await.is_ok() {
            let Stores { claims, ips, nodes, .. } = &self.stores;
            let claims = claims.state().into_iter().filter_map(|claim| claim.uid());
            let ips = ips.state().into_iter().filter_map(|ip| ip.uid());
            let nodes = nodes.state().into_iter().filter_map(|node| node.uid());
            let there: HashSet<String> = claims.chain(ips).chain(nodes).collect();
            self.watches.keep_only(|uid| there.contains(uid));
            self.created().retain(|claim, _| there.contains(claim));
            self.bound().retain(|ip, _| there.contains(ip));
            tokio::time::sleep(FORGET).await;
        }
        // The watches have ended, and with them the process.
        std::future::pending().await
    }

    /// Remembers an address created for a claim, by its name, until the claim's status names it.
    pub fn remember_created(&self, claim_uid: &str, name: String) {
        let mut created = self.created();
        let names = created.entry(claim_uid.to_owned()).or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }

    /// Remembers an address as it was just bound, until the cache shows it so.
    pub fn remember_bound(&self, ip: VpcIP) {
        self.bound().insert(ip.uid().unwrap_or_default(), Arc::new(ip));
    }

    /// An address of the cache, or the same as this process knows it better. Its epoch only ever grows.
    pub fn newest(&self, ip: Arc<VpcIP>) -> Arc<VpcIP> {
        let mut bound = self.bound();
        let uid = ip.uid().unwrap_or_default();
        match bound.get(&uid) {
            Some(known) if known.state().epoch > ip.state().epoch => known.clone(),
            Some(_) => {
                bound.remove(&uid);
                ip
            }
            None => ip,
        }
    }

    fn bound(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<VpcIP>>> {
        self.bound.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The address is not the claim's any more.
    pub fn forget_created(&self, claim_uid: &str, name: &str) {
        let mut created = self.created();
        if let Some(names) = created.get_mut(claim_uid) {
            names.retain(|known| known != name);
            if names.is_empty() {
                created.remove(claim_uid);
            }
        }
    }

    /// The addresses created for a claim that its status may not name yet.
    pub fn created_for(&self, claim_uid: &str) -> Vec<String> {
        self.created().get(claim_uid).cloned().unwrap_or_default()
    }

    fn created(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells the operator about a node.
    pub async fn warn_of_node(&self, node: &str, reason: &str, action: &str, note: &str) {
        let about = match self.stores.nodes.get(&ObjectRef::new(node)) {
            Some(node) => node.object_ref(&()),
            None => NodeENIConfig::new(node, NodeENIConfigSpec::default()).object_ref(&()),
        };
        self.warn(about, reason, action, note).await;
    }

    /// Warns the operator. An event that cannot be written is only logged.
    pub async fn warn(&self, about: ObjectReference, reason: &str, action: &str, note: &str) {
        self.tell(EventType::Warning, about, reason, action, note).await;
    }

    /// Tells the operator what has happened as it should.
    pub async fn note(&self, about: ObjectReference, reason: &str, action: &str, note: &str) {
        self.tell(EventType::Normal, about, reason, action, note).await;
    }

    async fn tell(&self, type_: EventType, about: ObjectReference, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: action.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about).await
            && !is_refusal(&error)
        {
            warn!(reason, note, %error, "event not written");
        }
    }
}

/// How often what is gone is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// The taint that says that a machine is off, whatever the reason; see Kubernetes, "Non-graceful node shutdown handling".
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}
