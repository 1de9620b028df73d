//! A VPC on one machine, out of network namespaces: the fabric, machines on it, pods on those, and traffic.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use ipam_lab::lab::{Lab, traffic::ping};
//!
//! let lab = Lab::builder("my_test").subnet("subnet-a", "zone-1", "10.0.1.0/24").build()?;
//! let node = lab.node("node-a", "zone-1")?;
//! ping(node.ns(), lab.ctl().ip(), Duration::from_secs(1))?;
//! # Ok(())
//! # }
//! ```
//!
//! A lab and everything in it is gone when the [`Lab`] is dropped, also by a panic; what a killed process
//! leaves, the next lab removes. `LAB_KEEP=1` leaves labs standing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, ensure};
use ipnet::{Ipv4Net, Ipv6Net};

pub use crate::cloud_server::GATEWAY_V6;

use self::{fabric::Fabric, host::VpcHost, node::LabNode, scope::Scope};

pub mod fabric;
pub mod host;
pub mod netns;
pub mod node;
pub mod patience;
pub mod permissions;
pub mod pod;
pub mod process;
pub mod rtnl;
pub mod scope;
pub mod traffic;

/// A subnet of the VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The cloud's name of it.
    pub id: String,
    /// Availability zone.
    pub zone: String,
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The first address, which the fabric has.
    pub gateway: Ipv4Addr,
    /// Its IPv6 addresses, if it has any; the next hop is then [`GATEWAY_V6`].
    pub cidr_v6: Option<Ipv6Net>,
}

impl Subnet {
    /// The IPv6 address of the machine with this IPv4 address: as far from the end.
    #[must_use]
    pub fn host_v6(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let from_end = u32::from(self.cidr.broadcast()) - u32::from(ip);
        self.cidr_v6.map(|net| Ipv6Addr::from(u128::from(net.broadcast()) - u128::from(from_end)))
    }
}

/// What a lab is to be.
#[derive(Debug)]
pub struct LabBuilder {
    test: String,
    subnets: Vec<(String, String, String)>,
    mtu: u32,
    accounting: bool,
}

impl LabBuilder {
    /// Adds a subnet: an IPv4 prefix, or that and an IPv6 prefix with a comma between. There must be one; the first
    /// has the controller's machine.
    #[must_use]
    pub fn subnet(mut self, id: &str, zone: &str, cidr: &str) -> Self {
        self.subnets.push((id.to_owned(), zone.to_owned(), cidr.to_owned()));
        self
    }

    /// MTU of every ENI, in bytes; 1500 unless told otherwise.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Leaves out the fabric's counters per address, for benchmarks. The source check is then the kernel's alone.
    #[must_use]
    pub fn without_accounting(mut self) -> Self {
        self.accounting = false;
        self
    }

    /// Builds the fabric and the controller's machine.
    ///
    /// # Errors
    /// No root, no subnet or one that is no IPv4 prefix of at most 29 bits and an IPv6 one, or the kernel refuses.
    pub fn build(self) -> anyhow::Result<Lab> {
        let subnets = self.subnets.into_iter().map(|(id, zone, cidr)| {
            let what = || {
                format!(
                    "subnet {id}: {cidr:?} is no IPv4 prefix of at most 29 bits, alone or with an IPv6 one"
                )
            };
            let (v4, v6) = cidr.split_once(',').map_or((cidr.as_str(), None), |(v4, v6)| (v4, Some(v6)));
            let cidr_v6 = v6.map(str::parse).transpose().with_context(what)?;
            let v4: Ipv4Net = v4.parse().with_context(what)?;
            ensure!(v4.prefix_len() <= 29, what());
            let gateway = v4.hosts().next().with_context(what)?;
            Ok(Subnet { id, zone, cidr: v4, gateway, cidr_v6 })
        });
        let subnets: Vec<Subnet> = subnets.collect::<anyhow::Result<_>>()?;
        let first = subnets.first().context("a lab needs a subnet")?.clone();
        let scope = Scope::new(&self.test)?;
        let fabric = Arc::new(Fabric::new(
            &scope,
            self.mtu,
            self.accounting,
            subnets.iter().any(|subnet| subnet.cidr_v6.is_some()),
        )?);
        for subnet in &subnets {
            fabric.add_gateway(subnet.gateway)?;
        }
        let taken = Mutex::default();
        let ip = highest_free(&first, &taken)?;
        let ctl = VpcHost::new(&scope, &fabric, first, "ctl", ip)?;
        Ok(Lab { ctl, subnets, taken, fabric, scope })
    }
}

