//! What the API shows of a node's ENIs: its status, which the agent brings ENIs up from, and an object for each primary
//! address. Nothing is written that stands there already.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;
use tracing::warn;

use super::super::error::ReconcileError;
use super::super::write;
use super::NotPlaced;
use super::round::{Round, new_ip};
use crate::api::condition::{self, reason};
use crate::api::{EniState, EniStatus, IpPhase, NodeENIConfigStatus, VpcIP, VpcIPSpec, VpcIPType};
use crate::cloud::EniInfo;
use crate::ipam::family::Family;

/// A cache shows what was written after so long.
const SHOWN: Duration = Duration::from_secs(10);

impl Round<'_> {
    /// Writes what the node has. What cannot be written now is written by the next round.
    pub async fn publish(&mut self) {
        self.tell_of_closed_subnets().await;
        let refusal = self.memory.eni.as_ref().filter(|refusal| refusal.reason == reason::ENI_LIMIT);
        let refusal = refusal.map(|refusal| (refusal.until.into_std(), refusal.message.clone()));
        self.context.sights.saw(self.node, self.view(), refusal);
        let status = self.status();
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
        let enis: Vec<EniInfo> = self.pod_enis().cloned().collect();
        for eni in enis {
            match self.record_primary(&eni).await {
                Err(error) if !error.is_conflict() => {
                    warn!(eni = eni.id, %error, "primary address not recorded");
                }
                _ => {}
            }
        }
    }

    fn status(&self) -> NodeENIConfigStatus {
        let mut status = self.config.status.clone().unwrap_or_default();
        let enis: Vec<EniStatus> = self.pod_enis().filter_map(|eni| self.eni_status(eni)).collect();
        status.eni_count = u32::try_from(self.pod_enis().count()).unwrap_or(u32::MAX);
        let refusal = self.memory.eni.as_ref();
        status.message = refusal.map(|refusal| refusal.message.clone()).unwrap_or_default();
        let mut set = |type_, ready, reason, message: &str| {
            condition::set(
                &mut status.conditions,
                Time(jiff::Timestamp::now()),
                type_,
                ready,
                reason,
                message,
            );
        };
        match refusal {
            Some(refusal) => set(condition::READY, false, refusal.reason, &refusal.message),
            None if !enis.is_empty() => set(condition::READY, true, reason::ENIS_READY, ""),
            None => {}
        }
        let closed = self.closed_subnets();
        if !closed.is_empty() {
            let all: Vec<String> = closed.iter().map(|(subnet, enis)| about_closed(subnet, enis)).collect();
            set(condition::SUBNETS_CONFIGURED, false, reason::SUBNET_REMOVED, &all.join("; "));
        } else {
            let removed = |known: &Condition| known.type_ == condition::SUBNETS_CONFIGURED;
            status.conditions.retain(|known| !removed(known));
        }
        status.enis = enis;
        status
    }

    /// Subnets of the node's ENIs that are not configured any more, and which ENIs.
    fn closed_subnets(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut closed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for eni in self.pod_enis() {
            if self.subnets.iter().all(|subnet| subnet.id != eni.subnet_id) {
                closed.entry(&eni.subnet_id).or_default().push(&eni.id);
            }
        }
        closed
    }

    /// An event for each, once.
    async fn tell_of_closed_subnets(&mut self) {
        let closed = self.closed_subnets();
        let mut news = Vec::new();
        for (subnet, enis) in &closed {
            if !self.memory.closed.contains(*subnet) {
                let kept: usize = self
                    .pod_enis()
                    .filter(|eni| eni.subnet_id == **subnet)
                    .map(|eni| eni.secondary_ips.len())
                    .sum();
                news.push(format!("{}; {kept} addresses are kept", about_closed(subnet, enis)));
            }
        }
        let closed = closed.into_keys().map(str::to_owned).collect();
        self.memory.closed = closed;
        for note in news {
            self.context.warn_of_node(self.node, reason::SUBNET_REMOVED, "KeepAddresses", &note).await;
        }
    }

    /// As the agent needs it. What is known of a subnet that is gone is what stood there before.
    fn eni_status(&self, eni: &EniInfo) -> Option<EniStatus> {
        let Some(subnet) = self.subnets.iter().find(|subnet| subnet.id == eni.subnet_id) else {
            let before = self.config.status.iter().flat_map(|status| &status.enis);
            return before.into_iter().find(|known| known.id == eni.id).cloned();
        };
        let dual = self.context.config.families.contains(Family::V6);
        Some(EniStatus {
            id: eni.id.clone(),
            mac: eni.mac.clone(),
            subnet_id: eni.subnet_id.clone(),
            subnet_cidr: subnet.cidr.to_string(),
            gateway: subnet.gateway.to_string(),
            primary_ip: eni.primary_ip.to_string(),
            subnet_cidr_v6: subnet.ipv6.filter(|_| dual).map(|ipv6| ipv6.cidr.to_string()),
            gateway_ipv6: subnet.ipv6.filter(|_| dual).map(|ipv6| ipv6.gateway.to_string()),
            state: EniState::Attached,
        })
    }

    /// An ENI's primary address has an object too: it is taken, and counted.
    async fn record_primary(&mut self, eni: &EniInfo) -> Result<(), ReconcileError> {
        let name = VpcIP::name_of(eni.primary_ip.into());
        let done = |known: &(String, Instant)| known.0 == eni.id && known.1.elapsed() < SHOWN;
        if self.memory.primaries.get(&name).is_some_and(done) {
            return Ok(());
        }
        let api = self.context.ips();
        let cached = self.context.stores.ips.get(&ObjectRef::new(&name)).map(|ip| (*ip).clone());
        let existing = match cached {
            Some(ip) => Some(ip),
            None => {
                let spec = VpcIPSpec {
                    type_: VpcIPType::Eni,
                    ip: eni.primary_ip.to_string(),
                    subnet_id: eni.subnet_id.clone(),
                    claim_ref: None,
                };
                match write::create(&api, &new_ip(eni.primary_ip.into(), spec)).await? {
                    Some(created) => Some(created),
                    None => write::live(&api, &name).await?,
                }
            }
        };
        if let Some(ip) = existing.filter(|ip| ip.spec.type_ == VpcIPType::Eni) {
            write::status(&api, &ip, |ip| {
                let status = ip.status.get_or_insert_default();
                status.phase = IpPhase::Bound;
                status.eni_id = Some(eni.id.clone());
                status.node_name = Some(self.node.to_owned());
                status.message.clear();
            })
            .await?;
        }
        self.memory.primaries.insert(name, (eni.id.clone(), Instant::now()));
        Ok(())
    }

    /// The node needed an ENI and could not have one: told once, and shown in its status. `by_cloud`: the cloud said so, and
    /// is not asked again at once.
    pub async fn no_eni(&mut self, error: &NotPlaced, by_cloud: bool) {
        if self.pod_enis().count() >= self.max_enis() {
            return;
        }
        if self.memory.no_eni(&self.context.config, error, by_cloud) {
            warn!(node = self.node, reason = error.reason, message = error.message, "no ENI");
            self.context.warn_of_node(self.node, error.reason, "AttachENI", &error.message).await;
        }
        self.publish().await;
    }
}

fn about_closed(subnet: &str, enis: &[&str]) -> String {
    format!(
        "subnet {subnet} of {} is not configured any more: its addresses stay and are served, new ones come from other \
         subnets",
        enis.join(", ")
    )
}
