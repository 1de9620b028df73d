//! The node's metrics: what this process counts itself, and what is read from maps and journal when a scrape comes.

mod collector;
mod dataplane;

use std::{sync::Arc, time::Instant};

use ipam_cni::{error::CniError, protocol::Request};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::{
    metrics::{Metrics, SECONDS},
    node::context::Node,
};

/// Result code of a call that succeeded.
const SUCCESS: &str = "0";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    command: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CommandLabel {
    command: &'static str,
}

/// What the node agent counts.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    calls: Family<CallLabels, Counter>,
    durations: Family<CommandLabel, Histogram>,
}

impl NodeMetrics {
    /// Counters at zero, shown by `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let durations = Family::new_with_constructor(
            // Named, since only a function pointer has a type that can be written.
            (|| Histogram::new(SECONDS)) as fn() -> Histogram,
        );
        let new = Self { calls: Family::default(), durations };
        // Zeros from the start: a rate needs a value before the first call.
        for command in ["ADD", "DEL"] {
            drop(new.calls.get_or_create(&CallLabels { command, code: SUCCESS.to_owned() }));
            drop(new.durations.get_or_create(&CommandLabel { command }));
        }
        metrics.register(|registry| {
            registry.register(
                "cni_calls",
                "Calls of the CNI plugin that were answered, by command and result code (0: success; others as the CNI \
                 specification and this plugin number them)",
                new.calls.clone(),
            );
            registry.register(
                "cni_call_duration_seconds",
                "Time from the plugin's request to the agent's last answer; an ADD includes waiting for the address",
                new.durations.clone(),
            );
        });
        new
    }

    /// Starts the clock of a call.
    #[must_use]
    pub fn cni_call(&self, request: &Request) -> CniCall<'_> {
        let command = match request {
            Request::Add { .. } => "ADD",
            Request::Del { .. } => "DEL",
            Request::Check { .. } => "CHECK",
            Request::Status { .. } => "STATUS",
            Request::Gc { .. } => "GC",
            Request::Wired => "none",
        };
        CniCall { metrics: self, command, begin: Instant::now() }
    }
}

/// A call that is being served.
#[derive(Debug)]
pub struct CniCall<'a> {
    metrics: &'a NodeMetrics,
    command: &'static str,
    begin: Instant,
}

impl CniCall<'_> {
    /// Counts the call.
    pub fn ended(self, error: Option<&CniError>) {
        let Self { metrics, command, begin } = self;
        metrics.durations.get_or_create(&CommandLabel { command }).observe(begin.elapsed().as_secs_f64());
        let code = error.map_or(SUCCESS.to_owned(), |error| error.code.to_string());
        metrics.calls.get_or_create(&CallLabels { command, code }).inc();
    }
}

/// Has scrapes read the node's maps and journal.
pub fn collect(node: &Arc<Node>) {
    let collector = collector::NodeCollector::new(node);
    node.config.metrics.register(|registry| registry.register_collector(Box::new(collector)));
}

#[cfg(test)]
mod tests {
    use ipam_cni::error::code;

    use super::*;

    #[test]
    fn calls_are_counted_by_command_and_code() {
        let shown = Metrics::default();
        let metrics = NodeMetrics::new(&shown);
        metrics.cni_call(&Request::Wired).ended(None);
        metrics.cni_call(&Request::Wired).ended(Some(&CniError::new(code::DECODE, "nonsense")));
        let text = shown.render().unwrap();
        let decode = code::DECODE;
        for line in [
            "eni_ipam_cni_calls_total{command=\"none\",code=\"0\"} 1".to_owned(),
            format!("eni_ipam_cni_calls_total{{command=\"none\",code=\"{decode}\"}} 1"),
            "eni_ipam_cni_call_duration_seconds_count{command=\"none\"} 2".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
    }
}
