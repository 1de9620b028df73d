//! Prometheus metrics of this process: one registry, one `/metrics` (OpenMetrics 1.0 text).
//!
//! Names and units follow <https://prometheus.io/docs/practices/naming/>. Whatever a label can be is bounded: by an
//! enumeration, by the pods of one node, or by the configured subnets.

mod api_writes;
mod family;
mod serve;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};

pub use self::{
    api_writes::counted as count_api_writes,
    family::{Kind, Sample, encode},
    serve::{CONTENT_TYPE, ListenAddress},
};

/// What every name begins with.
pub const PREFIX: &str = "eni_ipam";

/// Bounds of histograms of durations, in seconds: from what a map write takes to what a runtime waits for.
pub const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30.];

/// The metrics of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("map_abi", ipam_common::ABI_VERSION.to_string()),
        ];
        let help = "Version of this program, and of the layout of the eBPF maps that it writes";
        registry.register("build", help, Info::new(build));
        Self(Arc::new(Mutex::new(registry)))
    }
}

impl Metrics {
    /// Adds metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry());
    }

    /// Everything, as a scrape gets it. Collectors read the kernel, so it blocks for some milliseconds.
    ///
    /// # Errors
    /// A collector cannot write its text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.registry())?;
        Ok(body)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_says_what_is_running() {
        let text = Metrics::default().render().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.contains(&format!("eni_ipam_build_info{{version=\"{version}\",")), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
