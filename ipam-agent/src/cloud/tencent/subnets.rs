//! The configured subnets, by their ids and by a tag.

use std::net::Ipv4Addr;

use serde_json::json;

use super::{
    RESERVED, Vpc,
    wire::{self, Subnets},
};
use crate::cloud::{CloudError, Subnet, SubnetV6};

impl Vpc {
    /// All subnets of the VPC are read: the action refuses a list of ids of which one does not exist.
    pub(super) async fn configured_subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        const ACTION: &str = "DescribeSubnets";
        let mut found = Vec::new();
        loop {
            // Here the API takes text for a number.
            let params = json!({
                "Filters": [{ "Name": "vpc-id", "Values": [self.vpc_id] }],
                "Offset": found.len().to_string(),
                "Limit": "100",
            });
            let page: Subnets = self.client.read(ACTION, &params).await?;
            let ended = page.subnet_set.is_empty();
            found.extend(page.subnet_set);
            if ended || found.len() as u64 >= page.total_count {
                break;
            }
        }
        found.retain(|subnet| self.is_ours(subnet));
        let found = self.subnets.in_order(found, |subnet| &subnet.subnet_id, ACTION, "ResourceNotFound")?;
        Ok(found.into_iter().map(|subnet| self.view(subnet)).collect())
    }

    fn is_ours(&self, subnet: &wire::Subnet) -> bool {
        let tagged = |(key, value): &(String, String)| {
            subnet.tag_set.iter().any(|tag| tag.key == *key && tag.value == *value)
        };
        self.subnets.ids.contains(&subnet.subnet_id) || self.subnets.tag.as_ref().is_some_and(tagged)
    }

    fn view(&self, subnet: wire::Subnet) -> Subnet {
        let cidr = subnet.cidr_block.trunc();
        Subnet {
            id: subnet.subnet_id,
            zone: subnet.zone,
            cidr,
            gateway: Ipv4Addr::from(u32::from(cidr.network()) + 1),
            reserved: RESERVED,
            available: subnet.available_ip_address_count,
            // The API counts no IPv6 addresses: a subnet has more than anybody takes.
            ipv6: subnet.ipv6_cidr_block.map(|cidr| SubnetV6 {
                cidr: cidr.trunc(),
                gateway: self.gateway_v6,
                available: u64::MAX,
            }),
        }
    }
}
