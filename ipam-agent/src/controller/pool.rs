//! A node's ENIs: one task per node puts addresses on them, so that two pods never fight over the last place
//! and a burst of pods costs a handful of calls.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout_at};
use tracing::warn;

use super::context::Context;
use super::error::ReconcileError;
use crate::api::condition::reason;
use crate::api::{ClaimRef, IpPhase, VpcIP};
use crate::cloud::CloudError;
use crate::ipam::pool::{Shortage, SubnetView};

mod batch;
mod memory;
mod new_eni;
mod publish;
mod round;
mod subnets;
pub mod sweep;
mod take_off;
mod warming;

use memory::Memory;
use new_eni::Intents;
use subnets::SubnetCache;

/// The most requests that one round serves.
const BATCH: usize = 64;
/// A burst is waited for in so many slices at most.
const SLICES: usize = 10;

/// What a claim wants of its pod's node.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// The claim.
    pub claim: ClaimRef,
    /// When the claim was made: of those that wait for one place, the oldest has it.
    pub made: Option<Timestamp>,
    /// The addresses it wants, at most one of each family.
    pub nominated_ips: Vec<String>,
    /// Subnets that it wants; empty: any.
    pub nominated_subnets: Vec<String>,
    /// The addresses that it holds already, at most one of each family.
    pub ips: Vec<Arc<VpcIP>>,
}

/// Addresses that are on an ENI of the node: one of each family.
#[derive(Debug)]
pub struct Placed {
    /// The addresses, as last written.
    pub ips: Vec<VpcIP>,
    /// The ENI.
    pub eni_id: String,
}

/// Why not all addresses could be put on an ENI of the node.
#[derive(Debug)]
pub struct NotPlaced {
    /// One of [`reason`].
    pub reason: &'static str,
    /// For the operator.
    pub message: String,
    /// The addresses that the claim holds nevertheless.
    pub ips: Vec<Arc<VpcIP>>,
    /// Somebody else wrote first: decide again at once.
    pub stale: bool,
}

impl NotPlaced {
    fn new(reason: &'static str, message: impl ToString) -> Self {
        Self { reason, message: message.to_string(), ips: Vec::new(), stale: false }
    }

    fn holding(mut self, ips: Vec<Arc<VpcIP>>) -> Self {
        self.ips = ips;
        self
    }
}

impl From<ReconcileError> for NotPlaced {
    fn from(error: ReconcileError) -> Self {
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self { reason: reason::CLOUD_ERROR, message, ips: Vec::new(), stale: error.is_conflict() }
    }
}

impl From<CloudError> for NotPlaced {
    fn from(error: CloudError) -> Self {
        tracing::debug!(%error, "refused by the cloud");
        // Without the request's name: what is said again is no news.
        Self::new(round::reason_of(error.kind), error.words())
    }
}

impl From<Shortage> for NotPlaced {
    fn from(shortage: Shortage) -> Self {
        let reason = match shortage {
            Shortage::SubnetsExhausted { .. } | Shortage::NodeFull { .. } | Shortage::NoCidr(..) => {
                reason::POOL_EXHAUSTED
            }
            Shortage::SubnetRemoved(..) => reason::SUBNET_REMOVED,
            _ => reason::ADDRESS_CONFLICT,
        };
        Self::new(reason, shortage)
    }
}

type Answer = oneshot::Sender<Result<Placed, NotPlaced>>;

enum Job {
    Place(PlaceRequest, Answer),
    TakeOff(TakeOff),
    /// Only compare with the cloud, and do what is due.
    Look(Option<oneshot::Sender<()>>),
}

impl Job {
    /// Whether waiting for more like it saves calls of the cloud.
    fn is_of_a_burst(&self) -> bool {
        match self {
            Self::Place(request, _) => request.ips.is_empty(),
            Self::TakeOff(_) => true,
            Self::Look(_) => false,
        }
    }
}

/// An address that shall leave its ENI.
pub struct TakeOff {
    eni_id: String,
    ip: IpAddr,
    /// Its node has said that nothing there uses it any more.
    let_go: bool,
    answer: oneshot::Sender<Result<(), CloudError>>,
}

/// Counts how often an address has become free: what was refused for want of room is worth another try then.
#[derive(Clone, Debug, Default)]
pub struct Room(Arc<AtomicU64>);

impl Room {
    /// A VpcIP has changed.
    pub fn made_by(&self, ip: &VpcIP) {
        if matches!(ip.state().phase, IpPhase::Cooldown | IpPhase::Quarantined) {
            self.made();
        }
    }

    fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn version(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The tasks of all nodes, and what they know together.
pub struct Pools {
    context: Weak<Context>,
    nodes: Mutex<HashMap<String, mpsc::UnboundedSender<Job>>>,
    room: Room,
    subnets: SubnetCache,
    /// Held while a place for an ENI is reserved: two nodes must not take the same.
    making: tokio::sync::Mutex<()>,
    intents: Intents,
    /// Addresses on ENIs that nobody owns, by node: no other node may choose them.
    warm: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl Pools {
    pub fn new(context: Weak<Context>, room: Room) -> Self {
        Self {
            context,
            nodes: Mutex::default(),
            room,
            subnets: SubnetCache::default(),
            making: tokio::sync::Mutex::default(),
            intents: Intents::default(),
            warm: Mutex::default(),
        }
    }

    /// Puts one address of each family on an ENI of a node, creating all of them as needed.
    pub async fn place(&self, node: &str, request: PlaceRequest) -> Result<Placed, NotPlaced> {
        let held = request.ips.clone();
        let (answer, answered) = oneshot::channel();
        self.send(node, Job::Place(request, answer));
        answered.await.unwrap_or_else(|_| {
            Err(NotPlaced::new(reason::CLOUD_ERROR, "the task of this node has ended; trying again")
                .holding(held))
        })
    }

    /// Takes an address off its ENI. One that its node has `let_go` may be left, to wait there for the node's next pod.
    ///
    /// # Errors
    /// The cloud's.
    pub async fn take_off(
        &self,
        node: Option<&str>,
        eni_id: &str,
        ip: IpAddr,
        let_go: bool,
    ) -> Result<(), CloudError> {
        let Some(context) = self.context.upgrade() else { return Ok(()) };
        let known = |node: &&str| context.stores.configs.get(&ObjectRef::new(node)).is_some();
        let Some(node) = node.filter(known) else {
            return context.provider.unassign_ips(eni_id, &[ip]).await;
        };
        let (answer, answered) = oneshot::channel();
        self.send(node, Job::TakeOff(TakeOff { eni_id: eni_id.to_owned(), ip, let_go, answer }));
        match answered.await {
            Ok(outcome) => outcome,
            // Its task has ended under way: the call can be made twice.
            Err(_) => context.provider.unassign_ips(eni_id, &[ip]).await,
        }
    }

    /// An address has left its ENI.
    pub fn made_room(&self) {
        self.room.made();
    }

    /// Compares a node's status with the cloud.
    pub async fn refresh(&self, node: &str) {
        let (answer, answered) = oneshot::channel();
        self.send(node, Job::Look(Some(answer)));
        let _ = answered.await;
    }

    /// The subnets for who only counts, and when to count again at the latest because what was seen of them is older than what
    /// this controller has done to them. Calls the cloud for that, seldom.
    pub async fn counted_subnets(&self, context: &Context) -> (Vec<SubnetView>, Option<Duration>) {
        let (subnets, again) = self.subnets.counted(context).await;
        (subnets::views(context, &subnets), again)
    }

    /// Somebody waits for an address: nodes that keep some warm are asked to look.
    fn ask_back(&self, except: &str) {
        let warm = self.warm();
        let nodes: Vec<String> = warm.keys().filter(|node| *node != except).cloned().collect();
        drop(warm);
        for node in nodes {
            self.send(&node, Job::Look(None));
        }
    }

    /// Ends the task of a node that is gone.
    pub fn forget(&self, node: &str) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
        self.warm().remove(node);
    }

    fn warm(&self) -> MutexGuard<'_, HashMap<String, Vec<IpAddr>>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, node: &str, job: Job) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = nodes.entry(node.to_owned()).or_insert_with(|| self.start(node));
        if let Err(mpsc::error::SendError(job)) = queue.send(job) {
            // The task has panicked: a new one takes over.
            *queue = self.start(node);
            let _ = queue.send(job);
        }
    }

    fn start(&self, node: &str) -> mpsc::UnboundedSender<Job> {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(node.to_owned(), self.context.clone(), receiver));
        sender
    }
}

/// Serves one node until its queue or the controller ends.
async fn serve(node: String, context: Weak<Context>, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut memory = Memory::default();
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        let came = queue.recv_many(&mut jobs, BATCH);
        let ended = match memory.wake_at() {
            Some(at) => timeout_at(at, came).await.is_ok_and(|count| count == 0),
            None => came.await == 0,
        };
        let Some(context) = context.upgrade() else { return };
        if ended {
            // The node is gone, and a round that was under way may have told of it once more.
            context.pools.warm().remove(&node);
            context.sights.forget(&node);
            return;
        }
        gather(&mut queue, &mut jobs, context.config.gather).await;
        let (mut requests, mut leaving, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs.drain(..) {
            match job {
                Job::Place(request, answer) => requests.push((request, answer)),
                Job::TakeOff(leaves) => leaving.push(leaves),
                Job::Look(answer) => looks.push(answer),
            }
        }
        take_off::run(&node, &context, &mut memory, leaving).await;
        // Woken together, they come in any order.
        requests.sort_by_key(|(request, _)| request.made);
        let requests = memory.still_open(requests, context.pools.room.version());
        if requests.is_empty() && looks.is_empty() && !memory.is_due() {
            continue;
        }
        if let Err(error) = batch::run(&node, &context, &mut memory, requests, queue.is_empty()).await {
            warn!(node, reason = error.reason, message = error.message, "ENIs of this node are not known");
        }
        for answer in looks.into_iter().flatten() {
            let _ = answer.send(());
        }
    }
}

/// A burst comes one by one: waits as long as more of it come, within bounds.
async fn gather(queue: &mut mpsc::UnboundedReceiver<Job>, jobs: &mut Vec<Job>, slice: Duration) {
    if slice.is_zero() || !jobs.iter().any(Job::is_of_a_burst) {
        return;
    }
    for _ in 0..SLICES {
        let before = jobs.len();
        sleep(slice).await;
        while jobs.len() < BATCH
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        if jobs.len() == before || jobs.len() >= BATCH {
            return;
        }
    }
}
