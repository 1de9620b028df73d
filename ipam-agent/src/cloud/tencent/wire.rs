//! The answers of the VPC API, as far as we read them (tencentcloud-sdk-go, vpc/v20170312, `models.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

use crate::cloud::{CLUSTER_TAG, Described, EniCloudState, EniInfo, NODE_TAG, transport};

/// `Response.Error`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ApiError {
    pub code: String,
    pub message: String,
}

/// Every answer is an object with the one field `Response`, whose error is in its `Error`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Envelope<T> {
    pub response: T,
}

/// What every answer has.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Head {
    pub error: Option<ApiError>,
    pub request_id: Option<String>,
}

/// An answer of which nothing but its `RequestId` matters: that names the task.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Started {
    pub request_id: String,
}

/// `CreateNetworkInterface`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub network_interface: CreatedEni,
    pub request_id: String,
}

/// All that is sure of an ENI being created.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEni {
    pub network_interface_id: String,
}

/// `DescribeNetworkInterfaces`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Enis {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub network_interface_set: Vec<Eni>,
    pub total_count: u64,
}

/// `NetworkInterface`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Eni {
    pub network_interface_id: String,
    #[serde(default)]
    pub network_interface_name: String,
    pub subnet_id: String,
    #[serde(default)]
    pub primary: bool,
    #[serde(deserialize_with = "transport::mac")]
    pub mac_address: String,
    pub state: EniState,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub private_ip_address_set: Vec<Address>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ipv6_address_set: Vec<AddressV6>,
    pub attachment: Option<Attachment>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tag_set: Vec<Tag>,
}

/// `Tag`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

/// There is no ATTACHED: that is `AVAILABLE` with an attachment.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EniState {
    Pending,
    Available,
    Attaching,
    Detaching,
    Deleting,
}

/// `PrivateIpAddressSpecification`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Address {
    pub private_ip_address: Ipv4Addr,
    #[serde(default)]
    pub primary: bool,
    #[serde(default)]
    pub state: AddressState,
}

/// `Ipv6Address`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressV6 {
    pub address: Ipv6Addr,
    #[serde(default)]
    pub primary: bool,
    #[serde(default)]
    pub state: AddressState,
}

/// Where an address of an ENI stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AddressState {
    Pending,
    Migrating,
    Deleting,
    #[default]
    Available,
}

/// `NetworkInterfaceAttachment`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attachment {
    pub instance_id: String,
}

/// `DescribeSubnets`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Subnets {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub subnet_set: Vec<Subnet>,
    pub total_count: u64,
}

/// `Subnet`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Subnet {
    pub subnet_id: String,
    pub zone: String,
    pub cidr_block: Ipv4Net,
    pub available_ip_address_count: u64,
    /// Empty where it has none.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub ipv6_cidr_block: Option<Ipv6Net>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tag_set: Vec<Tag>,
}

/// `DescribeNetworkInterfaceLimit`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EniLimit {
    pub eni_quantity: u32,
    pub eni_private_ip_address_quantity: u32,
}

/// `DescribeVpcTaskResult`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    pub status: TaskStatus,
    #[serde(default)]
    pub output: Option<String>,
}

/// How a task goes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    Success,
    Failed,
    Running,
}

impl Eni {
    /// Its addresses of both families: which, whether primary, and where it stands.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, bool, AddressState)> {
        let v4 =
            self.private_ip_address_set.iter().map(|a| (a.private_ip_address.into(), a.primary, a.state));
        v4.chain(self.ipv6_address_set.iter().map(|a| (a.address.into(), a.primary, a.state)))
    }

    /// Its primary address; one being created or deleted may have none.
    pub fn primary_ip(&self) -> Option<Ipv4Addr> {
        self.private_ip_address_set.iter().find(|a| a.primary).map(|a| a.private_ip_address)
    }
}

impl From<Eni> for Described {
    fn from(eni: Eni) -> Self {
        let state = match (eni.state, &eni.attachment) {
            (EniState::Pending, _) => EniCloudState::Pending,
            (EniState::Available, None) => EniCloudState::Available,
            (EniState::Available, Some(_)) => EniCloudState::Attached,
            (EniState::Attaching, _) => EniCloudState::Attaching,
            (EniState::Detaching, _) => EniCloudState::Detaching,
            (EniState::Deleting, _) => EniCloudState::Deleting,
        };
        let secondary = || eni.addresses().filter(|(_, primary, _)| !primary);
        let tag = |key: &str| eni.tag_set.iter().find(|tag| tag.key == key).map(|tag| tag.value.clone());
        let (cluster, node) = (tag(CLUSTER_TAG), tag(NODE_TAG));
        let unsettled = secondary().filter(|(.., state)| *state != AddressState::Available);
        Self {
            info: EniInfo {
                primary_ip: eni.primary_ip().unwrap_or(Ipv4Addr::UNSPECIFIED),
                secondary_ips: secondary().map(|(ip, ..)| ip).collect(),
                unsettled: unsettled.map(|(ip, ..)| ip).collect(),
                instance_id: eni.attachment.map(|attachment| attachment.instance_id),
                id: eni.network_interface_id,
                mac: eni.mac_address,
                subnet_id: eni.subnet_id,
                primary: eni.primary,
                cluster,
                node,
                state,
                assignable: None,
            },
            name: eni.network_interface_name,
        }
    }
}

/// The API writes an empty list as `null` at times.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The API writes a network that is not there as an empty text or `null`.
fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Net>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is no IPv6 network"))),
    }
}
