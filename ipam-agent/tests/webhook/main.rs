//! The webhook over real HTTPS, as kube-apiserver calls it: what it answers, and its certificates through the years.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod caller;
mod certificates;
mod reviews;
mod site;
