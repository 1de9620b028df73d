//! Nothing drifts: what the agent has made on a node is vandalised with the stock tools while pods talk, and must be
//! as it was within [`site::LIMIT`], counted once, with nothing foreign touched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod dataplane;
mod enis;
mod pods;
mod settings;
mod site;
