//! Tencent Cloud's VPC API 3.0.
//!
//! ENIs and their addresses by `vpc`, version 2017-03-12
//! (<https://cloud.tencent.com/document/product/215/15755>): HTTP POST of JSON, signed, most changes being
//! tasks that are asked after until they end.

use std::net::{IpAddr, Ipv4Addr};

use futures::future::BoxFuture;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, sleep_until};

use super::{CloudError, CloudErrorKind, ConfigError, EniInfo, EniProvider, NewEni, Subnet};

mod client;
mod code;
mod goal;
mod reach;
mod sign;
mod wire;

use client::Client;
pub use client::Pace;
use goal::Goal;
pub use sign::Credentials;
use wire::{Created, Eni, EniState, Subnets};

/// The API's public end.
pub const ENDPOINT: &str = "https://vpc.tencentcloudapi.com";
/// The tag that names an ENI's cluster.
pub const CLUSTER_TAG: &str = "eni-ipam.dev/cluster";

/// Addresses in one AssignPrivateIpAddresses or UnassignPrivateIpAddresses, at most.
const BATCH: usize = 10;
const CREATE: &str = "CreateNetworkInterface";
/// An ENI's name, at most.
const NAME_BYTES: usize = 60;
/// How many ENIs of one name may have been created and deleted before.
const GENERATIONS: u32 = 8;

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
    /// Security groups of new ENIs.
    pub security_groups: Vec<String>,
    /// The key pair.
    pub credentials: Credentials,
    /// How fast, how often and how long.
    pub pace: Pace,
}

/// The provider.
pub struct Tencent {
    client: Client,
    vpc_id: String,
    subnet_ids: Vec<String>,
    security_groups: Vec<String>,
}

impl Tencent {
    /// Calls nothing yet.
    ///
    /// # Errors
    /// A value that cannot be right, with its remedy.
    pub fn new(config: TencentConfig) -> Result<Self, ConfigError> {
        let required = [
            ("region", &config.region),
            ("vpc_id", &config.vpc_id),
            ("secret_id", &config.credentials.secret_id),
            ("secret_key", &config.credentials.secret_key),
        ];
        for (field, value) in required {
            if value.trim().is_empty() || value.trim() != value {
                return Err(ConfigError {
                    origin: "tencent".into(),
                    field: field.into(),
                    value: if field == "secret_key" { "(hidden)".into() } else { value.clone() },
                    problem: "it is empty or has blanks around it; write the value alone".into(),
                });
            }
        }
        Ok(Self {
            client: Client::new(&config)?,
            vpc_id: config.vpc_id,
            subnet_ids: config.subnet_ids,
            security_groups: config.security_groups,
        })
    }

