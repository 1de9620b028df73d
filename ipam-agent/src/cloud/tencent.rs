//! Tencent Cloud's VPC API 3.0.
//!
//! ENIs and their addresses by `vpc`, version 2017-03-12
//! (<https://cloud.tencent.com/document/product/215/15755>): HTTP POST of JSON, signed, most changes being
//! tasks that are asked after until they end.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};

use super::remote::{CloudApi, Configured, Made, Outcome, Remote, Which, Window};
use super::{
    CLUSTER_TAG, CloudError, ConfigError, Described, Goal, MachineLimits, NODE_TAG, NewEni, Pace, Subnet,
    transport,
};

mod client;
mod code;
mod sign;
mod subnets;
mod tasks;
mod wire;

use client::Client;
pub use sign::Credentials;
use wire::{Created, EniLimit, Started};

/// The API's public end.
pub const ENDPOINT: &str = "https://vpc.tencentcloudapi.com";

/// Next hop for IPv6 of every machine, as route tables of Tencent's machines show it; no page of the API names it.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xfeee, 0xffff, 0xfeff, 0xffff);

/// Addresses at the beginning of a subnet that nobody can have: the network's and the gateway's.
const RESERVED: u32 = 2;

/// What the provider must know.
#[derive(Clone, Debug)]
pub struct TencentConfig {
    /// `https://` or `http://` and a host, with a port if need be; [`ENDPOINT`] as a rule.
    pub endpoint: String,
    /// Such as `ap-guangzhou`.
    pub region: String,
    /// Such as `vpc-1a2b3c4d`.
    pub vpc_id: String,
    /// Subnets that ENIs may be created in.
    pub subnet_ids: Vec<String>,
    /// And those that carry this tag, by key and value; they may be tagged and made while the provider runs.
    pub subnet_tag: Option<(String, String)>,
    /// Security groups of new ENIs.
    pub security_groups: Vec<String>,
    /// Next hop for IPv6; [`GATEWAY_V6`] as a rule.
    pub gateway_v6: Ipv6Addr,
    /// The key pair.
    pub credentials: Credentials,
    /// How fast, how often and how long.
    pub pace: Pace,
}

/// The provider.
pub type Tencent = Remote<Vpc>;

impl Tencent {
    /// Calls nothing yet.
    ///
    /// # Errors
    /// A value that cannot be right, with its remedy.
    pub fn new(config: TencentConfig) -> Result<Self, ConfigError> {
        for (field, value, secret) in [
            ("region", &config.region, false),
            ("vpc_id", &config.vpc_id, false),
            ("secret_id", &config.credentials.secret_id, false),
            ("secret_key", &config.credentials.secret_key, true),
        ] {
            transport::required(client::ORIGIN, field, value, secret)?;
        }
        Ok(Self::over(Vpc {
            client: Client::new(&config)?,
            vpc_id: config.vpc_id,
            subnets: Configured::new(config.subnet_ids, config.subnet_tag),
            security_groups: config.security_groups,
            gateway_v6: config.gateway_v6,
        }))
    }
}

/// The VPC API, and what is to be done with it.
pub struct Vpc {
    client: Client,
    vpc_id: String,
    subnets: Configured,
    security_groups: Vec<String>,
    gateway_v6: Ipv6Addr,
}

impl CloudApi for Vpc {
    const BATCH: usize = 10;
    const NAME_BYTES: usize = 60;
    const CREATE: &'static str = "CreateNetworkInterface";

    fn pace(&self) -> &Pace {
        &self.client.pace
    }

    fn action(goal: &Goal<'_>) -> &'static str {
        match goal {
            Goal::Attached { .. } => "AttachNetworkInterface",
            Goal::Detached { .. } => "DetachNetworkInterface",
            Goal::Deleted { .. } => "DeleteNetworkInterface",
            Goal::Holds { .. } if goal.is_ipv6() => "AssignIpv6Addresses",
            Goal::Lacks { .. } if goal.is_ipv6() => "UnassignIpv6Addresses",
            Goal::Holds { .. } => "AssignPrivateIpAddresses",
            Goal::Lacks { .. } => "UnassignPrivateIpAddresses",
            Goal::Moved { .. } => "MigratePrivateIpAddress",
        }
    }

    async fn subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        self.configured_subnets().await
    }

