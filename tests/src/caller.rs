//! Who calls the cloud: the product's providers, each by the front door that is made for it.

use std::net::TcpListener;
use std::sync::Arc;

use ipam_agent::cloud::aws::{self, Aws, AwsConfig, Environment};
use ipam_agent::cloud::tencent::{Credentials, Tencent, TencentConfig};
use ipam_agent::cloud::{ConfigError, EniProvider, Pace};

use crate::cloud_server::{CloudServer, GATEWAY_V6, Serving};

/// A front door of the cloud, and the provider that knocks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Tencent Cloud's VPC API 3.0.
    Tencent,
    /// AWS's EC2 API.
    Aws,
}

impl Door {
    /// The first for Tencent Cloud, the second for AWS.
    pub fn pick<T>(self, tencent: T, aws: T) -> T {
        match self {
            Self::Tencent => tencent,
            Self::Aws => aws,
        }
    }

    /// Opens it on a socket.
    ///
    /// # Errors
    /// The socket is not fit for it.
    pub fn open(self, cloud: &CloudServer, listener: TcpListener) -> std::io::Result<Serving> {
        match self {
            Self::Tencent => cloud.serve(listener),
            Self::Aws => cloud.serve_ec2(listener),
        }
    }
}

/// What a provider is told, whatever the cloud.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it knocks.
    pub door: Door,
    /// Where that is.
    pub endpoint: String,
    /// Such as `ap-lab`.
    pub region: String,
    /// Such as `vpc-lab`.
    pub vpc: String,
    /// Subnets that ENIs may be created in.
    pub subnet_ids: Vec<String>,
    /// And those that carry this tag.
    pub subnet_tag: Option<(String, String)>,
    /// Names the key pair.
    pub secret_id: String,
    /// Signs.
    pub secret_key: String,
    /// How fast, how often and how long.
    pub pace: Pace,
}

impl Caller {
    /// Makes the provider.
    ///
    /// # Errors
    /// What it was told cannot be.
    pub fn provider(&self) -> Result<Arc<dyn EniProvider>, ConfigError> {
        let security_groups = vec!["sg-lab".to_owned()];
        Ok(match self.door {
            Door::Tencent => Arc::new(Tencent::new(TencentConfig {
                endpoint: self.endpoint.clone(),
                region: self.region.clone(),
                vpc_id: self.vpc.clone(),
                subnet_ids: self.subnet_ids.clone(),
                subnet_tag: self.subnet_tag.clone(),
                security_groups,
                gateway_v6: GATEWAY_V6,
                credentials: Credentials {
                    secret_id: self.secret_id.clone(),
                    secret_key: self.secret_key.clone(),
                },
                pace: self.pace.clone(),
            })?),
            Door::Aws => {
                let keys =
                    [("AWS_ACCESS_KEY_ID", &self.secret_id), ("AWS_SECRET_ACCESS_KEY", &self.secret_key)];
                let keys = keys.map(|(name, value)| (name.to_owned(), value.clone()));
                Arc::new(self.aws(Environment(keys.into()))?)
            }
        })
    }

    /// Makes the provider for AWS, with credentials from an environment.
    ///
    /// # Errors
    /// What it was told cannot be.
    pub fn aws(&self, environment: Environment) -> Result<Aws, ConfigError> {
        Aws::new(AwsConfig {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            subnet_ids: self.subnet_ids.clone(),
            subnet_tag: self.subnet_tag.clone(),
            security_groups: vec!["sg-lab".to_owned()],
            gateway_v6: aws::GATEWAY_V6,
            environment,
            pace: self.pace.clone(),
        })
    }
}
