//! The situations in which an address that stays with its pod can go wrong, by their number in docs/situations.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod fencing;
mod owners;
mod pools;
mod reclaim;
mod sandboxes;
mod tools;