    async fn limits(&self, instance_id: &str, _: Option<&str>) -> Result<Option<MachineLimits>, CloudError> {
        let params = json!({ "InstanceId": instance_id });
        let limit: EniLimit = self.client.read("DescribeNetworkInterfaceLimit", &params).await?;
        // The quotas count the primary ENI, and the primary address of each.
        let secondary = |quota: u32| quota.saturating_sub(1);
        Ok(Some(MachineLimits {
            max_enis: secondary(limit.eni_quantity),
            max_ips_per_eni: secondary(limit.eni_private_ip_address_quantity),
        }))
    }

    async fn describe(&self, which: Which<'_>) -> Result<Vec<Described>, CloudError> {
        let tag = format!("tag:{CLUSTER_TAG}");
        let enis = match which {
            // By filter, not by `NetworkInterfaceIds`: that makes an error of an id that does not exist.
            Which::Ids(ids) => self.client.enis(&[("network-interface-id", ids)]).await?,
            Which::On(instance) => self.client.enis(&[("attachment.instance-id", &[instance])]).await?,
            Which::OfCluster(cluster) => {
                self.client.enis(&[("vpc-id", &[&self.vpc_id]), (&tag, &[cluster])]).await?
            }
            Which::Like(eni) => {
                let filters: [(&str, &[&str]); 4] = [
                    ("vpc-id", &[&self.vpc_id]),
                    ("subnet-id", &[&eni.subnet_id]),
                    ("network-interface-name", &[&eni.name]),
                    (&tag, &[&eni.cluster_id]),
                ];
                self.client.enis(&filters).await?
            }
        };
        Ok(enis.into_iter().map(Described::from).collect())
    }

    async fn create(&self, eni: &NewEni, token: &str, window: Window) -> Result<Made, CloudError> {
        let mut params = json!({
            "VpcId": self.vpc_id,
            "SubnetId": eni.subnet_id,
            "NetworkInterfaceName": eni.name,
            "NetworkInterfaceDescription": "pods' addresses",
            "Tags": [
                { "Key": CLUSTER_TAG, "Value": eni.cluster_id },
                { "Key": NODE_TAG, "Value": eni.node },
            ],
            "ClientToken": token,
        });
        if let Some(ip) = eni.primary_ip {
            params["PrivateIpAddresses"] = json!([{ "PrivateIpAddress": ip, "Primary": true }]);
        }
        if !self.security_groups.is_empty() {
            params["SecurityGroupIds"] = json!(self.security_groups);
        }
        let Created { network_interface: created, request_id } =
            self.client.call(Self::CREATE, &params).await?;
        let fresh = self.client.ended(Self::CREATE, &request_id, window.deadline).await?;
        Ok(Made { id: created.network_interface_id, fresh })
    }

    /// One call, and the end of the task it starts.
    async fn attempt(&self, goal: &Goal<'_>, window: Window) -> Result<Outcome, CloudError> {
        let action = Self::action(goal);
        let Started { request_id } = self.client.call(action, &params(goal)).await?;
        let ended = self.client.ended(action, &request_id, window.deadline).await?;
        // When there is no such task, though the call was answered, what came of it is all there is to see.
        Ok(if ended { Outcome::Done } else { Outcome::Accepted })
    }
}

/// The parameters of the action that reaches a goal.
fn params(goal: &Goal<'_>) -> Value {
    let list = |ips: &[IpAddr], field: &str| ips.iter().map(|ip| json!({ field: ip })).collect::<Vec<_>>();
    match goal {
        Goal::Attached { eni, instance } | Goal::Detached { eni, instance } => {
            json!({ "NetworkInterfaceId": eni, "InstanceId": instance })
        }
        Goal::Deleted { eni } => json!({ "NetworkInterfaceId": eni }),
        Goal::Holds { eni, ips } | Goal::Lacks { eni, ips } if goal.is_ipv6() => {
            json!({ "NetworkInterfaceId": eni, "Ipv6Addresses": list(ips, "Address") })
        }
        Goal::Holds { eni, ips } | Goal::Lacks { eni, ips } => {
            json!({ "NetworkInterfaceId": eni, "PrivateIpAddresses": list(ips, "PrivateIpAddress") })
        }
        Goal::Moved { from, to, ip } => json!({
            "SourceNetworkInterfaceId": from,
            "DestinationNetworkInterfaceId": to,
            "PrivateIpAddress": ip,
        }),
    }
}
