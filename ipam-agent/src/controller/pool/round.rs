//! What one round of a node sees, and its choices.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tracing::{info, warn};

use super::super::context::Context;
use super::super::error::ReconcileError;
use super::super::write;
use super::{NotPlaced, PlaceRequest};
use crate::api::condition::reason;
use crate::api::{
    EniState, EniStatus, IpPhase, NodeENIConfig, NodeENIConfigStatus, VpcIP, VpcIPSpec, VpcIPType,
};
use crate::cloud::{CloudErrorKind, EniCloudState, EniInfo, NewEni, Subnet};
use crate::ipam::pool::{EniView, NodeView, Placement, SubnetView, Wish, place};

/// A node, its ENIs and the subnets, as seen at the beginning and changed by this round.
pub struct Round<'a> {
    node: &'a str,
    context: &'a Context,
    config: NodeENIConfig,
    subnets: Vec<Subnet>,
    enis: Vec<EniInfo>,
    taken: BTreeSet<Ipv4Addr>,
    /// The last error of creating or attaching an ENI.
    message: String,
}

/// An address and the ENI that shall carry it.
pub struct Chosen {
    /// The address, as last written.
    pub ip: VpcIP,
    /// The same.
    pub address: Ipv4Addr,
    /// The ENI.
    pub eni_id: String,
    /// The ENI that the address must be taken from.
    pub from_eni: Option<String>,
    /// The cloud says that the address is on the ENI already.
    pub is_there: bool,
    /// Nobody has been told of the address: another would do.
    pub can_be_replaced: bool,
}

impl<'a> Round<'a> {
    /// Looks at the node: one call for the subnets, one for the ENIs.
    pub async fn begin(node: &'a str, context: &'a Context) -> Result<Self, NotPlaced> {
        let config = match context.stores.configs.get(&ObjectRef::new(node)) {
            Some(config) => (*config).clone(),
            None => write::live(&context.configs(), node).await?.ok_or_else(|| {
                NotPlaced::new(reason::NODE_UNKNOWN, format!("node {node} has no NodeENIConfig yet"))
            })?,
        };
        let (subnets, enis) =
            tokio::join!(context.provider.subnets(), context.provider.enis_of(&config.spec.instance_id));
        let mut round = Self {
            node,
            context,
            config,
            subnets: subnets?,
            enis: enis?,
            taken: BTreeSet::new(),
            message: String::new(),
        };
        let on_their_way: Vec<String> = round
            .enis
            .iter()
            .filter(|eni| eni.state == EniCloudState::Attaching)
            .map(|eni| eni.id.clone())
            .collect();
        for eni in on_their_way {
            // An earlier controller asked for it and did not live to see it arrive.
            round.attach(&eni).await?;
        }
        round
            .taken
            .extend(context.stores.ips.state().iter().filter_map(|ip| ip.spec.ip.parse::<Ipv4Addr>().ok()));
        round
            .taken
            .extend(round.enis.iter().flat_map(|eni| eni.secondary_ips.iter().chain([&eni.primary_ip])));
        round.publish().await;
        Ok(round)
    }

    /// Chooses ENI and address, creates what is missing of both, and makes sure by a write that no other
    /// controller is at it.
    pub async fn choose(&mut self, request: &PlaceRequest) -> Result<Chosen, NotPlaced> {
        let held = match &request.ip {
            Some(ip) => Some(parse_ipv4(&ip.spec.ip)?),
            None => None,
        };
        let nominated_ip = request.nominated_ip.as_deref().map(parse_ipv4).transpose()?;
        let wish = Wish { held, nominated_ip, subnets: request.nominated_subnets.clone() };
        loop {
            match place(&self.view(), &self.subnet_views(), &self.taken, &wish, rand::random()) {
                Err(shortage) => return Err(shortage.into()),
                Ok(Placement::NewEni { subnet_id }) => self.add_eni(subnet_id).await?,
                Ok(Placement::OnEni { eni_id, subnet_id, ip: address }) => {
                    let is_there =
                        self.enis.iter().any(|eni| eni.id == eni_id && eni.secondary_ips.contains(&address));
                    let chosen = match &request.ip {
                        Some(ip) => self.claim_held(ip, address, eni_id.clone(), is_there).await?,
                        None => match self.claim_free(request, address, subnet_id).await? {
                            Some(ip) => Chosen {
                                ip,
                                address,
                                eni_id: eni_id.clone(),
                                from_eni: None,
                                is_there,
                                can_be_replaced: nominated_ip.is_none(),
                            },
                            None => {
                                // Somebody was faster; the cache will show it soon.
                                self.taken.insert(address);
                                continue;
                            }
                        },
                    };
                    self.taken.insert(address);
                    if let Some(eni) = self.enis.iter_mut().find(|eni| eni.id == eni_id && !is_there) {
                        eni.secondary_ips.push(address);
                    }
                    return Ok(chosen);
                }
            }
        }
    }

