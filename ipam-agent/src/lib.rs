//! Static pod IPs from ENI pools: everything in user space.
//!
//! Dependencies point one way: [`api`] ← [`ipam`] ← [`controller`], [`node`]; [`dataplane`], [`netlink`] and
//! [`cloud`] know nothing of Kubernetes; [`embedded`] is a Kubernetes API in this process and knows nothing
//! of what it stores.

pub mod api;
pub mod cli;
pub mod client;
pub mod cloud;
pub mod controller;
pub mod crds;
pub mod dataplane;
pub mod embedded;
pub mod explain;
pub mod health;
pub mod https;
pub mod inspect;
pub mod install;
pub mod ipam;
pub mod ipamctl;
pub mod leader;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod webhook;
