//! How the nodes' pools of ENIs and addresses behave.

use clap::Args;

use crate::ipam::pool::warm::WarmTarget;

/// Flags of the pools.
#[derive(Debug, Args)]
pub struct PoolArgs {
    /// ENIs that a node is given when it joins; the others come when pods need them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=64))]
    pub min_enis: u32,
    /// Make an ENI only where its subnet can hold it with all the addresses it may ever have, those of the other ENIs
    /// counted in full: a node that has an ENI never runs out of its subnet.
    #[arg(long)]
    pub reserve_eni_quota: bool,
    /// Subnets that only pods get which nominate them or an address of theirs, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "SUBNETS")]
    pub only_nominated_eni_subnets: Vec<String>,
    /// Addresses that wait on each node's ENIs for pods to come, at least; a NodeENIConfig can say otherwise.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=4096))]
    pub ip_min_warm_target: u32,
    /// And at most: what is above is taken back after two minutes. Not below the least.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=4096))]
    pub ip_max_warm_target: u32,
}

impl PoolArgs {
    /// Addresses that wait on each node.
    pub fn warm(&self) -> WarmTarget {
        let min = self.ip_min_warm_target;
        WarmTarget { min: min as usize, max: self.ip_max_warm_target.max(min) as usize }
    }
}
