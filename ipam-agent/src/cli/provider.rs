//! Which cloud the controller speaks to.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::cloud::fixed::Fixed;
use crate::cloud::tencent::{self, Credentials, Tencent, TencentConfig};
use crate::cloud::{EniProvider, Pace};

mod aws;

/// A provider and what it must know.
#[derive(Debug, Args)]
pub struct ProviderArgs {
    /// Where ENIs and addresses come from.
    #[arg(long, value_enum, default_value_t = Provider::Fixed)]
    provider: Provider,
    /// fixed: TOML file that lists subnets, ENIs and their addresses.
    #[arg(long, value_name = "FILE", default_value = "/etc/eni-ipam/enis.toml")]
    eni_file: PathBuf,
    /// tencent: URL of the VPC API.
    #[arg(long, default_value = tencent::ENDPOINT)]
    tencent_endpoint: String,
    /// tencent: region, such as ap-guangzhou.
    #[arg(long, default_value = "")]
    tencent_region: String,
    /// tencent: the VPC.
    #[arg(long, default_value = "")]
    tencent_vpc: String,
    /// tencent: subnets that ENIs may be created in, with commas between them.
    #[arg(long, value_delimiter = ',')]
    tencent_subnets: Vec<String>,
    /// tencent: subnets of the VPC that carry this tag are used too, also those tagged later.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    tencent_subnet_tag: Option<(String, String)>,
    /// tencent: security groups of new ENIs, with commas between them.
    #[arg(long, value_delimiter = ',')]
    tencent_security_groups: Vec<String>,
    /// tencent: next hop of the subnets' machines for IPv6.
    #[arg(long, default_value_t = tencent::GATEWAY_V6)]
    tencent_gateway_ipv6: Ipv6Addr,
    /// tencent: the longest that a Describe may lag behind what was done before it.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    tencent_settle: Duration,
    /// tencent: time between two looks at a running task.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    tencent_poll: Duration,
    #[command(flatten)]
    aws: aws::AwsArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Provider {
    /// A file: bare metal.
    Fixed,
    /// Tencent Cloud; credentials come from TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY.
    Tencent,
    /// AWS; credentials come from the environment (keys, IRSA, EKS Pod Identity) or the machine's role.
    Aws,
}

/// The ids of a list: an empty setting is one of none.
fn given(ids: &[String]) -> Vec<String> {
    ids.iter().filter(|id| !id.is_empty()).cloned().collect()
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write a tag as KEY=VALUE".into()),
    }
}

impl ProviderArgs {
    /// Whether what the provider needs was given.
    ///
    /// # Errors
    /// The flag that is missing.
    pub fn check(&self) -> Result<(), String> {
        let needed: &[(&str, &String)] = match self.provider {
            Provider::Fixed => &[],
            Provider::Aws => &[("--aws-region", &self.aws.aws_region)],
            Provider::Tencent => {
                &[("--tencent-region", &self.tencent_region), ("--tencent-vpc", &self.tencent_vpc)]
            }
        };
        match needed.iter().find(|(_, value)| value.trim().is_empty()) {
            None => Ok(()),
            Some((flag, _)) => Err(format!("{flag}: this provider needs it; write its value")),
        }
    }

    /// Makes the provider; nothing is called yet.
    pub fn provider(&self) -> anyhow::Result<Arc<dyn EniProvider>> {
        match self.provider {
            Provider::Fixed => Ok(Arc::new(Fixed::load(&self.eni_file)?)),
            Provider::Aws => Ok(Arc::new(self.aws.provider()?)),
            Provider::Tencent => {
                let secret = |name: &str| {
                    std::env::var(name).with_context(|| {
                        format!("{name} is not set; the key pair comes from the environment")
                    })
                };
                Ok(Arc::new(Tencent::new(TencentConfig {
                    endpoint: self.tencent_endpoint.clone(),
                    region: self.tencent_region.clone(),
                    vpc_id: self.tencent_vpc.clone(),
                    subnet_ids: given(&self.tencent_subnets),
                    subnet_tag: self.tencent_subnet_tag.clone(),
                    security_groups: given(&self.tencent_security_groups),
                    gateway_v6: self.tencent_gateway_ipv6,
                    credentials: Credentials {
                        secret_id: secret("TENCENTCLOUD_SECRET_ID")?,
                        secret_key: secret("TENCENTCLOUD_SECRET_KEY")?,
                    },
                    pace: Pace { settle: self.tencent_settle, poll: self.tencent_poll, ..Pace::default() },
                })?))
            }
        }
    }
}
