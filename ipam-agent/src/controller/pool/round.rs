//! What one round of a node sees, and its choices.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use tracing::warn;

use super::super::context::Context;
use super::super::write;
use super::memory::Memory;
use super::{NotPlaced, PlaceRequest, subnets};
use crate::api::condition::reason;
use crate::api::{CHOSEN_ENI, IpPhase, NodeENIConfig, VpcIP, VpcIPSpec, VpcIPType};
use crate::cloud::{CloudErrorKind, EniCloudState, EniInfo, Subnet};
use crate::ipam::pool::{EniView, NodeView, Placement, Shortage, SubnetView, Wish, place};

/// A node, its ENIs and the subnets, as seen at the beginning and changed by this round.
pub struct Round<'a> {
    pub node: &'a str,
    pub context: &'a Context,
    pub memory: &'a mut Memory,
    pub config: NodeENIConfig,
    pub subnets: Arc<Vec<Subnet>>,
    /// The machine's primary ENI and ours.
    pub enis: Vec<EniInfo>,
    /// How many others are on the machine.
    foreign: usize,
    /// Addresses in use: of an owner, or on an ENI that is known.
    pub taken: BTreeSet<IpAddr>,
    /// Those of them that have an object.
    owned: BTreeSet<IpAddr>,
    /// Those of them that wait on other nodes' ENIs for any pod.
    elsewhere: BTreeSet<IpAddr>,
    began: Instant,
    subnets_are_fresh: bool,
}

/// An address and the ENI that shall carry it.
pub struct Chosen {
    /// The address, as last written.
    pub ip: VpcIP,
    /// The same.
    pub address: IpAddr,
    /// The ENI.
    pub eni_id: String,
    /// The ENI that the address must be taken from.
    pub from_eni: Option<String>,
    /// The cloud says that the address is on the ENI already.
    pub is_there: bool,
    /// The claim held it before, or it waited elsewhere for any pod: what ENI it is on is not recorded.
    pub held: bool,
    /// Nobody has been told of the address: another would do.
    pub can_be_replaced: bool,
}

/// An address that the claim holds while a place is sought.
struct Mine {
    ip: VpcIP,
    address: IpAddr,
    /// Created just now: nobody knows of it.
    created: bool,
}

/// Whether an ENI is the machine's primary one, or one that this cluster made or was given by a file. Any other is somebody
/// else's: it gets no addresses, and keeps what it has.
fn is_ours(eni: &EniInfo, context: &Context) -> bool {
    eni.primary || eni.assignable.is_some() || eni.cluster.as_ref() == Some(&context.config.cluster_id)
}

impl<'a> Round<'a> {
    /// Looks at the node: one call for the ENIs, and one for the subnets unless somebody has just asked.
    pub async fn begin(
        node: &'a str,
        context: &'a Context,
        memory: &'a mut Memory,
    ) -> Result<Self, NotPlaced> {
        let config = match context.stores.configs.get(&ObjectRef::new(node)) {
            Some(config) => (*config).clone(),
            None => write::live(&context.configs(), node).await?.ok_or_else(|| {
                NotPlaced::new(reason::NODE_UNKNOWN, format!("node {node} has no NodeENIConfig yet"))
            })?,
        };
        let (subnets, enis) = tokio::join!(
            context.pools.subnets.get(context, None),
            context.provider.enis_of(&config.spec.instance_id)
        );
        let (enis, others): (Vec<_>, Vec<_>) = enis?.into_iter().partition(|eni| is_ours(eni, context));
        let foreign = others.len();
        let mut round = Self {
            node,
            context,
            memory,
            config,
            subnets: subnets?,
            enis,
            foreign,
            taken: BTreeSet::new(),
            owned: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            began: Instant::now(),
            subnets_are_fresh: false,
        };
        round.await_arrivals().await;
        round
            .owned
            .extend(context.stores.ips.state().iter().filter_map(|ip| ip.spec.ip.parse::<IpAddr>().ok()));
        // An address whose record was lost is its claim's nevertheless (`controller/records.rs`).
        for claim in context.stores.claims.state() {
            let named = claim.status.iter().filter(|status| status.epoch > 0);
            round.owned.extend(
                named.flat_map(|status| status.all_addresses()).filter_map(|ip| ip.parse::<IpAddr>().ok()),
            );
        }
        round.taken.extend(&round.owned);
        for eni in round.enis.iter().chain(&others) {
            round.taken.extend(eni.secondary_ips.iter().copied().chain([eni.primary_ip.into()]));
        }
        for (other, warm) in &*context.pools.warm() {
            if other != node {
                round.elsewhere.extend(warm.iter().filter(|ip| !round.owned.contains(ip)));
            }
        }
        round.taken.extend(&round.elsewhere);
        round.publish().await;
        Ok(round)
    }