    async fn subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        const ACTION: &str = "DescribeSubnets";
        let mut found = Vec::new();
        // The largest page is 100, so that each hundred of ids is one page. Here the API takes text for a
        // number.
        for ids in self.subnet_ids.chunks(100) {
            let params = json!({ "SubnetIds": ids, "Offset": "0", "Limit": "100" });
            found.extend(self.client.read::<Subnets>(ACTION, &params).await?.subnet_set);
        }
        let subnet = |id: &String| {
            let subnet = found.iter().find(|subnet| subnet.subnet_id == *id).ok_or_else(|| CloudError {
                kind: CloudErrorKind::NotFound,
                action: ACTION,
                code: "ResourceNotFound".into(),
                message: format!("{id} of the configured subnets does not exist; correct the list"),
                request_id: None,
            })?;
            let cidr = subnet.cidr_block.trunc();
            // The first address of a subnet is its gateway; the second and the last are reserved too.
            let gateway = Ipv4Addr::from(u32::from(cidr.network()) + 1);
            Ok(Subnet {
                id: id.clone(),
                zone: subnet.zone.clone(),
                cidr,
                gateway,
                available: subnet.available_ip_address_count,
            })
        };
        self.subnet_ids.iter().map(subnet).collect()
    }

    async fn list(&self, filters: &[(&str, &[&str])]) -> Result<Vec<EniInfo>, CloudError> {
        Ok(self.client.enis(filters).await?.into_iter().map(EniInfo::from).collect())
    }

    /// The ENI is found by its name when an earlier call created it. Until a Describe shows it, the client
    /// token makes the cloud itself answer with the same ENI.
    async fn create_eni(&self, eni: &NewEni) -> Result<EniInfo, CloudError> {
        if eni.name.is_empty() || eni.name.len() > NAME_BYTES {
            let message = format!("the name {:?} must have 1 to {NAME_BYTES} bytes", eni.name);
            return Err(invalid(CREATE, message));
        }
        let mut params = json!({
            "VpcId": self.vpc_id,
            "SubnetId": eni.subnet_id,
            "NetworkInterfaceName": eni.name,
            "NetworkInterfaceDescription": "pods' addresses",
            "Tags": [{ "Key": CLUSTER_TAG, "Value": eni.cluster_id }],
        });
        if !self.security_groups.is_empty() {
            params["SecurityGroupIds"] = json!(self.security_groups);
        }
        for generation in 0..GENERATIONS {
            params["ClientToken"] = json!(client_token(eni, generation));
            let began = Instant::now();
            let (id, fresh) = self.create_once(eni, &params, began).await?;
            if !fresh {
                // One that an earlier call made. A Describe may show it, and a token name it, after its end.
                sleep_until(began + self.client.pace.settle).await;
            }
            if let Some(eni) = self.created(&id, began).await? {
                return Ok(eni);
            }
        }
        let message = format!("{GENERATIONS} ENIs named {:?} came and went; choose another name", eni.name);
        Err(invalid(CREATE, message))
    }

    /// The id of the ENI with this name, and whether it was made just now.
    async fn create_once(
        &self,
        eni: &NewEni,
        params: &serde_json::Value,
        began: Instant,
    ) -> Result<(String, bool), CloudError> {
        let (settled, deadline) = (began + self.client.pace.settle, began + self.client.pace.deadline);
        let mut pauses = self.client.pace.pauses();
        loop {
            if let Some(found) = self.by_name(eni).await? {
                return Ok((found.network_interface_id, false));
            }
            let error = match self.client.call::<Created>(CREATE, params).await {
                Ok(Created { network_interface: eni, request_id }) => {
                    let fresh = self.client.ended(CREATE, &request_id, deadline).await?;
                    return Ok((eni.network_interface_id, fresh));
                }
                Err(error) => error,
            };
            if error.kind == CloudErrorKind::Unauthorized {
                return Err(error);
            }
            if !error.kind.is_transient() || Instant::now() >= deadline {
                // An earlier attempt may have happened, and even be what this one is refused for.
                sleep_until(settled).await;
                let found = self.by_name(eni).await.ok().flatten().ok_or(error)?;
                return Ok((found.network_interface_id, false));
            }
            sleep(pauses.next().unwrap_or(self.client.pace.backoff.1)).await;
        }
    }

    async fn by_name(&self, eni: &NewEni) -> Result<Option<Eni>, CloudError> {
        let tag = format!("tag:{CLUSTER_TAG}");
        let filters: [(&str, &[&str]); 4] = [
            ("vpc-id", &[&self.vpc_id]),
            ("subnet-id", &[&eni.subnet_id]),
            ("network-interface-name", &[&eni.name]),
            (&tag, &[&eni.cluster_id]),
        ];
        let enis = self.client.enis(&filters).await?;
        // The filter on names may match more than the whole name.
        Ok(enis
            .into_iter()
            .find(|found| found.network_interface_name == eni.name && found.state != EniState::Deleting))
    }

    /// Waits until the ENI can be attached; nothing when it does not exist.
    async fn created(&self, id: &str, began: Instant) -> Result<Option<EniInfo>, CloudError> {
        loop {
            let eni = self.client.enis_by_id(&[id]).await?.pop();
            match eni {
                Some(eni) if eni.state == EniState::Deleting => return Ok(None),
                Some(eni) if eni.state != EniState::Pending && eni.primary_ip().is_some() => {
                    return Ok(Some(eni.into()));
                }
                None if began.elapsed() >= self.client.pace.settle => return Ok(None),
                _ if began.elapsed() >= self.client.pace.deadline => {
                    return Err(CloudError {
                        kind: CloudErrorKind::Unavailable,
                        action: CREATE,
                        code: "Timeout".into(),
                        message: format!("{id} is still being created"),
                        request_id: None,
                    });
                }
                _ => sleep(self.client.pace.poll).await,
            }
        }
    }

    async fn detach_eni(&self, eni: &str) -> Result<(), CloudError> {
        // The action wants to know the machine. A Describe that shows none is believed when it has settled.
        let began = Instant::now();
        loop {
            let described = self.client.enis_by_id(&[eni]).await?;
            if let Some(instance) = described.first().and_then(Eni::instance) {
                return self.client.reach(&Goal::Detached { eni, instance }).await;
            }
            if began.elapsed() >= self.client.pace.settle {
                return Ok(());
            }
            sleep(self.client.pace.poll).await;
        }
    }

    /// Reaches a goal for addresses in batches. A batch is refused whole for one of its addresses, or for
    /// what a lost answer did for some: then it goes on with the others, one at a time.
    async fn reach_ips<'a>(
        &self,
        ips: &'a [Ipv4Addr],
        goal: impl Fn(&'a [Ipv4Addr]) -> Goal<'a>,
    ) -> Result<(), CloudError> {
        for batch in ips.chunks(BATCH) {
            match self.client.reach(&goal(batch)).await {
                Err(error) if batch.len() > 1 && divisible(error.kind) => {
                    // A refusal comes after the time to settle: this Describe can be believed.
                    let enis = self.client.enis_by_id(&goal(batch).enis()).await?;
                    for ip in batch.chunks(1).filter(|ip| !goal(ip).is_reached(&enis)) {
                        self.client.reach(&goal(ip)).await.map_err(|error| about(ip, error))?;
                    }
                }
                done => done.map_err(|error| about(batch, error))?,
            }
        }
        Ok(())
    }
}