    /// Takes a free address by creating its object; `None` when it is not free.
    async fn claim_free(
        &self,
        request: &PlaceRequest,
        address: Ipv4Addr,
        subnet_id: String,
    ) -> Result<Option<VpcIP>, NotPlaced> {
        let spec = VpcIPSpec {
            type_: VpcIPType::Pod,
            ip: address.to_string(),
            subnet_id,
            claim_ref: Some(request.claim.clone()),
        };
        let created = write::create(&self.context.ips(), &new_ip(address, spec)).await?;
        if created.is_some() {
            self.context.remember_created(&request.claim.uid, Some(VpcIP::name_of(address.into())));
        }
        Ok(created)
    }

    /// A held address that must move, or go back on an ENI, is marked first: a controller that was replaced
    /// meanwhile fails here and not in the cloud.
    async fn claim_held(
        &self,
        ip: &VpcIP,
        address: Ipv4Addr,
        eni_id: String,
        is_there: bool,
    ) -> Result<Chosen, NotPlaced> {
        let status = ip.state();
        let ip = if is_there {
            ip.clone()
        } else {
            write::status(&self.context.ips(), ip, |ip| {
                ip.status.get_or_insert_default().phase = IpPhase::Attaching;
            })
            .await?
        };
        Ok(Chosen {
            ip,
            address,
            from_eni: status.eni_id.filter(|from| *from != eni_id),
            eni_id,
            is_there,
            can_be_replaced: false,
        })
    }

    /// Creates an ENI in a subnet and attaches it to the node.
    async fn add_eni(&mut self, subnet_id: String) -> Result<(), NotPlaced> {
        let created = self.create_eni(&subnet_id).await;
        match created {
            Ok(()) => {
                self.message.clear();
                Ok(())
            }
            Err(error) => {
                self.message.clone_from(&error.message);
                self.publish().await;
                Err(error)
            }
        }
    }

    async fn create_eni(&mut self, subnet_id: &str) -> Result<(), NotPlaced> {
        let provider = &self.context.provider;
        let cluster_id = &self.context.config.cluster_id;
        let mut number = 1;
        let eni = loop {
            // The name is the token that finds an ENI which an earlier, lost answer created.
            let name = format!("{cluster_id}-{}-{number}", self.node);
            let wanted = NewEni { name, subnet_id: subnet_id.to_owned(), cluster_id: cluster_id.clone() };
            let eni = provider.create_eni(&wanted).await?;
            if self.enis.iter().all(|known| known.id != eni.id) {
                break eni;
            }
            number += 1;
        };
        info!(node = self.node, eni = eni.id, subnet_id, "created an ENI");
        if let Err(error) = self.attach(&eni.id).await {
            if error.reason == reason::ENI_LIMIT
                && let Err(error) = provider.delete_eni(&eni.id).await
            {
                warn!(eni = eni.id, %error, "not deleted");
            }
            return Err(error);
        }
        // The cloud may not list it yet.
        if self.enis.iter().all(|known| known.id != eni.id) {
            let instance_id = Some(self.config.spec.instance_id.clone());
            self.taken.insert(eni.primary_ip);
            self.enis.push(EniInfo { state: EniCloudState::Attached, instance_id, ..eni });
        }
        Ok(())
    }

    async fn attach(&mut self, eni_id: &str) -> Result<(), NotPlaced> {
        let instance = &self.config.spec.instance_id;
        self.context.provider.attach_eni(eni_id, instance).await?;
        if let Some(eni) = self.enis.iter_mut().find(|eni| eni.id == eni_id) {
            eni.state = EniCloudState::Attached;
        }
        info!(node = self.node, eni = eni_id, "attached an ENI");
        Ok(())
    }

