//! Pools of ENIs and addresses: the controller against a cloud of quotas, limits and subnets, with no nodes behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod bursts;
mod collecting;
mod lagging;
mod machines;
mod quotas;
mod subnets;
mod tools;
mod warm;