/// A VPC with a fabric and the machine of the controller, the API and the cloud.
#[derive(Debug)]
pub struct Lab {
    ctl: VpcHost,
    subnets: Vec<Subnet>,
    /// Addresses that machines got, so far.
    taken: Mutex<Vec<Ipv4Addr>>,
    fabric: Arc<Fabric>,
    scope: Arc<Scope>,
}

impl Lab {
    /// Describes a lab for a test.
    pub fn builder(test: &str) -> LabBuilder {
        LabBuilder { test: test.to_owned(), subnets: Vec::new(), mtu: 1500, accounting: true }
    }

    /// Adds a node, with its primary ENI in the zone's first subnet.
    ///
    /// # Errors
    /// There is no such zone, the name is taken, or the subnet is full.
    pub fn node(&self, name: &str, zone: &str) -> anyhow::Result<LabNode> {
        LabNode::new(self.host(name, zone)?)
    }

    /// Adds a plain machine, as [`Self::node`] does.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub fn host(&self, name: &str, zone: &str) -> anyhow::Result<VpcHost> {
        let subnet = self.subnets.iter().find(|subnet| subnet.zone == zone);
        let subnet = subnet.with_context(|| format!("machine {name}: no subnet in zone {zone}"))?;
        let ip = highest_free(subnet, &self.taken)?;
        VpcHost::new(&self.scope, &self.fabric, subnet.clone(), name, ip)
    }

    /// The machine of the controller, the API and the cloud.
    pub fn ctl(&self) -> &VpcHost {
        &self.ctl
    }

    /// The fabric; it is the cloud server's world.
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// The subnets.
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// Addresses for machines to come: the highest of each subnet that has plenty. A cloud that gave one away would have
    /// two machines with it.
    pub fn kept_for_machines(&self) -> impl Iterator<Item = Ipv4Addr> {
        const KEPT: u32 = 8;
        self.subnets.iter().filter(|subnet| subnet.cidr.prefix_len() <= 26).flat_map(|subnet| {
            let end = u32::from(subnet.cidr.broadcast());
            (end - KEPT..end).map(Ipv4Addr::from)
        })
    }

    /// Primary addresses of machines so far. They come from a subnet's end; a cloud must not give them away.
    pub fn taken(&self) -> Vec<IpAddr> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let v6 = |ip: &Ipv4Addr| {
            let subnet = self.subnets.iter().find(|subnet| subnet.cidr.contains(ip))?;
            subnet.host_v6(*ip).map(IpAddr::from)
        };
        taken.iter().flat_map(|ip| [Some(IpAddr::from(*ip)), v6(ip)]).flatten().collect()
    }

    /// The lab's directory: one directory for each machine's state and logs.
    pub fn dir(&self) -> PathBuf {
        self.scope.dir()
    }

    /// The life of the lab, for namespaces of a test's own.
    pub fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// Leaves the lab standing after its end, processes included.
    pub fn keep(&self) {
        self.scope.keep();
    }
}

/// Ends the lab at once, even when something still refers to a part of it.
impl Drop for Lab {
    fn drop(&mut self) {
        self.scope.end();
    }
}

/// Takes a subnet's highest free address, far from those that a cloud gives first.
fn highest_free(subnet: &Subnet, taken: &Mutex<Vec<Ipv4Addr>>) -> anyhow::Result<Ipv4Addr> {
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    let (first, last) = (u32::from(subnet.gateway) + 1, u32::from(subnet.cidr.broadcast()) - 1);
    let free = (first..=last).rev().map(Ipv4Addr::from).find(|ip| !taken.contains(ip));
    let ip = free.with_context(|| format!("subnet {} ({}) is full", subnet.id, subnet.cidr))?;
    taken.push(ip);
    Ok(ip)
}
