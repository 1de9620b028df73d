//! What the provider for AWS must know.

use std::net::Ipv6Addr;
use std::time::Duration;

use clap::Args;

use super::{given, tag};
use crate::cloud::aws::{self, Aws, AwsConfig, Environment};
use crate::cloud::{ConfigError, Pace};

/// AWS. Credentials come from the environment or from the machine's role: `cloud::aws::Environment`.
#[derive(Debug, Args)]
pub struct AwsArgs {
    /// aws: region, such as eu-central-1.
    #[arg(long, env = "AWS_REGION", default_value = "")]
    pub(super) aws_region: String,
    /// aws: URL of the EC2 API; the region's own unless told otherwise.
    #[arg(long, default_value = "")]
    aws_endpoint: String,
    /// aws: subnets that ENIs may be created in, with commas between them.
    #[arg(long, value_delimiter = ',')]
    aws_subnets: Vec<String>,
    /// aws: subnets that carry this tag are used too, also those tagged later.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    aws_subnet_tag: Option<(String, String)>,
    /// aws: security groups of new ENIs, with commas between them; none: the VPC's default one.
    #[arg(long, value_delimiter = ',')]
    aws_security_groups: Vec<String>,
    /// aws: next hop of the subnets' machines for IPv6.
    #[arg(long, default_value_t = aws::GATEWAY_V6)]
    aws_gateway_ipv6: Ipv6Addr,
    /// aws: the longest that a Describe may lag behind what was done before it.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    aws_settle: Duration,
    /// aws: time between two looks at what has begun and not ended.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    aws_poll: Duration,
}

impl AwsArgs {
    pub fn provider(&self) -> Result<Aws, ConfigError> {
        let endpoint = match self.aws_endpoint.as_str() {
            "" => aws::endpoint(&self.aws_region),
            endpoint => endpoint.to_owned(),
        };
        Aws::new(AwsConfig {
            endpoint,
            region: self.aws_region.clone(),
            subnet_ids: given(&self.aws_subnets),
            subnet_tag: self.aws_subnet_tag.clone(),
            security_groups: given(&self.aws_security_groups),
            gateway_v6: self.aws_gateway_ipv6,
            environment: Environment::of_process(),
            pace: Pace { settle: self.aws_settle, poll: self.aws_poll, ..Pace::default() },
        })
    }
}
