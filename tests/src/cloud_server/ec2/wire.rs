//! EC2's questions and answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::super::{
    SubnetConfig,
    error::ApiError,
    state::{Eni, EniState, Vpc},
};
use super::{form::text, xml};

/// ENIs that one page has at most, whatever is asked for: EC2 says that it may give fewer.
const PAGE: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Filter {
    name: String,
    value: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeNetworkInterfaces {
    #[serde(default)]
    network_interface_id: Vec<String>,
    #[serde(default)]
    filter: Vec<Filter>,
    max_results: Option<String>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeSubnets {
    #[serde(default)]
    subnet_id: Vec<String>,
    #[serde(default)]
    filter: Vec<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DescribeInstanceTypes {
    instance_type: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Tag {
    key: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TagSpecification {
    resource_type: String,
    #[serde(default)]
    tag: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct CreateNetworkInterface {
    pub subnet_id: String,
    #[serde(rename = "Description")]
    pub _description: Option<String>,
    #[serde(rename = "SecurityGroupId")]
    pub _security_group_id: Option<Vec<String>>,
    #[serde(default)]
    tag_specification: Vec<TagSpecification>,
    pub private_ip_address: Option<Ipv4Addr>,
    pub client_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct AttachNetworkInterface {
    pub network_interface_id: String,
    pub instance_id: String,
    #[serde(deserialize_with = "text")]
    pub device_index: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct DetachNetworkInterface {
    pub attachment_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct OneEni {
    pub network_interface_id: String,
}

/// Assign and unassign.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Addresses {
    pub network_interface_id: String,
    pub private_ip_address: Vec<Ipv4Addr>,
    #[serde(default, deserialize_with = "text")]
    pub allow_reassignment: bool,
}

/// Assign and unassign.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Ipv6Addresses {
    pub network_interface_id: String,
    pub ipv6_addresses: Vec<Ipv6Addr>,
}

impl CreateNetworkInterface {
    /// The value of a tag.
    pub fn tag(&self, key: &str) -> Option<String> {
        let mut tags = self.tag_specification.iter().flat_map(|it| &it.tag);
        tags.find(|tag| tag.key == key).map(|tag| tag.value.clone())
    }

    /// All tags.
    pub fn tags(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let mut tags = BTreeMap::new();
        for specification in &self.tag_specification {
            if specification.resource_type != "network-interface" {
                let message = format!("'{}' is not what is created", specification.resource_type);
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            for tag in &specification.tag {
                if tag.value.len() > 256 || tags.insert(tag.key.clone(), tag.value.clone()).is_some() {
                    let message = format!("the tag {} is too long or given twice", tag.key);
                    return Err(ApiError::new("InvalidParameterValue", message));
                }
            }
        }
        Ok(tags)
    }
}

/// An answer's whole document.
pub fn answer(action: &str, request: &str, content: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{}{content}</{action}Response>",
        xml::element("requestId", request)
    )
}

/// A refusal's whole document.
pub fn failure(request: &str, error: &ApiError) -> String {
    let content = xml::element("Code", &error.code) + &xml::element("Message", &error.message);
    let errors = xml::node("Errors", &xml::node("Error", &content));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}",
        xml::node("Response", &(errors + &xml::element("RequestID", request)))
    )
}

/// What an assignment or unassignment says.
pub fn addresses(action: &str, eni: &str, ips: &[IpAddr]) -> String {
    let each = |name: &str, ips: &[IpAddr]| ips.iter().map(|ip| xml::element(name, ip)).collect::<Vec<_>>();
    let id = xml::element("networkInterfaceId", eni);
    match action {
        "AssignPrivateIpAddresses" => {
            let assigned = each("privateIpAddress", ips);
            xml::element("return", true) + &id + &xml::list("assignedPrivateIpAddressesSet", assigned)
        }
        "UnassignPrivateIpAddresses" => xml::element("return", true),
        _ => {
            let name =
                if action.starts_with('A') { "assignedIpv6Addresses" } else { "unassignedIpv6Addresses" };
            let items: String = each("item", ips).concat();
            id + &xml::node(name, &items)
        }
    }
}

/// Answers DescribeNetworkInterfaces from these ENIs, which are in the order of their ids.
pub fn describe_enis(vpc: &Vpc, enis: &[Eni], asked: &DescribeNetworkInterfaces) -> Result<String, ApiError> {
    let invalid = |message: String| Err(ApiError::new("InvalidParameterValue", message));
    let limit = match asked.max_results.as_ref().map(|text| text.parse::<usize>()) {
        None => PAGE,
        Some(Ok(limit @ 5..=1000)) => limit.min(PAGE),
        Some(_) => return invalid("Value for parameter MaxResults is invalid: 5 to 1000".into()),
    };
    for id in &asked.network_interface_id {
        if enis.iter().all(|eni| eni.id != *id) {
            let message = format!("The networkInterface ID '{id}' does not exist");
            return Err(ApiError::new("InvalidNetworkInterfaceID.NotFound", message));
        }
    }
    let after = match asked.next_token.as_deref().map(|token| token.strip_prefix("after/")) {
        None => "",
        Some(Some(id)) => id,
        Some(None) => return invalid("The token is not one of ours".into()),
    };
    let mut found = Vec::new();
    for eni in enis.iter().filter(|eni| eni.id.as_str() > after) {
        let mut fits = asked.network_interface_id.is_empty() || asked.network_interface_id.contains(&eni.id);
        for filter in &asked.filter {
            fits &= passes(vpc, eni, filter)?;
        }
        if fits {
            found.push(eni);
        }
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let token =
        found.last().filter(|_| more).map(|eni| xml::element("nextToken", format!("after/{}", eni.id)));
    let items = found.iter().map(|eni| eni_fields(vpc, eni));
    Ok(xml::list("networkInterfaceSet", items) + &token.unwrap_or_default())
}

fn passes(vpc: &Vpc, eni: &Eni, filter: &Filter) -> Result<bool, ApiError> {
    let any = |actual: &str| filter.value.iter().any(|value| value == actual);
    Ok(match filter.name.as_str() {
        "vpc-id" => any(&vpc.config.vpc),
        "subnet-id" => any(&eni.subnet),
        "network-interface-id" => any(&eni.id),
        "attachment.instance-id" => eni.attachment.as_ref().is_some_and(|(instance, _)| any(instance)),
        name => match name.strip_prefix("tag:") {
            Some(key) => eni.tags.get(key).is_some_and(|value| any(value)),
            None => return Err(no_filter(name)),
        },
    })
}

fn no_filter(name: &str) -> ApiError {
    ApiError::new("InvalidParameterValue", format!("The filter '{name}' is invalid"))
}

/// An ENI as the API shows it.
pub fn eni(name: &str, vpc: &Vpc, eni: &Eni) -> String {
    xml::node(name, &eni_fields(vpc, eni))
}

fn eni_fields(vpc: &Vpc, eni: &Eni) -> String {
    // There is no word for being deleted: that is over when it is answered.
    let status = match (eni.state, &eni.attachment) {
        (EniState::Pending, _) => "pending",
        (_, Some(_)) => "in-use",
        (_, None) => "available",
    };
    let attachment = eni.attachment.as_ref().map(|(instance, place)| {
        let status = match eni.state {
            EniState::Attaching => "attaching",
            EniState::Detaching => "detaching",
            _ => "attached",
        };
        let content = xml::element("attachmentId", eni.attachment_id())
            + &xml::element("deleteOnTermination", eni.primary)
            + &xml::element("deviceIndex", place)
            + &xml::element("networkCardIndex", 0)
            + &xml::element("instanceId", instance)
            + &xml::element("instanceOwnerId", "111122223333")
            + &xml::element("status", status);
        xml::node("attachment", &content)
    });
    let v4 = eni.addresses.iter().filter(|address| address.ip.is_ipv4());
    let v4 = v4.map(|a| xml::element("privateIpAddress", a.ip) + &xml::element("primary", a.primary));
    let v6 = eni.addresses.iter().filter(|address| address.ip.is_ipv6());
    let v6 = v6.map(|a| xml::element("ipv6Address", a.ip) + &xml::element("isPrimaryIpv6", false));
    let tags = eni.tags.iter().map(|(key, value)| xml::element("key", key) + &xml::element("value", value));
    let zone = vpc.config.subnets.iter().find(|subnet| subnet.id == eni.subnet).map(|subnet| &subnet.zone);
    [
        xml::element("networkInterfaceId", &eni.id),
        xml::element("subnetId", &eni.subnet),
        xml::element("vpcId", &vpc.config.vpc),
        xml::element("availabilityZone", zone.map_or("", String::as_str)),
        xml::element("description", "pods' addresses"),
        xml::element("ownerId", "111122223333"),
        xml::element("requesterManaged", false),
        xml::element("status", status),
        xml::element("macAddress", &eni.mac),
        xml::element("sourceDestCheck", true),
        xml::element("interfaceType", "interface"),
        attachment.unwrap_or_default(),
        xml::list("tagSet", tags),
        xml::list("privateIpAddressesSet", v4),
        xml::list("ipv6AddressesSet", v6),
    ]
    .concat()
}

/// Answers DescribeSubnets.
pub fn describe_subnets(vpc: &Vpc, asked: &DescribeSubnets) -> Result<String, ApiError> {
    for id in &asked.subnet_id {
        if vpc.config.subnets.iter().all(|subnet| subnet.id != *id) {
            let message = format!("The subnet ID '{id}' does not exist");
            return Err(ApiError::new("InvalidSubnetID.NotFound", message));
        }
    }
    let mut items = Vec::new();
    for subnet in &vpc.config.subnets {
        let mut fits = asked.subnet_id.is_empty() || asked.subnet_id.contains(&subnet.id);
        for filter in &asked.filter {
            let any = |actual: &str| filter.value.iter().any(|value| value == actual);
            fits &= match filter.name.as_str() {
                "vpc-id" => any(&vpc.config.vpc),
                "subnet-id" => any(&subnet.id),
                name => match name.strip_prefix("tag:") {
                    Some(key) => {
                        vpc.subnet_tags.get(&subnet.id).and_then(|it| it.get(key)).is_some_and(|it| any(it))
                    }
                    None => return Err(no_filter(name)),
                },
            };
        }
        if fits {
            items.push(subnet_fields(vpc, subnet));
        }
    }
    Ok(xml::list("subnetSet", items))
}

fn subnet_fields(vpc: &Vpc, subnet: &SubnetConfig) -> String {
    let ipv6 = subnet.cidr_v6.map(|cidr| {
        xml::element("associationId", "subnet-cidr-assoc-lab")
            + &xml::element("ipv6CidrBlock", cidr)
            + &xml::node("ipv6CidrBlockState", &xml::element("state", "associated"))
    });
    [
        xml::element("subnetId", &subnet.id),
        xml::element("state", "available"),
        xml::element("vpcId", &vpc.config.vpc),
        xml::element("cidrBlock", subnet.cidr),
        xml::list("ipv6CidrBlockAssociationSet", ipv6),
        xml::element("availableIpAddressCount", vpc.free(subnet)),
        xml::element("availabilityZone", &subnet.zone),
        xml::element("mapPublicIpOnLaunch", false),
    ]
    .concat()
}

/// Answers DescribeInstanceTypes. A type is named for what it takes: `lab.4x20` has four ENIs of twenty addresses.
pub fn describe_types(asked: &DescribeInstanceTypes) -> Result<String, ApiError> {
    let mut items = Vec::new();
    for name in &asked.instance_type {
        let limits = name.strip_prefix("lab.").and_then(|limits| limits.split_once('x'));
        let Some((enis, addresses)) = limits else {
            let message = format!("The following supplied instance types do not exist: [{name}]");
            return Err(ApiError::new("InvalidInstanceType", message));
        };
        let card = xml::element("networkCardIndex", 0) + &xml::element("maximumNetworkInterfaces", enis);
        let network = xml::element("maximumNetworkInterfaces", enis)
            + &xml::element("maximumNetworkCards", 1)
            + &xml::element("defaultNetworkCardIndex", 0)
            + &xml::list("networkCards", [card])
            + &xml::element("ipv4AddressesPerInterface", addresses)
            + &xml::element("ipv6AddressesPerInterface", addresses)
            + &xml::element("ipv6Supported", true);
        items.push(xml::element("instanceType", name) + &xml::node("networkInfo", &network));
    }
    Ok(xml::list("instanceTypeSet", items))
}
