//! AWS: the EC2 Query API, version 2016-11-15 (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference>).
//!
//! Not by `aws-sdk-ec2`: that is every action of EC2, minutes of compile time for a dozen of them. Requests are forms
//! and answers XML; signatures and credentials are `reqsign`'s.
//!
//! What AWS does otherwise than the trait's words suggest:
//!
//! * **Moving an address** is AssignPrivateIpAddresses with `AllowReassignment`, which takes it from whoever has it. So
//!   it is only allowed when a Describe shows the address on the ENI that it is to leave. IPv6 has no such thing.
//! * **ENIs outlive their machines**: `DeleteOnTermination` stays off, as AttachNetworkInterface has it. An ENI that went
//!   with its machine would free the addresses that its static pods retain. The controller collects what is left over.
//! * **The source and destination check** stays on: pods use addresses of their own ENI, in and out.
//! * **Gateways**: the VPC's router is the subnet's base + 1, and for IPv6 the link-local address that AWS promises in
//!   every subnet beside the one in its router advertisements ([`GATEWAY_V6`]).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Mutex;

use super::remote::{CloudApi, Configured, Made, Outcome, Remote, Which, Window};
use super::{
    CLUSTER_TAG, CloudError, ConfigError, Described, Goal, MachineLimits, NODE_TAG, NewEni, Pace, Subnet,
    transport,
};

mod change;
mod client;
mod code;
mod credentials;
mod form;
mod limits;
mod subnets;
mod wire;

pub use client::ACTIONS;
use client::Client;
use form::Form;

/// Next hop for IPv6 in every subnet, beside the router's own link-local address
/// (<https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html>).
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0x0ec2, 0, 0, 0, 0, 0, 1);
/// Addresses at the beginning of a subnet that nobody can have: the network's, the router's, the resolver's and one that
/// AWS keeps. The last one is not usable either.
pub const RESERVED: u32 = 4;
/// The tag that a console shows as the name.
const NAME_TAG: &str = "Name";

/// What the provider must know.
#[derive(Clone, Debug)]
pub struct AwsConfig {
    /// `https://` or `http://` and a host, with a port if need be; [`endpoint`] of the region as a rule.
    pub endpoint: String,
    /// Such as `eu-central-1`.
    pub region: String,
    /// Subnets that ENIs may be created in.
    pub subnet_ids: Vec<String>,
    /// And those that carry this tag, by key and value; they may be tagged and made while the provider runs.
    pub subnet_tag: Option<(String, String)>,
    /// Security groups of new ENIs; none: the VPC's default one.
    pub security_groups: Vec<String>,
    /// Next hop for IPv6; [`GATEWAY_V6`] as a rule.
    pub gateway_v6: Ipv6Addr,
    /// Where credentials come from.
    pub environment: Environment,
    /// How fast, how often and how long.
    pub pace: Pace,
}

/// The environment variables that say where credentials come from.
///
/// In this order: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; `AWS_ROLE_ARN` and
/// `AWS_WEB_IDENTITY_TOKEN_FILE` (IRSA), by STS, or `AWS_ENDPOINT_URL_STS` in its place;
/// `AWS_CONTAINER_CREDENTIALS_FULL_URI` (EKS Pod Identity); the machine's role by IMDSv2, at
/// `AWS_EC2_METADATA_SERVICE_ENDPOINT` if that is set. What is temporary is replaced two minutes before it ends.
#[derive(Clone, Default)]
pub struct Environment(pub HashMap<String, String>);

