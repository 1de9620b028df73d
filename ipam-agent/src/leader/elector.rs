//! Reads and writes the lease.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use tracing::{info, warn};

use super::Election;
use super::decision::{Step, Timing, freed, held, step};
use super::term::{Term, now};
use crate::client::is_refusal;
use crate::health::Health;

/// Why a holder is none any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The API did not answer, or refused, for too long.
    #[error(
        "the lease could not be renewed within {0:?}; nothing is written any more, and this process ends"
    )]
    NotRenewed(Duration),
    /// The lease is not as it was left.
    #[error("the lease was taken by {0:?}; nothing is written any more, and this process ends")]
    Taken(String),
    /// The lease was deleted.
    #[error("the lease was deleted; nothing is written any more, and this process ends")]
    Deleted,
}

/// What a candidate is not ready without: one that stands by is ready to take over.
pub const LOOK: &str = "a look at the lease";

/// A candidate.
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    term: Term,
    health: Health,
    /// The lease as last seen (`None`: there was none), and since when it has been so.
    seen: Option<(Option<String>, Duration)>,
    /// It has been there.
    existed: bool,
    /// What was last said to the operator of somebody else's lease, or of a failure.
    told: String,
}

/// What came of a try.
enum Tried {
    /// We hold it.
    Holding,
    /// Somebody else does.
    Other(String),
    /// There is none.
    Absent,
}

impl Elector {
    pub fn new(client: Client, election: &Election) -> Self {
        // The host tells people where; the rest makes it this process and no earlier one.
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            leases: Api::namespaced(client, &election.namespace),
            name: election.name.clone(),
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            timing: election.timing,
            term: Term::default(),
            health: election.health.clone(),
            seen: None,
            existed: false,
            told: String::new(),
        }
    }

    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Waits until the lease is ours.
    pub async fn win(&mut self) {
        loop {
            match self.once(false).await {
                Ok(Tried::Holding) => return info!(identity = self.identity, "this controller leads"),
                Ok(Tried::Other(holder)) => self.tell(format!("standing by: {holder} leads")),
                Ok(Tried::Absent) => self.tell("standing by: the lease was deleted".into()),
                Err(error) if is_refusal(&error) => {}
                Err(error) => self.tell(format!("cannot take the lease; trying on: {error}")),
            }
            tokio::time::sleep(self.timing.retry_period).await;
        }
    }

    /// Renews until that fails for too long.
    pub async fn keep(&mut self) -> Lost {
        loop {
            let term = self.term.clone();
            let tried = tokio::select! {
                biased;
                () = term.over() => return Lost::NotRenewed(self.timing.renew_deadline),
                tried = async {
                    tokio::time::sleep(self.timing.retry_period).await;
                    self.once(true).await
                } => tried,
            };
            match tried {
                Ok(Tried::Holding) => self.told.clear(),
                Ok(Tried::Other(holder)) => return Lost::Taken(holder),
                // Another may have made a new one in the meantime, so this is no moment to make one.
                Ok(Tried::Absent) => return Lost::Deleted,
                Err(error) if is_refusal(&error) => {}
                Err(error) => self.tell(format!("cannot renew the lease; trying on: {error}")),
            }
        }
    }

    /// Lets the lease go, if it is still ours.
    pub async fn release(self) -> kube::Result<()> {
        let released = async {
            let Some(lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_deref() != Some(&*self.identity) {
                return Ok(());
            }
            self.write(lease, freed(&spec, Timestamp::now())).await.map(drop)
        };
        // Others do not wait longer than this for the lease to be over.
        tokio::time::timeout(self.timing.lease_duration, released).await.unwrap_or(Ok(()))
    }

    /// One look, and a write where the lease is ours or can be.
    async fn once(&mut self, holding: bool) -> kube::Result<Tried> {
        self.health.beat("the election");
        // A connection that leads nowhere leaves time for another try.
        let patience = self.timing.renew_deadline / 2;
        match tokio::time::timeout(patience, self.look(holding)).await {
            Ok(tried) => tried,
            Err(_) => Err(kube::Error::Service(format!("no answer within {patience:?}").into())),
        }
    }

    async fn look(&mut self, holding: bool) -> kube::Result<Tried> {
        loop {
            let lease = self.leases.get_opt(&self.name).await?;
            self.health.came(LOOK);
            let unchanged_for = self.saw(lease.as_ref().and_then(ResourceExt::resource_version));
            let Some(lease) = lease else {
                // One that was there and is gone was deleted by hand: its holder does not know yet.
                if holding || (self.existed && unchanged_for < self.timing.lease_duration) {
                    return Ok(Tried::Absent);
                }
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                match self.hold(Lease { metadata, spec: None }).await? {
                    Some(held) => return Ok(held),
                    None => continue,
                }
            };
            let spec = lease.spec.clone().unwrap_or_default();
            let step = step(&spec, &self.identity, unchanged_for, &self.timing);
            if step == Step::Wait || (step == Step::Take && holding) {
                return Ok(Tried::Other(spec.holder_identity.unwrap_or_default()));
            }
            if let Some(held) = self.hold(lease).await? {
                return Ok(held);
            }
        }
    }

    /// The lease has this version (`None`: there is none). For how long it has had it, as far as we have seen.
    fn saw(&mut self, version: Option<String>) -> Duration {
        self.existed |= version.is_some();
        // After the answer: the holder's last renewal was before it.
        let at = now();
        match &self.seen {
            Some((seen, since)) if *seen == version => at.saturating_sub(*since),
            _ => {
                self.seen = Some((version, at));
                Duration::ZERO
            }
        }
    }

    /// Writes the lease in our name; `None` when somebody has written it since.
    async fn hold(&mut self, lease: Lease) -> kube::Result<Option<Tried>> {
        let before = lease.spec.clone().unwrap_or_default();
        let spec = held(&before, &self.identity, Timestamp::now(), &self.timing);
        // Before the request: the others count from when they see what it wrote.
        let begun = now();
        match self.write(lease, spec).await {
            Ok(_) => {
                self.term.extend(begun + self.timing.renew_deadline);
                Ok(Some(Tried::Holding))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates the lease, or replaces the version of it that this is.
    async fn write(&self, lease: Lease, spec: LeaseSpec) -> kube::Result<Lease> {
        let lease = Lease { spec: Some(spec), ..lease };
        match lease.resource_version() {
            None => self.leases.create(&PostParams::default(), &lease).await,
            Some(_) => self.leases.replace(&self.name, &PostParams::default(), &lease).await,
        }
    }

    /// Says a thing once.
    fn tell(&mut self, what: String) {
        if what != self.told {
            if what.starts_with("standing by") {
                info!("{what}")
            } else {
                warn!("{what}")
            }
            self.told = what;
        }
    }
}
