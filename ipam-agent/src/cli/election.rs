//! Whether this controller is one of several, and how they agree on who acts.

use std::time::Duration;

use clap::Args;

use crate::health::Health;
use crate::leader::{Election, Timing};
use crate::metrics::Metrics;

/// An election of the controller that acts. The names are those of Kubernetes' own controllers.
#[derive(Debug, Args)]
pub struct LeaderArgs {
    /// Act only while holding a lease, so that several controllers can run; without it this must be the only one.
    #[arg(long)]
    leader_elect: bool,
    /// Namespace of the lease.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_elect_resource_namespace: String,
    /// Name of the lease.
    #[arg(long, value_name = "NAME", default_value = "eni-ipam-controller")]
    leader_elect_resource_name: String,
    /// A lease that was not renewed for so long can be taken by another: whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    leader_elect_lease_duration: Duration,
    /// A controller that could not renew its lease for so long ends.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    leader_elect_renew_deadline: Duration,
    /// Pause between two renewals, and between two looks of those that stand by.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    leader_elect_retry_period: Duration,
}

impl LeaderArgs {
    fn timing(&self) -> Timing {
        Timing {
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        }
    }

    /// Whether the times fit each other.
    ///
    /// # Errors
    /// The flag that is wrong, and what to write.
    pub fn check(&self) -> Result<(), String> {
        self.timing().check()
    }

    /// Whether there is to be an election.
    pub fn is_on(&self) -> bool {
        self.leader_elect
    }

    /// The election, if there is to be one.
    pub fn election(&self, metrics: &Metrics, health: &Health) -> Option<Election> {
        self.leader_elect.then(|| Election {
            namespace: self.leader_elect_resource_namespace.clone(),
            name: self.leader_elect_resource_name.clone(),
            timing: self.timing(),
            metrics: metrics.clone(),
            health: health.clone(),
        })
    }
}
