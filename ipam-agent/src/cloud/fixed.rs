//! Bare metal: a file lists the ENIs of every node and the addresses each may carry.
//!
//! Nothing is created or moved anywhere: the network delivers a listed address to whichever of its ENIs
//! answers for it. Which ENI holds an address is what the VpcIP objects say; the provider only remembers
//! what it was told since it started.
//!
//! ```toml
//! [[subnet]]
//! id = "lan"
//! cidr = "10.0.1.0/24"
//! gateway = "10.0.1.1"
//! zone = "rack-1"                  # optional
//! cidr_v6 = "fd00:0:0:1::/64"      # optional, with
//! gateway_v6 = "fe80::1"           # its next hop
//!
//! [[eni]]
//! node = "node-a"
//! mac = "52:54:00:00:00:01"        # finds the interface on the node
//! subnet = "lan"
//! primary_ip = "10.0.1.5"          # the interface's own address, never a pod's
//! addresses = ["10.0.1.10-10.0.1.50", "10.0.1.60", "10.0.1.128/26", "fd00:0:0:1::10-fd00:0:0:1::50"]
//! ```
//!
//! An address listed on several ENIs of a subnet is a shared one: it can move between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Mutex, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    CloudError, CloudErrorKind, ConfigError, EniCloudState, EniInfo, EniProvider, MachineLimits, NewEni,
    Subnet, SubnetV6,
};

mod file;

/// The provider.
#[derive(Debug)]
pub struct Fixed {
    /// The file's name, for messages.
    origin: String,
    subnets: Vec<Subnet>,
    enis: Vec<FixedEni>,
    /// Address → index of the ENI that was last told to hold it.
    held: Mutex<BTreeMap<IpAddr, usize>>,
}

/// An ENI of the file.
#[derive(Debug)]
struct FixedEni {
    id: String,
    node: String,
    mac: String,
    subnet: String,
    primary_ip: Ipv4Addr,
    addresses: BTreeSet<IpAddr>,
}

impl Fixed {
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read, or says something that cannot be: which field, which value, what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            origin: origin.clone(),
            field: "file".into(),
            value: origin.clone(),
            problem: format!("cannot read it: {error}; name a readable TOML file"),
        })?;
        Self::parse(&origin, &text)
    }

    /// Reads the text of a file named `origin`.
    ///
    /// # Errors
    /// As [`Fixed::load`].
    pub fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let (subnets, enis) = file::parse(origin, text)?;
        Ok(Self { origin: origin.into(), subnets, enis, held: Mutex::default() })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        // No writer panics half-way: each write is one map operation.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self, index: usize) -> EniInfo {
        let eni = &self.enis[index];
        EniInfo {
            id: eni.id.clone(),
            mac: eni.mac.clone(),
            subnet_id: eni.subnet.clone(),
            primary_ip: eni.primary_ip,
            secondary_ips: self.held().iter().filter(|(_, at)| **at == index).map(|(ip, _)| *ip).collect(),
            unsettled: Vec::new(),
            primary: false,
            instance_id: Some(eni.node.clone()),
            state: EniCloudState::Attached,
            cluster: None,
            node: Some(eni.node.clone()),
            assignable: Some(eni.addresses.iter().copied().collect()),
        }
    }

    fn infos(&self, wanted: impl Fn(&FixedEni) -> bool) -> Vec<EniInfo> {
        (0..self.enis.len())
            .filter(|index| wanted(&self.enis[*index]))
            .map(|index| self.info(index))
            .collect()
    }

    fn error(
        &self,
        kind: CloudErrorKind,
        action: &'static str,
        code: &str,
        message: impl std::fmt::Display,
    ) -> CloudError {
        let message = format!("{message} ({})", self.origin);
        CloudError { kind, action, code: code.into(), message, request_id: None }
    }

    fn find(&self, action: &'static str, id: &str) -> Result<usize, CloudError> {
        self.enis.iter().position(|eni| eni.id == id).ok_or_else(|| {
            let message = format!("the file lists no ENI {id}; add an [[eni]] with its MAC");
            self.error(CloudErrorKind::NotFound, action, "NoSuchEni", message)
        })
    }

    /// The ENI, when it lists each address; the first it does not is the error.
    fn lists(&self, action: &'static str, id: &str, ips: &[IpAddr]) -> Result<usize, CloudError> {
        let index = self.find(action, id)?;
        let eni = &self.enis[index];
        match ips.iter().find(|ip| !eni.addresses.contains(ip)) {
            None => Ok(index),
            Some(ip) => {
                let message = format!(
                    "{ip} is not among the addresses of ENI {id} (node {}, MAC {}); add it there",
                    eni.node, eni.mac
                );
                Err(self.error(CloudErrorKind::Invalid, action, "NotListed", message))
            }
        }
    }

    fn subnets(&self) -> Vec<Subnet> {
        let held = self.held();
        let subnet = |subnet: &Subnet| {
            let of_it = self.enis.iter().filter(|eni| eni.subnet == subnet.id);
            let listed: BTreeSet<_> = of_it.flat_map(|eni| &eni.addresses).collect();
            let free = |ipv6| {
                listed.iter().filter(|ip| ip.is_ipv6() == ipv6 && !held.contains_key(**ip)).count() as u64
            };
            let ipv6 = subnet.ipv6.map(|ipv6| SubnetV6 { available: free(true), ..ipv6 });
            Subnet { available: free(false), ipv6, ..subnet.clone() }
        };
        self.subnets.iter().map(subnet).collect()
    }

    /// What the file lists for a node: its ENIs, and the longest list of one family.
    fn limits(&self, node: &str) -> MachineLimits {
        let enis: Vec<_> = self.enis.iter().filter(|eni| eni.node == node).collect();
        let count = |eni: &FixedEni, v6| eni.addresses.iter().filter(|ip| ip.is_ipv6() == v6).count();
        let longest = enis.iter().map(|eni| count(eni, false).max(count(eni, true))).max();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        MachineLimits { max_enis: number(enis.len()), max_ips_per_eni: number(longest.unwrap_or(0)) }
    }

    fn assign(&self, eni_id: &str, ips: &[IpAddr]) -> Result<(), CloudError> {
        let index = self.lists("assign", eni_id, ips)?;
        self.held().extend(ips.iter().map(|ip| (*ip, index)));
        Ok(())
    }

    fn unassign(&self, eni_id: &str, ips: &[IpAddr]) -> Result<(), CloudError> {
        let index = self.find("unassign", eni_id)?;
        self.held().retain(|ip, at| *at != index || !ips.contains(ip));
        Ok(())
    }

    fn migrate(&self, from_eni: &str, to_eni: &str, ip: IpAddr) -> Result<(), CloudError> {
        let to = self.lists("migrate", to_eni, &[ip])?;
        // The source may have left the file since; when it is there, it must be of the same subnet.
        if let Some(from) = self.enis.iter().find(|eni| eni.id == from_eni)
            && from.subnet != self.enis[to].subnet
        {
            let message = format!(
                "{ip} cannot move from {from_eni} in subnet {} to {to_eni} in subnet {}; choose an ENI of one subnet",
                from.subnet, self.enis[to].subnet
            );
            return Err(self.error(CloudErrorKind::Invalid, "migrate", "OtherSubnet", message));
        }
        self.held().insert(ip, to);
        Ok(())
    }
}

