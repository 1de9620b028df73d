//! The configured subnets, by their ids and by a tag.

use std::net::Ipv4Addr;

use super::{Ec2, Form, RESERVED, wire};
use crate::cloud::{CloudError, Subnet, SubnetV6};

const ACTION: &str = "DescribeSubnets";
/// Values that one filter can have.
const FILTER_VALUES: usize = 200;

impl Ec2 {
    /// Those that exist.
    pub(super) async fn configured_subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        let mut found = Vec::new();
        // By filter: a list of ids of which one does not exist is refused whole.
        for ids in self.subnets.ids.chunks(FILTER_VALUES) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            found.extend(self.subnets_by("subnet-id", &ids).await?);
        }
        if let Some((key, value)) = &self.subnets.tag {
            found.extend(self.subnets_by(&format!("tag:{key}"), &[value]).await?);
        }
        let found =
            self.subnets.in_order(found, |subnet| &subnet.subnet_id, ACTION, "InvalidSubnetID.NotFound")?;
        Ok(found.iter().filter_map(|subnet| self.view(subnet)).collect())
    }

    async fn subnets_by(&self, filter: &str, values: &[&str]) -> Result<Vec<wire::Subnet>, CloudError> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let mut form = Form::filters(&[(filter, values)]);
            if !token.is_empty() {
                form = form.with("NextToken", &token);
            }
            let page: wire::Subnets = self.client.read(ACTION, &form).await?;
            found.extend(page.subnet_set.items);
            token = page.next_token;
            if token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Nothing for one of IPv6 alone: an ENI needs an IPv4 address of its own here.
    fn view(&self, subnet: &wire::Subnet) -> Option<Subnet> {
        let cidr = subnet.cidr_block?.trunc();
        Some(Subnet {
            id: subnet.subnet_id.clone(),
            zone: subnet.availability_zone.clone(),
            cidr,
            gateway: Ipv4Addr::from(u32::from(cidr.network()) + 1),
            reserved: RESERVED,
            available: subnet.available_ip_address_count,
            // The API counts no IPv6 addresses: a subnet has more than anybody takes.
            ipv6: subnet.ipv6().map(|cidr| SubnetV6 { cidr, gateway: self.gateway_v6, available: u64::MAX }),
        })
    }
}
