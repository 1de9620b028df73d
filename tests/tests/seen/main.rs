//! What an operator sees of a node that runs: metrics, drops as they happen, and why a pod has no network.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod broken;
mod broken_node;
mod drops;
mod metrics;
mod site;