    /// Writes what the node has: the agent brings up the ENIs it finds there. What cannot be written now is
    /// written by the next round.
    pub async fn publish(&mut self) {
        let status = NodeENIConfigStatus {
            eni_count: u32::try_from(self.pod_enis().count()).unwrap_or(u32::MAX),
            enis: self.pod_enis().filter_map(|eni| self.eni_status(eni)).collect(),
            message: self.message.clone(),
        };
        match write::status(&self.context.configs(), &self.config, |config| config.status = Some(status))
            .await
        {
            Ok(config) => self.config = config,
            Err(error) => {
                if !error.is_conflict() {
                    warn!(node = self.node, %error, "status of the node not written");
                }
                if let Ok(Some(config)) = write::live(&self.context.configs(), self.node).await {
                    self.config = config;
                }
            }
        }
        for eni in self.pod_enis() {
            if let Err(error) = self.record_primary(eni).await {
                warn!(eni = eni.id, %error, "primary address not recorded");
            }
        }
    }

    /// An ENI's primary address has an object too: it is taken, and counted.
    async fn record_primary(&self, eni: &EniInfo) -> Result<(), ReconcileError> {
        let name = VpcIP::name_of(eni.primary_ip.into());
        if self.context.stores.ips.get(&ObjectRef::new(&name)).is_some() {
            return Ok(());
        }
        let spec = VpcIPSpec {
            type_: VpcIPType::Eni,
            ip: eni.primary_ip.to_string(),
            subnet_id: eni.subnet_id.clone(),
            claim_ref: None,
        };
        if let Some(created) = write::create(&self.context.ips(), &new_ip(eni.primary_ip, spec)).await? {
            write::status(&self.context.ips(), &created, |ip| {
                let status = ip.status.get_or_insert_default();
                status.phase = IpPhase::Bound;
                status.eni_id = Some(eni.id.clone());
                status.node_name = Some(self.node.to_owned());
            })
            .await?;
        }
        Ok(())
    }

    fn pod_enis(&self) -> impl Iterator<Item = &EniInfo> {
        self.enis.iter().filter(|eni| !eni.primary && eni.state == EniCloudState::Attached)
    }

    fn eni_status(&self, eni: &EniInfo) -> Option<EniStatus> {
        let subnet = self.subnets.iter().find(|subnet| subnet.id == eni.subnet_id)?;
        Some(EniStatus {
            id: eni.id.clone(),
            mac: eni.mac.clone(),
            subnet_id: eni.subnet_id.clone(),
            subnet_cidr: subnet.cidr.to_string(),
            gateway: subnet.gateway.to_string(),
            primary_ip: eni.primary_ip.to_string(),
            state: EniState::Attached,
        })
    }

    fn view(&self) -> NodeView {
        let spec = &self.config.spec;
        NodeView {
            zone: spec.zone.clone(),
            max_enis: spec.max_enis as usize,
            max_ips_per_eni: spec.max_ips_per_eni as usize,
            enis: self
                .pod_enis()
                .map(|eni| EniView {
                    id: eni.id.clone(),
                    subnet_id: eni.subnet_id.clone(),
                    ips: eni.secondary_ips.iter().copied().collect(),
                    assignable: eni.assignable.as_ref().map(|list| list.iter().copied().collect()),
                })
                .collect(),
        }
    }

    fn subnet_views(&self) -> Vec<SubnetView> {
        self.subnets
            .iter()
            .map(|subnet| SubnetView {
                id: subnet.id.clone(),
                zone: subnet.zone.clone(),
                cidr: subnet.cidr,
                gateway: subnet.gateway,
                available: subnet.available,
            })
            .collect()
    }
}

fn new_ip(address: Ipv4Addr, spec: VpcIPSpec) -> VpcIP {
    let metadata = ObjectMeta { name: Some(VpcIP::name_of(address.into())), ..ObjectMeta::default() };
    VpcIP { metadata, spec, status: None }
}

fn parse_ipv4(text: &str) -> Result<Ipv4Addr, NotPlaced> {
    text.parse().map_err(|_| {
        NotPlaced::new(
            reason::ADDRESS_CONFLICT,
            format!("{text:?} is no IPv4 address; nominate one of a configured subnet"),
        )
    })
}

/// The reason that an operator sees for an error of the cloud.
pub fn reason_of(kind: CloudErrorKind) -> &'static str {
    match kind {
        CloudErrorKind::EniLimit => reason::ENI_LIMIT,
        CloudErrorKind::SubnetExhausted | CloudErrorKind::IpLimit => reason::POOL_EXHAUSTED,
        CloudErrorKind::AddressInUse => reason::ADDRESS_CONFLICT,
        _ => reason::CLOUD_ERROR,
    }
}
