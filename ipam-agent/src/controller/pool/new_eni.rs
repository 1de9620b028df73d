//! An ENI to be: first the object of its primary address, in phase Attaching with the cloud's error while there is one, so
//! that the address is nobody else's and an operator sees what the node waits for; then the ENI; then the machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::write;
use super::batch::quarantine;
use super::round::{Round, new_ip};
use super::{NotPlaced, reason};
use crate::api::{IpPhase, VpcIP, VpcIPSpec, VpcIPType};
use crate::cloud::{CloudError, CloudErrorKind, EniCloudState, EniInfo, NewEni};
use crate::ipam::pool::{Placement, Wish, eni_name};

/// How many primary addresses are tried that the cloud calls taken.
const CHOICES: usize = 16;

/// An ENI that is to be made.
#[derive(Clone, Debug)]
pub struct Intent {
    pub node: String,
    pub subnet_id: String,
    /// When it was last tried.
    pub asked: Instant,
}

/// All that this process is about to make, by the name of the primary address's object.
#[derive(Debug, Default)]
pub struct Intents(Mutex<HashMap<String, Intent>>);

impl Intents {
    /// All of them.
    pub fn all(&self) -> HashMap<String, Intent> {
        self.lock().clone()
    }

    fn of_node(&self, node: &str) -> Option<(String, Intent)> {
        self.lock()
            .iter()
            .find(|(_, intent)| intent.node == node)
            .map(|(name, intent)| (name.clone(), intent.clone()))
    }

    fn ask(&self, name: &str, node: &str, subnet_id: &str) {
        let now = Instant::now();
        let mut intents = self.lock();
        let intent = intents.entry(name.to_owned()).or_insert_with(|| Intent {
            node: node.to_owned(),
            subnet_id: subnet_id.to_owned(),
            asked: now,
        });
        intent.asked = now;
    }

    /// It is made, or given up.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Intent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round<'_> {
    /// Gives the node the ENIs that it shall have without any pod.
    pub async fn ensure_enis(&mut self) {
        let wanted = self.max_enis().min(self.context.config.min_enis as usize);
        self.memory.wants_eni = self.pod_enis().count() < wanted;
        let wish = Wish { families: self.context.config.families.clone(), ..Wish::default() };
        while self.pod_enis().count() < wanted {
            if let Err(error) = self.add_eni(&wish, true).await {
                tracing::debug!(node = self.node, message = error.message, "no ENI yet");
                if !self.memory.waits_for_eni() {
                    // Somebody else wrote first, or the API was away: no news to anybody.
                    self.memory.no_eni(&self.context.config, &error, false);
                }
                return;
            }
        }
        self.memory.wants_eni = false;
    }

    /// Makes an ENI for a wish that no ENI of the node can fulfil, or `anew` in any case, and attaches it to the node.
    pub async fn add_eni(&mut self, wish: &Wish, anew: bool) -> Result<(), NotPlaced> {
        if let Some(error) = self.memory.eni_refused() {
            return Err(error);
        }
        if self.enis.iter().any(|eni| eni.assignable.is_some()) {
            let message =
                "the node's ENIs are those that the provider's file lists, and none of them has room";
            return Err(NotPlaced::new(reason::ENI_LIMIT, message));
        }
        for _ in 0..CHOICES {
            let Some((ip, subnet_id)) = self.intend(wish, anew).await? else { return Ok(()) };
            let name = ip.name_any();
            match self.make_eni(&ip, &subnet_id).await {
                Ok(()) => {
                    self.context.pools.intents.forget(&name);
                    return Ok(());
                }
                Err(error) if error.kind == CloudErrorKind::AddressInUse => {
                    if let Ok(address) = ip.spec.ip.parse() {
                        quarantine(self.context, &ip, address, &error).await;
                        self.own(address);
                    }
                    self.context.pools.intents.forget(&name);
                }
                Err(error) => {
                    self.show_refusal(&ip, &error).await;
                    let error = NotPlaced::from(error);
                    self.no_eni(&error, true).await;
                    return Err(error);
                }
            }
        }
        Err(NotPlaced::new(
            reason::ADDRESS_CONFLICT,
            "the cloud calls every address that was tried for an ENI taken",
        ))
    }

    /// Takes an address for the ENI to be. One node at a time, so that what one reserves the next one sees. `None`: there
    /// is no need any more.
    async fn intend(&mut self, wish: &Wish, anew: bool) -> Result<Option<(VpcIP, String)>, NotPlaced> {
        let context = self.context;
        let reserving = context.config.reserve_eni_quota;
        let _making = if reserving { Some(context.pools.making.lock().await) } else { None };
        loop {
            let Placement::NewEni { subnet_id, primary } = self.place(wish, anew).await? else {
                return Ok(None);
            };
            let api = context.ips();
            if let Some((name, old)) = self.earlier_intent() {
                let kept = if old.subnet_id == subnet_id { write::live(&api, &name).await? } else { None };
                match kept
                    .filter(|ip| ip.spec.type_ == VpcIPType::Eni && ip.state().phase == IpPhase::Attaching)
                {
                    Some(ip) => {
                        context.pools.intents.ask(&name, self.node, &subnet_id);
                        return Ok(Some((ip, subnet_id)));
                    }
                    // Not wanted there any more. Its object goes when it is sure that there is no such ENI.
                    None => context.pools.intents.forget(&name),
                }
            }
            self.own(primary);
            let spec = VpcIPSpec {
                type_: VpcIPType::Eni,
                ip: primary.to_string(),
                subnet_id: subnet_id.clone(),
                claim_ref: None,
            };
            let Some(created) = write::create(&api, &new_ip(primary, spec)).await? else { continue };
            context.pools.intents.ask(&created.name_any(), self.node, &subnet_id);
            let ip = write::status(&api, &created, |ip| {
                let status = ip.status.get_or_insert_default();
                status.phase = IpPhase::Attaching;
                status.node_name = Some(self.node.to_owned());
            })
            .await?;
            return Ok(Some((ip, subnet_id)));
        }
    }