impl EniProvider for Fixed {
    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>> {
        async { Ok(self.subnets()) }.boxed()
    }

    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        async move { Ok(self.infos(|eni| eni.node == instance_id)) }.boxed()
    }

    fn limits<'a>(
        &'a self,
        instance_id: &'a str,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<MachineLimits>, CloudError>> {
        async move { Ok(Some(self.limits(instance_id))) }.boxed()
    }

    fn enis_of_cluster<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        async { Ok(self.infos(|_| true)) }.boxed()
    }

    fn create_eni<'a>(&'a self, _: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>> {
        let message = "the file lists no free ENI for this node; add an [[eni]] for its next interface";
        async move { Err(self.error(CloudErrorKind::EniLimit, "create", "NoFreeEni", message)) }.boxed()
    }

    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let eni = &self.enis[self.find("attach", eni_id)?];
            if eni.node == instance_id {
                return Ok(());
            }
            let message =
                format!("ENI {eni_id} is on node {} for good; change its `node` in the file", eni.node);
            Err(self.error(CloudErrorKind::Invalid, "attach", "OtherNode", message))
        }
        .boxed()
    }

    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        async move { self.stays("detach", eni_id) }.boxed()
    }

    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        async move { self.stays("delete", eni_id) }.boxed()
    }

    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>> {
        async move { self.assign(eni_id, ips) }.boxed()
    }

    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move { self.unassign(eni_id, ips) }.boxed()
    }

    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move { self.migrate(from_eni, to_eni, ip) }.boxed()
    }
}

impl Fixed {
    /// An ENI of the file cannot go; one that is not there is gone.
    fn stays(&self, action: &'static str, eni_id: &str) -> Result<(), CloudError> {
        if self.enis.iter().all(|eni| eni.id != eni_id) {
            return Ok(());
        }
        let message = format!("ENI {eni_id} is a fixed one; take its [[eni]] out of the file");
        Err(self.error(CloudErrorKind::Invalid, action, "FixedEni", message))
    }
}

#[cfg(test)]
mod tests;
