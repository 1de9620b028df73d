//! What the cloud server moves in the world when its records change. The lab's fabric is one world; a cloud
//! server without one (controller tests) keeps records only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An ENI as the world must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldEni {
    /// The cloud's name of the ENI.
    pub id: String,
    /// Its MAC, lower case with colons.
    pub mac: String,
    /// Next hop of its subnet, which the fabric answers ARP for.
    pub gateway: Ipv4Addr,
    /// Next hop for IPv6 where its subnet has it, which the fabric answers neighbour solicitations for.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Primary address first, then the secondary ones of both families.
    pub ips: Vec<IpAddr>,
}

/// The world. Calls come one at a time, from a blocking thread.
pub trait World: Send + Sync + 'static {
    /// Puts an ENI with its addresses on a machine: an interface with the ENI's MAC appears there.
    ///
    /// # Errors
    /// There is no such machine, or the kernel refused.
    fn attach(&self, instance_id: &str, eni: &WorldEni) -> anyhow::Result<()>;
    /// Takes an ENI off its machine: the interface disappears.
    ///
    /// # Errors
    /// The kernel refused.
    fn detach(&self, eni_id: &str) -> anyhow::Result<()>;
    /// Makes an address belong to an attached ENI: traffic to it goes there, traffic from it may come from there.
    ///
    /// # Errors
    /// The kernel refused.
    fn assign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()>;
    /// Makes an address belong to no ENI.
    ///
    /// # Errors
    /// The kernel refused.
    fn unassign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()>;
}

/// No world: records only.
pub struct NoWorld;

impl World for NoWorld {
    fn attach(&self, _: &str, _: &WorldEni) -> anyhow::Result<()> {
        Ok(())
    }
    fn detach(&self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
    fn assign(&self, _: &str, _: IpAddr) -> anyhow::Result<()> {
        Ok(())
    }
    fn unassign(&self, _: &str, _: IpAddr) -> anyhow::Result<()> {
        Ok(())
    }
}