    /// Chooses the ENI and an address of each family, creates what is missing of them, and makes sure by a write that no
    /// other controller is at it. An error says which addresses the claim holds nevertheless.
    pub async fn choose(&mut self, request: &PlaceRequest) -> Result<Vec<Chosen>, NotPlaced> {
        let mut mine = Vec::new();
        for ip in &request.ips {
            mine.push(Mine { ip: VpcIP::clone(ip), address: parse_ip(&ip.spec.ip)?, created: false });
        }
        let mut wish = Wish {
            families: self.context.config.families.clone(),
            held: Vec::new(),
            homes: Vec::new(),
            nominated: request.nominated_ips.iter().map(|ip| parse_ip(ip)).collect::<Result<_, _>>()?,
            subnets: request.nominated_subnets.clone(),
        };
        self.choose_for(request, &mut wish, &mut mine).await.map_err(|error| {
            let held = mine.into_iter().map(|mine| Arc::new(mine.ip)).collect();
            error.holding(held)
        })
    }

    async fn choose_for(
        &mut self,
        request: &PlaceRequest,
        wish: &mut Wish,
        mine: &mut Vec<Mine>,
    ) -> Result<Vec<Chosen>, NotPlaced> {
        let (eni_id, ips) = 'place: loop {
            wish.held = mine.iter().map(|mine| mine.address).collect();
            wish.homes = mine.iter().map(|mine| (mine.address, mine.ip.spec.subnet_id.clone())).collect();
            match self.place(wish, false).await? {
                Placement::NewEni { .. } => self.add_eni(wish, false).await?,
                Placement::OnEni { eni_id, subnet_id, ips } => {
                    for address in ips.iter().copied().filter(|ip| !wish.held.contains(ip)) {
                        // When somebody was faster, the cache will show it soon.
                        self.own(address);
                        match self.claim_free(request, address, subnet_id.clone(), &eni_id).await? {
                            Some(ip) => mine.push(Mine { ip, address, created: true }),
                            None => continue 'place,
                        }
                    }
                    break (eni_id, ips);
                }
            }
        };
        let mut chosen = Vec::new();
        for mine in mine.iter_mut().filter(|mine| ips.contains(&mine.address)) {
            let address = mine.address;
            let carries = |eni: &&EniInfo| eni.id == eni_id && eni.secondary_ips.contains(&address);
            let carrier = self.enis.iter().find(carries);
            let is_there = carrier.is_some_and(|eni| !eni.unsettled.contains(&address));
            let is_listed = carrier.is_some();
            let from_eni = mine.ip.eni().filter(|from| *from != eni_id);
            if !mine.created && !is_there && !self.context.config.elected {
                self.mark_moving(mine).await?;
            }
            self.own(address);
            if let Some(eni) = self.enis.iter_mut().find(|eni| eni.id == eni_id && !is_listed) {
                eni.secondary_ips.push(address);
            }
            chosen.push(Chosen {
                ip: mine.ip.clone(),
                address,
                eni_id: eni_id.clone(),
                from_eni,
                is_there,
                held: !mine.created || self.elsewhere.contains(&address),
                can_be_replaced: mine.ip.state().epoch == 0 && !wish.nominated.contains(&address),
            });
        }
        // In the order of the families, the first being the one that the claim shows.
        chosen.sort_by_key(|chosen| ips.iter().position(|ip| *ip == chosen.address));
        Ok(chosen)
    }

    /// The cloud refused a chosen address: its place on the ENI is there for another.
    pub fn vacate(&mut self, address: IpAddr) {
        for eni in &mut self.enis {
            eni.secondary_ips.retain(|ip| *ip != address);
        }
    }

    /// An address has an owner.
    pub fn own(&mut self, address: IpAddr) {
        self.taken.insert(address);
        self.owned.insert(address);
    }

    /// Finds a place: on an ENI of the node, or for one more, which it is `anew` in any case. Before it says that no subnet
    /// has room it looks at the subnets once more: one may have been added.
    pub async fn place(&mut self, wish: &Wish, anew: bool) -> Result<Placement, NotPlaced> {
        loop {
            let mut node = self.view();
            if anew {
                node.max_enis = node.max_enis.saturating_sub(node.enis.len());
                node.enis.clear();
            }
            let placed = place(&node, &self.subnet_views(), &self.taken_for(wish), wish, rand::random());
            let Err(shortage) = placed else { return placed.map_err(NotPlaced::from) };
            let of_subnets = matches!(
                shortage,
                Shortage::SubnetsExhausted { .. } | Shortage::Outside(..) | Shortage::SubnetRemoved(..)
            );
            if of_subnets && self.look_at_subnets_again().await {
                continue;
            }
            let exhausted = matches!(shortage, Shortage::SubnetsExhausted { .. });
            let error = NotPlaced::from(shortage);
            if exhausted {
                self.context.pools.ask_back(self.node);
                if wish.subnets.is_empty() && wish.nominated.is_empty() {
                    self.no_eni(&error, false).await;
                }
            }
            return Err(error);
        }
    }

    /// Addresses that a wish cannot have. One that waits on another node's ENI for any pod is had by who nominates it.
    fn taken_for(&self, wish: &Wish) -> Cow<'_, BTreeSet<IpAddr>> {
        let mut taken = Cow::Borrowed(&self.taken);
        for ip in &wish.nominated {
            if self.elsewhere.contains(ip) && !self.owned.contains(ip) {
                taken.to_mut().remove(ip);
            }
        }
        taken
    }

    /// Takes a free address by creating its object; `None` when it is not free.
    async fn claim_free(
        &self,
        request: &PlaceRequest,
        address: IpAddr,
        subnet_id: String,
        eni_id: &str,
    ) -> Result<Option<VpcIP>, NotPlaced> {
        let spec = VpcIPSpec {
            type_: VpcIPType::Pod,
            ip: address.to_string(),
            subnet_id,
            claim_ref: Some(request.claim.clone()),
        };
        let mut ip = new_ip(address, spec);
        ip.annotations_mut().insert(CHOSEN_ENI.into(), eni_id.into());
        let created = write::create(&self.context.ips(), &ip).await?;
        if created.is_some() {
            self.context.remember_created(&request.claim.uid, VpcIP::name_of(address));
        }
        Ok(created)
    }

    /// A held address that must move, or go back on an ENI, is marked first: a controller that was replaced
    /// meanwhile fails here and not in the cloud. One that was elected fails in the cloud, by its term.
    async fn mark_moving(&self, mine: &mut Mine) -> Result<(), NotPlaced> {
        mine.ip = write::status(&self.context.ips(), &mine.ip, |ip| {
            ip.status.get_or_insert_default().phase = IpPhase::Attaching;
        })
        .await?;
        Ok(())
    }

    /// ENIs for pods that the machine can have, with what it has already, beside those that are not ours.
    pub fn max_enis(&self) -> usize {
        (self.config.spec.max_enis as usize).saturating_sub(self.foreign)
    }

    pub fn pod_enis(&self) -> impl Iterator<Item = &EniInfo> {
        self.enis.iter().filter(|eni| !eni.primary && eni.state == EniCloudState::Attached)
    }

    pub fn view(&self) -> NodeView {
        let spec = &self.config.spec;
        NodeView {
            zone: spec.zone.clone(),
            max_enis: self.max_enis(),
            max_ips_per_eni: spec.max_ips_per_eni as usize,
            enis: self
                .pod_enis()
                .map(|eni| EniView {
                    id: eni.id.clone(),
                    subnet_id: eni.subnet_id.clone(),
                    ips: eni.secondary_ips.iter().copied().collect(),
                    warm: (eni.secondary_ips.iter().copied())
                        .filter(|ip| !self.owned.contains(ip) && !eni.unsettled.contains(ip))
                        .collect(),
                    assignable: eni.assignable.as_ref().map(|list| list.iter().copied().collect()),
                })
                .collect(),
        }
    }

    pub fn subnet_views(&self) -> Vec<SubnetView> {
        subnets::views(self.context, &self.subnets)
    }

    /// Asks the cloud for the subnets, unless it was asked since this round began. Whether it was asked now.
    pub async fn look_at_subnets_again(&mut self) -> bool {
        if self.subnets_are_fresh {
            return false;
        }
        self.subnets_are_fresh = true;
        match self.context.pools.subnets.get(self.context, Some(self.began)).await {
            Ok(subnets) => self.subnets = subnets,
            Err(error) => warn!(node = self.node, %error, "subnets not seen"),
        }
        true
    }
}

pub fn new_ip(address: IpAddr, spec: VpcIPSpec) -> VpcIP {
    let metadata = ObjectMeta { name: Some(VpcIP::name_of(address)), ..ObjectMeta::default() };
    VpcIP { metadata, spec, status: None }
}

fn parse_ip(text: &str) -> Result<IpAddr, NotPlaced> {
    text.parse().map_err(|_| {
        NotPlaced::new(
            reason::ADDRESS_CONFLICT,
            format!("{text:?} is no IP address; nominate one of a configured subnet"),
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
