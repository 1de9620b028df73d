//! The cloud's side of ENIs: one trait, and its providers.
//!
//! Only the controller talks to a cloud. A provider says what the cloud says; it decides nothing. Every
//! mutating call is safe to repeat: what is already so is success, and after an answer that was lost the
//! provider reads back before it reports an error.

use std::net::{IpAddr, Ipv4Addr};

use futures::future::BoxFuture;
use ipnet::Ipv4Net;

pub mod error;
pub mod fixed;
pub mod tencent;

pub use error::{CloudError, CloudErrorKind, ConfigError};

/// A subnet that ENIs can be created in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The cloud's name, such as `subnet-1a2b3c4d`.
    pub id: String,
    /// Its zone, such as `ap-guangzhou-3`.
    pub zone: String,
    /// Its addresses, those the cloud reserves included.
    pub cidr: Ipv4Net,
    /// The next hop of the subnet's machines.
    pub gateway: Ipv4Addr,
    /// Addresses that the cloud says are free.
    pub available: u64,
}

/// An ENI as the cloud describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EniInfo {
    /// The cloud's name, such as `eni-1a2b3c4d`.
    pub id: String,
    /// MAC, lower case with colons.
    pub mac: String,
    /// Subnet of all its addresses.
    pub subnet_id: String,
    /// Its primary address.
    pub primary_ip: Ipv4Addr,
    /// Its secondary addresses, in no order.
    pub secondary_ips: Vec<Ipv4Addr>,
    /// Whether it is the machine's primary ENI, which carries no pods.
    pub primary: bool,
    /// The machine it is on, or going to or from.
    pub instance_id: Option<String>,
    /// Where it stands.
    pub state: EniCloudState,
    /// The only addresses this ENI can be given (`fixed` provider); absent: any of its subnet.
    pub assignable: Option<Vec<Ipv4Addr>>,
}

/// Where an ENI stands in the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EniCloudState {
    /// Being created.
    Pending,
    /// On no machine.
    Available,
    /// On its way to a machine.
    Attaching,
    /// On a machine.
    Attached,
    /// On its way off a machine.
    Detaching,
    /// Being deleted.
    Deleting,
}

/// What a new ENI shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEni {
    /// Name shown in the cloud's console; also the token by which a repeated call finds the ENI that an
    /// earlier, lost answer created.
    pub name: String,
    /// Subnet it is created in.
    pub subnet_id: String,
    /// The cluster, written as a tag.
    pub cluster_id: String,
}

/// A cloud, or what stands in for one.
pub trait EniProvider: Send + Sync + 'static {
    /// The subnets the provider is configured with.
    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>>;

    /// The ENIs on a machine, the primary one included.
    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>>;

    /// The ENIs that carry the cluster's tag, wherever they are. Leaks are found here.
    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>>;

    /// Creates an ENI, or finds the one that an earlier call with the same [`NewEni::name`] created.
    /// Returns when the ENI can be attached.
    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>>;

    /// Attaches an ENI. Returns when it is on the machine.
    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>>;

    /// Detaches an ENI. Returns when it is on no machine; an ENI that does not exist is detached.
    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>>;

    /// Deletes a detached ENI; one that does not exist is deleted.
    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>>;

    /// Puts these addresses on the ENI as secondary ones; those already there are left alone.
    ///
    /// # Errors
    /// [`CloudErrorKind::AddressInUse`] when one is taken elsewhere.
    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>>;

    /// Takes these secondary addresses off the ENI; those not there are left alone.
    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>>;

    /// Moves a secondary address to another ENI of its subnet. Returns when it is there; one that is there
    /// already is moved.
    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>>;
}
