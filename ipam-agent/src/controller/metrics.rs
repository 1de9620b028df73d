//! The controller's metrics.

mod census;
mod cloud_calls;

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::context::Stores;
use crate::cloud::{EniProvider, Surrounded};
use crate::metrics::Metrics;
use cloud_calls::Counts;

/// The reconcilers, as they are named where they are started.
const RECONCILERS: [&str; 5] = ["pods", "claims", "addresses", "nodes", "configs"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReconcilerLabel {
    reconciler: &'static str,
}

/// What the controller counts.
#[derive(Clone)]
pub struct ControllerMetrics {
    shown: Metrics,
    errors: Family<ReconcilerLabel, Counter>,
    conflicts: Family<ReconcilerLabel, Counter>,
}

impl ControllerMetrics {
    /// Counters at zero, shown by `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self { shown: metrics.clone(), errors: Family::default(), conflicts: Family::default() };
        // Zeros from the start: a rate needs a value before the first error.
        for reconciler in RECONCILERS {
            drop(new.errors.get_or_create(&ReconcilerLabel { reconciler }));
            drop(new.conflicts.get_or_create(&ReconcilerLabel { reconciler }));
        }
        metrics.register(|registry| {
            registry.register(
                "reconcile_errors",
                "Steps that a reconciler could not take and will try again, conflicts not counted",
                new.errors.clone(),
            );
            registry.register(
                "reconcile_conflicts",
                "Steps that were decided again because somebody else had written the object first",
                new.conflicts.clone(),
            );
        });
        new
    }

    /// A step failed.
    pub fn step_failed(&self, reconciler: &'static str, conflict: bool) {
        let family = if conflict { &self.conflicts } else { &self.errors };
        family.get_or_create(&ReconcilerLabel { reconciler }).inc();
    }

    /// A provider whose calls are counted and timed.
    pub fn count_calls(&self, provider: Arc<dyn EniProvider>) -> Arc<Surrounded<Counts>> {
        Arc::new(Surrounded::new(provider, Counts::new(&self.shown)))
    }

    /// Has scrapes count the objects in the caches and the addresses that the subnets have left.
    pub fn count_objects(&self, stores: &Stores, provider: &Surrounded<Counts>) {
        let census = census::Census::new(stores, provider.layer().subnets_seen());
        self.shown.register(|registry| registry.register_collector(Box::new(census)));
    }
}
