//! Services beside the fast path, with the rules that kube-proxy, portmap, node-local DNS and operators write, and that
//! the tests can tell: without the egress programs they fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod balancer;
mod egress;
mod host_port;
mod ipv6;
mod local_dns;
mod metadata;
mod rules;
mod scene;
mod sctp;
mod ways;
