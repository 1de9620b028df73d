//! The cloud's side of ENIs: one trait, and its providers.
//!
//! Only the controller talks to a cloud. A provider says what the cloud says; it decides nothing. Every
//! mutating call is safe to repeat: what is already so is success, and after an answer that was lost the
//! provider reads back before it reports an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};

mod around;
pub mod aws;
pub mod error;
pub mod fixed;
mod goal;
mod own_changes;
mod pace;
mod remote;
pub mod tencent;
mod transport;

pub use around::{Around, Surrounded};
pub use error::{CloudError, CloudErrorKind, ConfigError};
use goal::{Described, Goal};
pub use own_changes::OwnChanges;
pub use pace::Pace;

/// The tag that names an ENI's cluster, in every cloud.
pub const CLUSTER_TAG: &str = "eni-ipam.dev/cluster";
/// The tag that names the node an ENI was created for.
pub const NODE_TAG: &str = "eni-ipam.dev/node";

/// A subnet that ENIs can be created in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The cloud's name, such as `subnet-1a2b3c4d`.
    pub id: String,
    /// Its zone, such as `ap-guangzhou-3`.
    pub zone: String,
    /// Its IPv4 addresses, those the cloud reserves included.
    pub cidr: Ipv4Net,
    /// The next hop of the subnet's machines.
    pub gateway: Ipv4Addr,
    /// Addresses at its beginning that no ENI can have, the network's own included; of either family. The last address
    /// is never one.
    pub reserved: u32,
    /// IPv4 addresses that the cloud says are free.
    pub available: u64,
    /// Its IPv6 addresses, where it has any.
    pub ipv6: Option<SubnetV6>,
}

/// The IPv6 side of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetV6 {
    /// Its addresses.
    pub cidr: Ipv6Net,
    /// The next hop of the subnet's machines, mostly a link-local address.
    pub gateway: Ipv6Addr,
    /// Addresses that are free as far as the provider knows.
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
    /// Its secondary addresses of both families, in no order.
    pub secondary_ips: Vec<IpAddr>,
    /// Those of them that are still on their way to it, or off it.
    pub unsettled: Vec<IpAddr>,
    /// Whether it is the machine's primary ENI, which carries no pods.
    pub primary: bool,
    /// The machine it is on, or going to or from.
    pub instance_id: Option<String>,
    /// Where it stands.
    pub state: EniCloudState,
    /// The cluster that created it ([`NewEni::cluster_id`]); absent where nothing says so: it is somebody else's.
    pub cluster: Option<String>,
    /// The node it was created for ([`NewEni::node`]); absent where nothing says so.
    pub node: Option<String>,
    /// The only addresses this ENI can be given (`fixed` provider); absent: any of its subnet.
    pub assignable: Option<Vec<IpAddr>>,
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
    /// The node it is for, written as a tag.
    pub node: String,
    /// Its primary address; absent: the cloud chooses.
    pub primary_ip: Option<Ipv4Addr>,
}

/// What a machine can take, its primary ENI and the primary address of each ENI not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineLimits {
    /// Secondary ENIs.
    pub max_enis: u32,
    /// Secondary addresses of one ENI, of each family.
    pub max_ips_per_eni: u32,
}

/// A cloud, or what stands in for one.
pub trait EniProvider: Send + Sync + 'static {
    /// The longest that what it lists may lag behind what was done before it was asked.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The subnets that ENIs may be created in now. They may come and go while the provider runs: one that is
    /// configured and does not exist is left out.
    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>>;

    /// The ENIs on a machine, the primary one included.
    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>>;

    /// What a machine can take; `None`: the provider does not know. `instance_type` is what the node's label says.
    fn limits<'a>(
        &'a self,
        _instance_id: &'a str,
        _instance_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<MachineLimits>, CloudError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The ENIs that carry the cluster's tag, wherever they are. Leaks are found here.
    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>>;

    /// Creates an ENI, or finds the one that an earlier call with the same [`NewEni::name`] created.
    /// Returns when the ENI can be attached.
    ///
    /// # Errors
    /// [`CloudErrorKind::AddressInUse`] when its primary address is taken.
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
    /// already is moved. Where the cloud cannot move an address of its family, it is taken off one ENI and put on the
    /// other: when the second step fails it is on neither, and calling again goes on from there.
    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>>;
}
