//! The API's questions and answers as JSON. A field that is unknown, missing or of another type is refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    state::{Address, AddressState, Eni, EniState, Task, Vpc},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct CreateNetworkInterface {
    pub vpc_id: String,
    pub network_interface_name: String,
    pub subnet_id: String,
    #[serde(rename = "NetworkInterfaceDescription")]
    pub _description: Option<String>,
    #[serde(rename = "SecurityGroupIds")]
    pub _security_group_ids: Option<Vec<String>>,
    #[serde(default)]
    pub tags: Vec<Tag>,
    pub private_ip_addresses: Option<Vec<NewAddress>>,
    pub client_token: Option<String>,
}

/// An address of a new ENI.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct NewAddress {
    pub private_ip_address: Ipv4Addr,
    #[serde(default)]
    pub primary: bool,
}

/// Attach and detach.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct EniAndInstance {
    pub network_interface_id: String,
    pub instance_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DeleteNetworkInterface {
    pub network_interface_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct PrivateIpAddress {
    pub private_ip_address: Ipv4Addr,
}

/// Assign and unassign.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct EniAndAddresses {
    pub network_interface_id: String,
    pub private_ip_addresses: Vec<PrivateIpAddress>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Ipv6Address {
    pub address: Ipv6Addr,
}

/// Addresses, or how many.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct AssignIpv6Addresses {
    pub network_interface_id: String,
    pub ipv6_addresses: Option<Vec<Ipv6Address>>,
    pub ipv6_address_count: Option<usize>,
    #[serde(rename = "ClientToken")]
    pub _client_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct UnassignIpv6Addresses {
    pub network_interface_id: String,
    pub ipv6_addresses: Vec<Ipv6Address>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct MigratePrivateIpAddress {
    pub source_network_interface_id: String,
    pub destination_network_interface_id: String,
    pub private_ip_address: Ipv4Addr,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeVpcTaskResult {
    pub task_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Filter {
    pub name: String,
    pub values: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeNetworkInterfaces {
    pub network_interface_ids: Option<Vec<String>>,
    pub filters: Option<Vec<Filter>>,
    #[serde(default)]
    pub offset: usize,
    pub limit: Option<usize>,
}

/// Here numbers are written as text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeSubnets {
    pub subnet_ids: Option<Vec<String>>,
    pub filters: Option<Vec<Filter>>,
    pub offset: Option<String>,
    pub limit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeNetworkInterfaceLimit {
    pub instance_id: String,
}

/// Reads an action's parameters.
pub fn params<T: DeserializeOwned>(body: &Value) -> Result<T, ApiError> {
    T::deserialize(body).map_err(|error| {
        let message = error.to_string();
        let code = match message.as_str() {
            m if m.starts_with("unknown field") => "UnknownParameter",
            m if m.starts_with("missing field") => "MissingParameter",
            m if m.starts_with("invalid type") => "InvalidParameter",
            _ => "InvalidParameterValue.Malformed",
        };
        ApiError::new(code, message)
    })
}

fn page<T>(all: Vec<T>, offset: usize, limit: Option<usize>) -> Result<(usize, Vec<T>), ApiError> {
    let limit = limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::new("InvalidParameterValue.Range", "Limit must be from 1 to 100"));
    }
    Ok((all.len(), all.into_iter().skip(offset).take(limit).collect()))
}

/// Answers DescribeNetworkInterfaces from these ENIs.
pub fn describe_enis(vpc: &Vpc, enis: &[Eni], asked: &DescribeNetworkInterfaces) -> Result<Value, ApiError> {
    if asked.filters.is_some() && asked.network_interface_ids.is_some() {
        let message = "NetworkInterfaceIds and Filters exclude each other";
        return Err(ApiError::new("InvalidParameter.Coexist", message));
    }
    for id in asked.network_interface_ids.iter().flatten() {
        if enis.iter().all(|eni| eni.id != *id) {
            return Err(ApiError::new("ResourceNotFound", format!("network interface {id} does not exist")));
        }
    }
    let mut found = Vec::new();
    for eni in enis {
        let mut fits = asked.network_interface_ids.as_ref().is_none_or(|ids| ids.contains(&eni.id));
        for filter in asked.filters.iter().flatten() {
            fits &= passes(vpc, eni, filter)?;
        }
        if fits {
            found.push(eni_json(vpc, eni));
        }
    }
    let (total, set) = page(found, asked.offset, asked.limit)?;
    Ok(json!({ "NetworkInterfaceSet": set, "TotalCount": total }))
}

fn passes(vpc: &Vpc, eni: &Eni, filter: &Filter) -> Result<bool, ApiError> {
    let any = |actual: &str| filter.values.iter().any(|value| value == actual);
    Ok(match filter.name.as_str() {
        "vpc-id" => any(&vpc.config.vpc),
        "subnet-id" => any(&eni.subnet),
        "network-interface-id" => any(&eni.id),
        // Parts of names match too.
        "network-interface-name" => filter.values.iter().any(|value| eni.name.contains(value.as_str())),
        "attachment.instance-id" => eni.attachment.as_ref().is_some_and(|(instance, _)| any(instance)),
        "address-ip" => eni.addresses.iter().any(|address| any(&address.ip.to_string())),
        name => match name.strip_prefix("tag:") {
            Some(key) => eni.tags.get(key).is_some_and(|value| any(value)),
            None => {
                let message = format!("{name} is no filter");
                return Err(ApiError::new("InvalidParameter.FilterInvalidKey", message));
            }
        },
    })
}

/// An ENI as the API shows it.
pub fn eni_json(vpc: &Vpc, eni: &Eni) -> Value {
    let state = match eni.state {
        EniState::Pending => "PENDING",
        EniState::Available => "AVAILABLE",
        EniState::Attaching => "ATTACHING",
        EniState::Detaching => "DETACHING",
        EniState::Deleting => "DELETING",
    };
    let addresses: Vec<_> = eni
        .addresses
        .iter()
        .filter(|a| a.ip.is_ipv4())
        .map(|a| json!({ "PrivateIpAddress": a.ip, "Primary": a.primary, "State": address_state(a.state) }))
        .collect();
    let v6_addresses: Vec<_> = eni.addresses.iter().filter(|a| a.ip.is_ipv6()).map(ipv6_json).collect();
    let attachment =
        eni.attachment.as_ref().map(|(id, place)| json!({ "InstanceId": id, "DeviceIndex": place }));
    let zone = vpc.config.subnets.iter().find(|subnet| subnet.id == eni.subnet).map(|subnet| &subnet.zone);
    json!({
        "NetworkInterfaceId": eni.id,
        "NetworkInterfaceName": eni.name,
        "VpcId": vpc.config.vpc,
        "SubnetId": eni.subnet,
        "Zone": zone,
        "Primary": eni.primary,
        "MacAddress": eni.mac.to_uppercase(),
        "State": state,
        "PrivateIpAddressSet": addresses,
        "Ipv6AddressSet": v6_addresses,
        "Attachment": attachment,
        "TagSet": tags_json(&eni.tags),
        "EniType": u8::from(eni.primary),
    })
}

fn tags_json(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect()
}

const fn address_state(state: AddressState) -> &'static str {
    match state {
        AddressState::Pending => "PENDING",
        AddressState::Migrating => "MIGRATING",
        AddressState::Deleting => "DELETING",
        AddressState::Available => "AVAILABLE",
    }
}

fn ipv6_json(address: &Address) -> Value {
    json!({
        "Address": address.ip,
        "Primary": address.primary,
        "State": address_state(address.state),
        "AddressType": "ULA",
    })
}

/// The `Ipv6AddressSet` of an AssignIpv6Addresses.
pub fn assigned_v6(ips: &[IpAddr]) -> Value {
    let pending = |ip: &IpAddr| Address { ip: *ip, primary: false, state: AddressState::Pending };
    json!({ "Ipv6AddressSet": ips.iter().map(|ip| ipv6_json(&pending(ip))).collect::<Vec<_>>() })
}

/// Answers DescribeSubnets.
pub fn describe_subnets(vpc: &Vpc, asked: &DescribeSubnets) -> Result<Value, ApiError> {
    let number = |text: &Option<String>| {
        let parsed = text.as_ref().map(|text| text.parse::<usize>()).transpose();
        parsed.map_err(|_| {
            ApiError::new("InvalidParameterValue.Malformed", "Offset and Limit are numbers as text")
        })
    };
    if asked.filters.is_some() && asked.subnet_ids.is_some() {
        return Err(ApiError::new("InvalidParameter.Coexist", "SubnetIds and Filters exclude each other"));
    }
    let mut in_vpc = true;
    for filter in asked.filters.iter().flatten() {
        match filter.name.as_str() {
            "vpc-id" => in_vpc &= filter.values.contains(&vpc.config.vpc),
            name => {
                let message = format!("{name} is no filter");
                return Err(ApiError::new("InvalidParameter.FilterInvalidKey", message));
            }
        }
    }
    let wanted = |id: &String| in_vpc && asked.subnet_ids.as_ref().is_none_or(|ids| ids.contains(id));
    for id in asked.subnet_ids.iter().flatten() {
        if vpc.config.subnets.iter().all(|subnet| subnet.id != *id) {
            return Err(ApiError::new("ResourceNotFound", format!("subnet {id} does not exist")));
        }
    }
    let all: Vec<_> = vpc
        .config
        .subnets
        .iter()
        .filter(|subnet| wanted(&subnet.id))
        .map(|subnet| {
            json!({
                "VpcId": vpc.config.vpc,
                "SubnetId": subnet.id,
                "CidrBlock": subnet.cidr,
                "Zone": subnet.zone,
                "AvailableIpAddressCount": vpc.free(subnet),
                "Ipv6CidrBlock": subnet.cidr_v6.map(|net| net.to_string()).unwrap_or_default(),
                "TagSet": vpc.subnet_tags.get(&subnet.id).map(tags_json),
            })
        })
        .collect();
    let (total, set) = page(all, number(&asked.offset)?.unwrap_or(0), number(&asked.limit)?)?;
    Ok(json!({ "SubnetSet": set, "TotalCount": total }))
}

/// Answers DescribeNetworkInterfaceLimit: both quotas count what is primary too.
pub fn describe_limit(vpc: &Vpc, asked: &DescribeNetworkInterfaceLimit) -> Result<Value, ApiError> {
    let instance = vpc.instance(&asked.instance_id)?;
    Ok(json!({
        "EniQuantity": instance.max_enis,
        "EniPrivateIpAddressQuantity": instance.max_ips_per_eni,
    }))
}

/// Answers DescribeVpcTaskResult.
pub fn describe_task(vpc: &Vpc, asked: &DescribeVpcTaskResult) -> Result<Value, ApiError> {
    match vpc.tasks.get(&asked.task_id) {
        Some(Task::Running(_)) => Ok(json!({ "Status": "RUNNING", "Output": "" })),
        Some(Task::Success) => Ok(json!({ "Status": "SUCCESS", "Output": "SUCCESS" })),
        Some(Task::Failed(why)) => Ok(json!({ "Status": "FAILED", "Output": why })),
        None => Err(ApiError::new("ResourceNotFound", format!("task {} does not exist", asked.task_id))),
    }
}