impl Environment {
    /// This process's.
    #[must_use]
    pub fn of_process() -> Self {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self(std::env::vars_os().filter_map(text).filter(|(name, _)| name.starts_with("AWS_")).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The API's public end in a region.
#[must_use]
pub fn endpoint(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://ec2.{region}.amazonaws.com{china}")
}

/// The provider.
pub type Aws = Remote<Ec2>;

impl Aws {
    /// Calls nothing yet.
    ///
    /// # Errors
    /// A value that cannot be right, with its remedy.
    pub fn new(config: AwsConfig) -> Result<Self, ConfigError> {
        transport::required(client::ORIGIN, "region", &config.region, false)?;
        if config.subnet_ids.is_empty() && config.subnet_tag.is_none() {
            return Err(ConfigError {
                origin: client::ORIGIN.into(),
                field: "subnets".into(),
                value: String::new(),
                problem: "no subnet is named; give their ids, or a tag that they carry".into(),
            });
        }
        Ok(Self::over(Ec2 {
            client: Client::new(&config)?,
            subnets: Configured::new(config.subnet_ids, config.subnet_tag),
            security_groups: config.security_groups,
            gateway_v6: config.gateway_v6,
            limits: Mutex::default(),
        }))
    }
}

/// The EC2 API, and what is to be done with it.
pub struct Ec2 {
    client: Client,
    subnets: Configured,
    security_groups: Vec<String>,
    gateway_v6: Ipv6Addr,
    /// By instance type: they never change.
    limits: Mutex<BTreeMap<String, MachineLimits>>,
}

impl CloudApi for Ec2 {
    // No number is given for a call. An ENI of the largest machines has 50.
    const BATCH: usize = 50;
    // Of a tag's value.
    const NAME_BYTES: usize = 255;
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
            Goal::Holds { .. } | Goal::Moved { .. } => "AssignPrivateIpAddresses",
            Goal::Lacks { .. } => "UnassignPrivateIpAddresses",
        }
    }

    async fn subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        self.configured_subnets().await
    }

    async fn limits(
        &self,
        _: &str,
        instance_type: Option<&str>,
    ) -> Result<Option<MachineLimits>, CloudError> {
        match instance_type {
            Some(instance_type) => self.limits_of_type(instance_type).await.map(Some),
            // Without the label, asking for the machine would need a right that nothing else needs.
            None => Ok(None),
        }
    }

    async fn describe(&self, which: Which<'_>) -> Result<Vec<Described>, CloudError> {
        let cluster_tag = format!("tag:{CLUSTER_TAG}");
        let enis = match which {
            Which::Ids(ids) => self.by_ids(ids).await?,
            Which::On(instance) => {
                let mut enis = self.enis(&[("attachment.instance-id", &[instance])]).await?;
                enis.retain(wire::Eni::is_plain);
                enis
            }
            Which::OfCluster(cluster) => self.enis(&[(&cluster_tag, &[cluster])]).await?,
            Which::Like(eni) => {
                let name_tag = format!("tag:{NAME_TAG}");
                let filters: [(&str, &[&str]); 3] = [
                    ("subnet-id", &[&eni.subnet_id]),
                    (&name_tag, &[&eni.name]),
                    (&cluster_tag, &[&eni.cluster_id]),
                ];
                self.enis(&filters).await?
            }
        };
        Ok(enis.into_iter().map(Described::from).collect())
    }

    async fn create(&self, eni: &NewEni, token: &str, _: Window) -> Result<Made, CloudError> {
        let tags = [(NAME_TAG, &eni.name), (CLUSTER_TAG, &eni.cluster_id), (NODE_TAG, &eni.node)];
        let mut form = Form::default()
            .with("SubnetId", &eni.subnet_id)
            .with("Description", "pods' addresses")
            .with("ClientToken", token)
            .list("SecurityGroupId", &self.security_groups)
            .with("TagSpecification.1.ResourceType", "network-interface");
        if let Some(ip) = eni.primary_ip {
            form = form.with("PrivateIpAddress", ip);
        }
        for (index, (key, value)) in tags.into_iter().enumerate() {
            let at = format!("TagSpecification.1.Tag.{}", index + 1);
            form = form.with(format!("{at}.Key"), key).with(format!("{at}.Value"), value);
        }
        let made: wire::Created = self.client.call(Self::CREATE, &form).await?;
        // The token may have found one that was made before, and deleted since: nothing in the answer says so.
        Ok(Made { id: made.network_interface.network_interface_id, fresh: false })
    }

    async fn attempt(&self, goal: &Goal<'_>, window: Window) -> Result<Outcome, CloudError> {
        self.make(goal, window).await
    }
}
