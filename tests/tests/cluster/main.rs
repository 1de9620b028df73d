//! The product as `deploy/` puts it on a cluster, on a real kube-apiserver: see [`ipam_lab::real_api`] for how one is named.
//! One test at a time (`cargo xtask test cluster` sees to it), since the server's objects are shared.

mod overlays;
mod page;
mod permissions;
mod seed;
mod site;
mod tokens;
mod webhook;
