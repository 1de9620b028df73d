//! Packets that break other dataplanes: too big, in pieces, short-lived, for everybody, and not the sender's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod mtu;
mod pieces;
#[allow(dead_code, reason = "shared with the tests of services")]
#[path = "../services/rules.rs"]
mod rules;
#[allow(dead_code, reason = "shared with the tests of services")]
#[path = "../services/scene.rs"]
mod scene;
mod scopes;
mod spoofs;
mod wire;
