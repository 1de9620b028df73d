//! A node's ENIs: one task per node puts addresses on them, so that two pods never fight over the last place
//! and a burst of pods costs a handful of calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::context::Context;
use super::error::ReconcileError;
use crate::api::condition::reason;
use crate::api::{ClaimRef, VpcIP};
use crate::cloud::CloudError;
use crate::ipam::pool::Shortage;

mod batch;
mod round;

/// The most requests that one round serves.
const BATCH: usize = 64;

/// What a claim wants of its pod's node.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// The claim.
    pub claim: ClaimRef,
    /// The one address it wants.
    pub nominated_ip: Option<String>,
    /// Subnets that it wants; empty: any.
    pub nominated_subnets: Vec<String>,
    /// The address that it holds already.
    pub ip: Option<Arc<VpcIP>>,
}

/// An address that is on an ENI of the node.
#[derive(Debug)]
pub struct Placed {
    /// The address, as last written.
    pub ip: VpcIP,
    /// The ENI.
    pub eni_id: String,
}

/// Why an address could not be put on an ENI of the node.
#[derive(Debug)]
pub struct NotPlaced {
    /// One of [`reason`].
    pub reason: &'static str,
    /// For the operator.
    pub message: String,
    /// The address that the claim holds nevertheless.
    pub ip: Option<Arc<VpcIP>>,
    /// Somebody else wrote first: decide again at once.
    pub stale: bool,
}

impl NotPlaced {
    fn new(reason: &'static str, message: impl ToString) -> Self {
        Self { reason, message: message.to_string(), ip: None, stale: false }
    }

    fn holding(mut self, ip: Option<Arc<VpcIP>>) -> Self {
        self.ip = ip;
        self
    }
}

impl From<ReconcileError> for NotPlaced {
    fn from(error: ReconcileError) -> Self {
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self { reason: reason::CLOUD_ERROR, message, ip: None, stale: error.is_conflict() }
    }
}

impl From<CloudError> for NotPlaced {
    fn from(error: CloudError) -> Self {
        Self::new(round::reason_of(error.kind), error)
    }
}

impl From<Shortage> for NotPlaced {
    fn from(shortage: Shortage) -> Self {
        let reason = match shortage {
            Shortage::SubnetsExhausted(_) | Shortage::NodeFull { .. } => reason::POOL_EXHAUSTED,
            _ => reason::ADDRESS_CONFLICT,
        };
        Self::new(reason, shortage)
    }
}

type Answer = oneshot::Sender<Result<Placed, NotPlaced>>;

enum Job {
    Place(PlaceRequest, Answer),
    /// Only compare the status with the cloud.
    Refresh(oneshot::Sender<()>),
}

/// The tasks of all nodes.
pub struct Pools {
    context: Weak<Context>,
    nodes: Mutex<HashMap<String, mpsc::UnboundedSender<Job>>>,
}

impl Pools {
    pub fn new(context: Weak<Context>) -> Self {
        Self { context, nodes: Mutex::default() }
    }

    /// Puts an address on an ENI of a node, creating both as needed.
    pub async fn place(&self, node: &str, request: PlaceRequest) -> Result<Placed, NotPlaced> {
        let held = request.ip.clone();
        let (answer, answered) = oneshot::channel();
        self.send(node, Job::Place(request, answer));
        answered.await.unwrap_or_else(|_| {
            Err(NotPlaced::new(reason::CLOUD_ERROR, "the task of this node has ended; trying again")
                .holding(held))
        })
    }

    /// Compares a node's status with the cloud.
    pub async fn refresh(&self, node: &str) {
        let (answer, answered) = oneshot::channel();
        self.send(node, Job::Refresh(answer));
        let _ = answered.await;
    }

    /// Ends the task of a node that is gone.
    pub fn forget(&self, node: &str) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
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
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut jobs, BATCH).await > 0 {
        let Some(context) = context.upgrade() else { return };
        let (mut requests, mut refreshes) = (Vec::new(), Vec::new());
        for job in jobs.drain(..) {
            match job {
                Job::Place(request, answer) => requests.push((request, answer)),
                Job::Refresh(answer) => refreshes.push(answer),
            }
        }
        if let Err(error) = batch::run(&node, &context, requests).await {
            warn!(node, reason = error.reason, message = error.message, "ENIs of this node are not known");
        }
        for answer in refreshes {
            let _ = answer.send(());
        }
    }
}
