//! The situations in which an address that stays with its pod can go wrong, by their number in docs/situations.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod budget;
mod fencing;
mod offline;
mod owners;
mod partition;
mod pools;
mod reclaim;
mod records;
mod runtime;
mod sandboxes;
mod scale;
mod tools;
mod workloads;