/// Whether a part of the batch may fare better.
fn divisible(kind: CloudErrorKind) -> bool {
    use CloudErrorKind::{AddressInUse, Invalid, IpLimit, NotFound, SubnetExhausted};
    matches!(kind, AddressInUse | Invalid | IpLimit | NotFound | SubnetExhausted)
}

fn about(ips: &[Ipv4Addr], mut error: CloudError) -> CloudError {
    let ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    error.message = format!("{ips}: {}", error.message);
    error
}

fn client_token(eni: &NewEni, generation: u32) -> String {
    let text = format!("{}\n{}\n{}\n{generation}", eni.cluster_id, eni.subnet_id, eni.name);
    hex::encode(&Sha256::digest(text)[..16])
}

fn invalid(action: &'static str, message: String) -> CloudError {
    CloudError {
        kind: CloudErrorKind::Invalid,
        action,
        code: "InvalidParameterValue".into(),
        message,
        request_id: None,
    }
}

fn ipv4(action: &'static str, ip: &IpAddr) -> Result<Ipv4Addr, CloudError> {
    match ip {
        IpAddr::V4(ip) => Ok(*ip),
        IpAddr::V6(_) => {
            Err(invalid(action, format!("{ip} is IPv6, which has actions of its own: use IPv4")))
        }
    }
}

impl EniProvider for Tencent {
    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>> {
        Box::pin(self.subnets())
    }

    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        Box::pin(async move { self.list(&[("attachment.instance-id", &[instance_id])]).await })
    }

    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        Box::pin(async move {
            let tag = format!("tag:{CLUSTER_TAG}");
            self.list(&[("vpc-id", &[&self.vpc_id]), (&tag, &[cluster_id])]).await
        })
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>> {
        Box::pin(self.create_eni(eni))
    }

    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(
            async move { self.client.reach(&Goal::Attached { eni: eni_id, instance: instance_id }).await },
        )
    }

    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.detach_eni(eni_id))
    }

    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move { self.client.reach(&Goal::Deleted { eni: eni_id }).await })
    }

    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move {
            let ips: Vec<_> =
                ips.iter().map(|ip| ipv4("AssignPrivateIpAddresses", ip)).collect::<Result<_, _>>()?;
            self.reach_ips(&ips, |ips| Goal::Holds { eni: eni_id, ips }).await
        })
    }

    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move {
            let ips: Vec<_> =
                ips.iter().map(|ip| ipv4("UnassignPrivateIpAddresses", ip)).collect::<Result<_, _>>()?;
            self.reach_ips(&ips, |ips| Goal::Lacks { eni: eni_id, ips }).await
        })
    }

    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move {
            let ip = ipv4("MigratePrivateIpAddress", &ip)?;
            let goal = Goal::Moved { from: from_eni, to: to_eni, ip };
            self.client.reach(&goal).await.map_err(|error| about(&[ip], error))
        })
    }
}
