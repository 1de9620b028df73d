//! A VPC on one machine, out of network namespaces.

pub mod fabric;
pub mod netns;
pub mod rtnl;
pub mod scope;
