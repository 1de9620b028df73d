//! The answers of the VPC API, as far as we read them (tencentcloud-sdk-go, vpc/v20170312, `models.go`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer};

use crate::cloud::{EniCloudState, EniInfo};

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
    #[serde(deserialize_with = "mac")]
    pub mac_address: String,
    pub state: EniState,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub private_ip_address_set: Vec<Address>,
    pub attachment: Option<Attachment>,
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
}

/// `Subnet`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Subnet {
    pub subnet_id: String,
    pub zone: String,
    pub cidr_block: Ipv4Net,
    pub available_ip_address_count: u64,
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
    /// The machine it is on, or going to or from.
    pub fn instance(&self) -> Option<&str> {
        self.attachment.as_ref().map(|attachment| attachment.instance_id.as_str())
    }

    /// Whether it is on this machine, and settled there.
    pub fn is_on(&self, instance: &str) -> bool {
        self.state == EniState::Available && self.instance() == Some(instance)
    }

    /// The address, when it is one of this ENI's.
    pub fn address(&self, ip: Ipv4Addr) -> Option<&Address> {
        self.private_ip_address_set.iter().find(|address| address.private_ip_address == ip)
    }

    /// Its primary address; one being created or deleted may have none.
    pub fn primary_ip(&self) -> Option<Ipv4Addr> {
        self.private_ip_address_set.iter().find(|a| a.primary).map(|a| a.private_ip_address)
    }
}

impl From<Eni> for EniInfo {
    fn from(eni: Eni) -> Self {
        let state = match (eni.state, &eni.attachment) {
            (EniState::Pending, _) => EniCloudState::Pending,
            (EniState::Available, None) => EniCloudState::Available,
            (EniState::Available, Some(_)) => EniCloudState::Attached,
            (EniState::Attaching, _) => EniCloudState::Attaching,
            (EniState::Detaching, _) => EniCloudState::Detaching,
            (EniState::Deleting, _) => EniCloudState::Deleting,
        };
        Self {
            primary_ip: eni.primary_ip().unwrap_or(Ipv4Addr::UNSPECIFIED),
            secondary_ips: eni
                .private_ip_address_set
                .iter()
                .filter(|address| !address.primary)
                .map(|address| address.private_ip_address)
                .collect(),
            instance_id: eni.attachment.map(|attachment| attachment.instance_id),
            id: eni.network_interface_id,
            mac: eni.mac_address,
            subnet_id: eni.subnet_id,
            primary: eni.primary,
            state,
            assignable: None,
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

/// A MAC in lower case; an ENI being created may have an empty one.
fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?.to_lowercase();
    let octet = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if text.is_empty() || (text.split(':').count() == 6 && text.split(':').all(octet)) {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(format!("{text:?} is no MAC address")))
    }
}
