//! The answers of the EC2 API, as far as we read them. Names are those of its XML.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::NAME_TAG;
use crate::cloud::{CLUSTER_TAG, Described, EniCloudState, EniInfo, NODE_TAG, transport};

/// What every answer has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub request_id: Option<String>,
}

/// The answer to what says no more than that it was done.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    #[serde(rename = "return")]
    pub is_done: bool,
}

/// A refusal.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failure {
    pub errors: Errors,
    #[serde(rename = "RequestID")]
    pub request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Errors {
    pub error: ApiError,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ApiError {
    pub code: String,
    #[serde(default)]
    pub message: String,
}

/// A list.
#[derive(Debug, Deserialize)]
pub struct Items<T> {
    #[serde(rename = "item", default = "Vec::new")]
    pub items: Vec<T>,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

/// `CreateNetworkInterface`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    pub network_interface: CreatedEni,
}

/// All that is sure of an ENI being created.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedEni {
    pub network_interface_id: String,
}

/// `AttachNetworkInterface`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    pub attachment_id: String,
}

/// `DescribeNetworkInterfaces`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enis {
    pub network_interface_set: Items<Eni>,
    #[serde(default)]
    pub next_token: String,
}

/// `NetworkInterface`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Eni {
    pub network_interface_id: String,
    pub subnet_id: String,
    #[serde(deserialize_with = "transport::mac")]
    pub mac_address: String,
    pub status: Status,
    #[serde(default)]
    pub interface_type: String,
    pub attachment: Option<Attachment>,
    #[serde(default)]
    pub private_ip_addresses_set: Items<Address>,
    #[serde(default)]
    pub ipv6_addresses_set: Items<AddressV6>,
    #[serde(default)]
    pub tag_set: Items<Tag>,
}

/// Where an ENI stands, apart from its attachment.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Pending,
    Available,
    Associated,
    Attaching,
    InUse,
    Detaching,
}

/// `NetworkInterfaceAttachment`; on something of AWS's own, it names no machine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub attachment_id: String,
    #[serde(default)]
    pub instance_id: String,
    pub device_index: u32,
    #[serde(default)]
    pub network_card_index: u32,
    pub status: AttachmentStatus,
}

/// Where an attachment stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentStatus {
    Attaching,
    Attached,
    Detaching,
    Detached,
}

/// `NetworkInterfacePrivateIpAddress`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    pub private_ip_address: Ipv4Addr,
    #[serde(default)]
    pub primary: bool,
}

/// `NetworkInterfaceIpv6Address`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressV6 {
    pub ipv6_address: Ipv6Addr,
}

/// A tag.
#[derive(Debug, Deserialize)]
pub struct Tag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

/// `DescribeSubnets`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnets {
    pub subnet_set: Items<Subnet>,
    #[serde(default)]
    pub next_token: String,
}

/// `Subnet`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    pub subnet_id: String,
    pub availability_zone: String,
    /// Absent where it has IPv6 only.
    pub cidr_block: Option<Ipv4Net>,
    pub available_ip_address_count: u64,
    #[serde(default)]
    pub ipv6_cidr_block_association_set: Items<Association>,
}

/// `SubnetIpv6CidrBlockAssociation`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Association {
    pub ipv6_cidr_block: Ipv6Net,
    pub ipv6_cidr_block_state: AssociationState,
}

/// Where an association stands, such as `associated`.
#[derive(Deserialize)]
pub struct AssociationState {
    pub state: String,
}

impl Subnet {
    /// Its IPv6 network.
    pub fn ipv6(&self) -> Option<Ipv6Net> {
        let mut associations = self.ipv6_cidr_block_association_set.items.iter();
        let there = associations.find(|it| it.ipv6_cidr_block_state.state == "associated");
        there.map(|it| it.ipv6_cidr_block.trunc())
    }
}

impl Eni {
    /// Its attachment to a machine, if that has not ended.
    pub fn on_machine(&self) -> Option<&Attachment> {
        self.attachment
            .as_ref()
            .filter(|it| !it.instance_id.is_empty() && it.status != AttachmentStatus::Detached)
    }

    /// Whether the address is one of its secondary ones.
    pub fn has_secondary(&self, ip: Ipv4Addr) -> bool {
        self.private_ip_addresses_set.items.iter().any(|a| !a.primary && a.private_ip_address == ip)
    }

    /// Whether pods can have it: neither a trunk, nor one that belongs to something of AWS's.
    pub fn is_plain(&self) -> bool {
        matches!(self.interface_type.as_str(), "" | "interface" | "efa")
    }

    fn state(&self) -> EniCloudState {
        match self.on_machine().map(|attachment| attachment.status) {
            Some(AttachmentStatus::Attaching) => EniCloudState::Attaching,
            Some(AttachmentStatus::Attached) => EniCloudState::Attached,
            Some(AttachmentStatus::Detaching | AttachmentStatus::Detached) => EniCloudState::Detaching,
            None if self.status == Status::Pending => EniCloudState::Pending,
            None => EniCloudState::Available,
        }
    }
}

impl From<Eni> for Described {
    fn from(eni: Eni) -> Self {
        let v4 = &eni.private_ip_addresses_set.items;
        let primary = v4.iter().find(|address| address.primary);
        let secondary = v4.iter().filter(|a| !a.primary).map(|a| IpAddr::V4(a.private_ip_address));
        let v6 = eni.ipv6_addresses_set.items.iter().map(|a| IpAddr::V6(a.ipv6_address));
        let tag =
            |key: &str| eni.tag_set.items.iter().find(|tag| tag.key == key).map(|tag| tag.value.clone());
        Self {
            name: tag(NAME_TAG).unwrap_or_default(),
            info: EniInfo {
                primary_ip: primary.map_or(Ipv4Addr::UNSPECIFIED, |address| address.private_ip_address),
                secondary_ips: secondary.chain(v6).collect(),
                // Addresses have no states here.
                unsettled: Vec::new(),
                instance_id: eni.on_machine().map(|attachment| attachment.instance_id.clone()),
                primary: eni
                    .on_machine()
                    .is_some_and(|it| it.device_index == 0 && it.network_card_index == 0),
                cluster: tag(CLUSTER_TAG),
                node: tag(NODE_TAG),
                state: eni.state(),
                id: eni.network_interface_id,
                mac: eni.mac_address,
                subnet_id: eni.subnet_id,
                assignable: None,
            },
        }
    }
}

/// `DescribeInstanceTypes`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTypes {
    pub instance_type_set: Items<InstanceType>,
}

/// `InstanceTypeInfo`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceType {
    pub network_info: NetworkInfo,
}

/// `NetworkInfo`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInfo {
    pub maximum_network_interfaces: u32,
    #[serde(default)]
    pub default_network_card_index: u32,
    #[serde(default)]
    pub network_cards: Items<NetworkCard>,
    pub ipv4_addresses_per_interface: u32,
}

/// `NetworkCardInfo`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkCard {
    pub network_card_index: u32,
    pub maximum_network_interfaces: u32,
}

impl NetworkInfo {
    /// ENIs that the first card takes: all of ours are attached there.
    pub fn enis_of_first_card(&self) -> u32 {
        let first = self
            .network_cards
            .items
            .iter()
            .find(|it| it.network_card_index == self.default_network_card_index);
        first.map_or(self.maximum_network_interfaces, |card| card.maximum_network_interfaces)
    }
}
