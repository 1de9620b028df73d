//! What the cloud's owner changes in its console, or somebody else behind everybody's back.

use std::net::IpAddr;

use super::{CloudServer, InstanceConfig, SubnetConfig};

impl CloudServer {
    /// Makes a subnet.
    pub fn add_subnet(&self, subnet: SubnetConfig) {
        self.change(|vpc| vpc.config.subnets.push(subnet));
    }

    /// Takes a subnet away. A real cloud refuses while something is in it; here its ENIs stay, to see what becomes of
    /// addresses whose subnet nobody lists any more.
    pub fn remove_subnet(&self, id: &str) {
        self.change(|vpc| vpc.config.subnets.retain(|subnet| subnet.id != id));
    }

    /// Tags a subnet.
    pub fn tag_subnet(&self, id: &str, key: &str, value: &str) {
        self.change(|vpc| vpc.subnet_tags.entry(id.into()).or_default().insert(key.into(), value.into()));
    }

    /// How many ENIs the VPC may have from now on, the machines' primary ones not counted.
    pub fn set_eni_quota(&self, enis_per_vpc: usize) {
        self.change(|vpc| vpc.config.quotas.enis_per_vpc = enis_per_vpc);
    }

    /// Makes another machine of one.
    pub fn resize_instance(&self, id: &str, change: impl FnOnce(&mut InstanceConfig)) {
        self.change(|vpc| vpc.config.instances.get_mut(id).map(change));
    }

    /// Takes a secondary address off its ENI.
    ///
    /// # Errors
    /// The world could not.
    pub async fn unassign_out_of_band(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        let _moving = self.inner.moving.lock().await;
        let (world, id) = (self.inner.world.clone(), eni_id.to_owned());
        tokio::task::spawn_blocking(move || world.unassign(&id, ip)).await??;
        self.change(|vpc| {
            vpc.enis.get_mut(eni_id).map(|eni| eni.addresses.retain(|address| address.ip != ip))
        });
        Ok(())
    }
}
