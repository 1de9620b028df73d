//! Agents that are killed, restarted, upgraded and downgraded: under traffic, and at every step of an ADD and a DEL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod hooks;
mod steps;
mod traffic;
mod under_traffic;
