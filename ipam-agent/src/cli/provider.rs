//! Which cloud the controller speaks to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::cloud::EniProvider;
use crate::cloud::fixed::Fixed;
use crate::cloud::tencent::{self, Credentials, Pace, Tencent, TencentConfig};

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
    /// tencent: security groups of new ENIs, with commas between them.
    #[arg(long, value_delimiter = ',')]
    tencent_security_groups: Vec<String>,
    /// tencent: the longest that a Describe may lag behind what was done before it.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    tencent_settle: Duration,
    /// tencent: time between two looks at a running task.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    tencent_poll: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Provider {
    /// A file: bare metal.
    Fixed,
    /// Tencent Cloud; credentials come from TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY.
    Tencent,
}

impl ProviderArgs {
    /// Makes the provider; nothing is called yet.
    pub fn provider(&self) -> anyhow::Result<Arc<dyn EniProvider>> {
        match self.provider {
            Provider::Fixed => Ok(Arc::new(Fixed::load(&self.eni_file)?)),
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
                    subnet_ids: self.tencent_subnets.clone(),
                    security_groups: self
                        .tencent_security_groups
                        .iter()
                        .filter(|id| !id.is_empty())
                        .cloned()
                        .collect(),
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
