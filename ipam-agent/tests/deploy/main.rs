//! What `deploy/` says, compared with what the binaries do. Each overlay is rendered by kubectl, as an operator does it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aws;
mod consistency;
mod flags;
mod manifests;
mod node_policy;
mod permissions;
mod privileges;
mod webhook;
