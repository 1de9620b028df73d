//! A pod as its runtime has it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::Value;

use crate::lab::pod::{CniOutcome, LabPod};

/// A pod with its sandbox.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// The sandbox.
    pub sandbox: Arc<LabPod>,
    /// The network configuration that its runtime has.
    pub conf: Value,
}

impl RunningPod {
    /// The pod's address.
    ///
    /// # Panics
    /// ADD has not succeeded.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.sandbox.ip().expect("ADD gave an address")
    }

    /// The pod's IPv6 address.
    ///
    /// # Panics
    /// ADD has not succeeded, or the pod has none.
    #[must_use]
    pub fn ip_v6(&self) -> Ipv6Addr {
        self.sandbox.ip_v6().expect("ADD gave an IPv6 address")
    }

    /// ADD, off the async threads.
    ///
    /// # Errors
    /// The plugin's error.
    pub async fn add(&self) -> anyhow::Result<Value> {
        self.call(LabPod::add).await
    }

    /// DEL, off the async threads.
    ///
    /// # Errors
    /// The plugin's error.
    pub async fn del(&self) -> anyhow::Result<Value> {
        self.call(LabPod::del).await
    }

    /// CHECK, off the async threads.
    ///
    /// # Errors
    /// The plugin's error.
    pub async fn check(&self) -> anyhow::Result<Value> {
        self.call(LabPod::check).await
    }

    async fn call(&self, call: fn(&LabPod, &Value) -> anyhow::Result<CniOutcome>) -> anyhow::Result<Value> {
        Ok(self.outcome(call).await?.ok()?.clone())
    }

    /// A call of the plugin, off the async threads.
    ///
    /// # Errors
    /// The plugin could not be started.
    pub async fn outcome(
        &self,
        call: fn(&LabPod, &Value) -> anyhow::Result<CniOutcome>,
    ) -> anyhow::Result<CniOutcome> {
        let pod = self.clone();
        tokio::task::spawn_blocking(move || call(&pod.sandbox, &pod.conf)).await?
    }
}
