//! Which of several controllers acts: the one that holds a `Lease` of `coordination.k8s.io`.
//!
//! The others stand by and look at the lease from time to time. No clock is compared with another machine's: a candidate
//! takes a lease that it has seen unchanged for as long as the lease says, by its own clock, and the holder stops by its own
//! clock earlier than that ([`Timing`]). What was decided while holding it is fenced by the [`Term`]: once that is over,
//! be it that the process was frozen meanwhile, no write leaves it any more, and the process ends.

use std::time::Duration;

use kube::Client;
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Health;
use crate::metrics::Metrics;

mod decision;
mod elector;
mod fence;
mod term;

pub use decision::Timing;
pub use elector::{LOOK, Lost};
pub use fence::{fenced_client, fenced_provider};
pub use term::{Over, Term};

use elector::Elector;

/// How long the work may take to end when it is asked to. kubelet waits 30 s for a pod.
const GRACE: Duration = Duration::from_secs(20);

/// An election.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// How long things take.
    pub timing: Timing,
    /// Shows who leads.
    pub metrics: Metrics,
    /// Is told that the candidate is there.
    pub health: Health,
}

impl Election {
    /// Waits for the lease and then works until `stop`, holding it. The lease is let go when the work has ended, so that
    /// another goes on at once.
    ///
    /// # Errors
    /// As the work; and [`Lost`], the work being dropped then, when the lease could not be kept.
    pub async fn lead<Work>(
        self,
        client: Client,
        stop: CancellationToken,
        work: impl FnOnce(Term) -> Work,
    ) -> anyhow::Result<()>
    where
        Work: Future<Output = anyhow::Result<()>>,
    {
        let leading = Gauge::<i64>::default();
        let help = "Whether this process holds the lease and acts (1), or stands by (0)";
        self.metrics.register(|registry| registry.register("leading", help, leading.clone()));
        let mut elector = Elector::new(client, &self);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = elector.win() => {}
        }
        leading.set(1);
        let term = elector.term();
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let ended = tokio::select! {
            // First: a process that was frozen learns that it has lost the lease before it does anything else.
            biased;
            lost = elector.keep() => Err(lost),
            done = work(term.clone()) => Ok(done),
            () = late => {
                warn!("not everything that was being done has ended within {GRACE:?}");
                Ok(Ok(()))
            }
        };
        leading.set(0);
        // Nothing is written from here on, whatever still runs; so the next may begin.
        term.end();
        match ended {
            Err(lost) => Err(lost.into()),
            Ok(done) => {
                match elector.release().await {
                    Ok(()) => info!("the lease is free"),
                    Err(error) => warn!(%error, "the lease was not let go; others wait until it is over"),
                }
                done
            }
        }
    }
}
