//! The cloud, with every call counted and timed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::cloud::{Around, CloudError, Subnet};
use crate::metrics::{Metrics, SECONDS};

/// Free addresses of each subnet by its ID, as the cloud last said.
pub type SubnetsSeen = Arc<Mutex<BTreeMap<String, u64>>>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    action: &'static str,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

/// Counts and times calls.
pub struct Counts {
    calls: Family<CallLabels, Counter>,
    durations: Family<ActionLabel, Histogram>,
    subnets: SubnetsSeen,
}

impl Counts {
    /// Counts in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let new = Self { calls: Family::default(), durations, subnets: SubnetsSeen::default() };
        metrics.register(|registry| {
            registry.register(
                "cloud_calls",
                "Calls of the cloud provider by action and result (success, or the kind of the error)",
                new.calls.clone(),
            );
            registry.register(
                "cloud_call_duration_seconds",
                "Time of a call of the cloud provider, its own retries and the waits for asynchronous tasks included",
                new.durations.clone(),
            );
        });
        new
    }

    /// What the cloud says of its subnets, each time it is asked.
    pub fn subnets_seen(&self) -> SubnetsSeen {
        self.subnets.clone()
    }
}

impl Around for Counts {
    fn around<'a, T: Send + 'a>(
        &'a self,
        action: &'static str,
        call: BoxFuture<'a, Result<T, CloudError>>,
    ) -> BoxFuture<'a, Result<T, CloudError>> {
        async move {
            let begin = Instant::now();
            let answer = call.await;
            self.durations.get_or_create(&ActionLabel { action }).observe(begin.elapsed().as_secs_f64());
            let result = match &answer {
                Ok(_) => "success".to_owned(),
                Err(error) => format!("{:?}", error.kind),
            };
            self.calls.get_or_create(&CallLabels { action, result }).inc();
            answer
        }
        .boxed()
    }

    fn saw_subnets(&self, subnets: &[Subnet]) {
        let seen = subnets.iter().map(|subnet| (subnet.id.clone(), subnet.available)).collect();
        *self.subnets.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}
