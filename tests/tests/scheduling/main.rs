//! What the scheduler is told of the nodes, by a controller in this process; the scheduler itself is played.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod nodes;
mod pending;
mod scheduler;
mod site;