    /// What this node was about to make before: by this process, or by one before it.
    fn earlier_intent(&self) -> Option<(String, Intent)> {
        let here = |address: &str| self.enis.iter().any(|eni| eni.primary_ip.to_string() == address);
        self.context.pools.intents.of_node(self.node).or_else(|| {
            let found: Arc<VpcIP> = self.context.stores.ips.find(|ip| {
                let status = ip.state();
                ip.spec.type_ == VpcIPType::Eni
                    && status.phase == IpPhase::Attaching
                    && status.node_name.as_deref() == Some(self.node)
                    && !here(&ip.spec.ip)
            })?;
            let now = Instant::now();
            let subnet_id = found.spec.subnet_id.clone();
            Some((found.name_any(), Intent { node: self.node.to_owned(), subnet_id, asked: now }))
        })
    }

    async fn make_eni(&mut self, ip: &VpcIP, subnet_id: &str) -> Result<(), CloudError> {
        let context = self.context;
        let (cluster_id, primary) = (&context.config.cluster_id, ip.spec.ip.parse().ok());
        let wanted = NewEni {
            // The name is the token that finds an ENI which an earlier, lost answer created.
            name: eni_name(cluster_id, self.node, &ip.spec.ip),
            subnet_id: subnet_id.to_owned(),
            cluster_id: cluster_id.clone(),
            node: self.node.to_owned(),
            primary_ip: primary,
        };
        let eni = context.provider.create_eni(&wanted).await?;
        info!(node = self.node, eni = eni.id, subnet_id, primary = %eni.primary_ip, "created an ENI");
        if let Err(error) = self.attach(&eni.id).await {
            if error.kind == CloudErrorKind::EniLimit
                && let Err(error) = context.provider.delete_eni(&eni.id).await
            {
                warn!(eni = eni.id, %error, "not deleted");
            }
            if error.kind == CloudErrorKind::Unavailable {
                self.take_back(&eni, &error).await;
            }
            return Err(error);
        }
        // The cloud may not list it yet.
        if self.enis.iter().all(|known| known.id != eni.id) {
            let instance_id = Some(self.config.spec.instance_id.clone());
            self.own(eni.primary_ip.into());
            self.enis.push(EniInfo { state: EniCloudState::Attached, instance_id, ..eni });
        }
        self.memory.has_eni();
        self.publish().await;
        Ok(())
    }

    async fn attach(&mut self, eni_id: &str) -> Result<(), CloudError> {
        self.context.provider.attach_eni(eni_id, &self.config.spec.instance_id).await?;
        if let Some(eni) = self.enis.iter_mut().find(|eni| eni.id == eni_id) {
            eni.state = EniCloudState::Attached;
        }
        info!(node = self.node, eni = eni_id, "attached an ENI");
        Ok(())
    }

    /// ENIs on their way here: an earlier controller asked for them and did not live to see them arrive. One that does not
    /// arrive in a provider's whole time for it is taken back.
    pub async fn await_arrivals(&mut self) {
        let arriving: Vec<EniInfo> =
            self.enis.iter().filter(|eni| eni.state == EniCloudState::Attaching).cloned().collect();
        for eni in arriving {
            if let Err(error) = self.attach(&eni.id).await {
                warn!(node = self.node, eni = eni.id, %error, "an ENI does not arrive");
                if error.kind == CloudErrorKind::Unavailable {
                    self.take_back(&eni, &error).await;
                }
            }
        }
    }

    /// Takes back an ENI that is stuck on its way. One without addresses is deleted: another is made in its place.
    async fn take_back(&mut self, eni: &EniInfo, error: &CloudError) {
        let provider = &self.context.provider;
        let mut outcome = provider.detach_eni(&eni.id).await;
        if outcome.is_ok() && eni.secondary_ips.is_empty() {
            outcome = provider.delete_eni(&eni.id).await;
        }
        let end = match &outcome {
            Ok(()) => "it was taken back, and another is made".to_owned(),
            Err(error) => format!("it could not be taken back: {error}"),
        };
        let note = format!("{} got stuck on its way to the node: {error}; {end}", eni.id);
        self.context.warn_of_node(self.node, reason::ENI_STUCK, "AttachENI", &note).await;
        if outcome.is_ok() {
            self.enis.retain(|known| known.id != eni.id);
        }
    }

    /// The cloud's words stand in the object of the address.
    async fn show_refusal(&self, ip: &VpcIP, error: &CloudError) {
        let written = write::status(&self.context.ips(), ip, |ip| {
            ip.status.get_or_insert_default().message = error.words();
        })
        .await;
        if let Err(error) = written {
            warn!(ip = %ip.name_any(), %error, "error not shown");
        }
    }
}
