//! Subnets as placement sees them: what the cloud says, asked not too often and for all nodes together; those that are not
//! configured any more; and what is reserved in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::super::context::Context;
use crate::api::{EniStatus, VpcIPType};
use crate::cloud::{CloudError, Subnet};
use crate::ipam::pool::{NetView, Reservation, SubnetView};

/// An answer serves for so long. Whoever finds no room asks anew.
const AGE: Duration = Duration::from_secs(10);

/// The last answer of the cloud.
#[derive(Debug, Default)]
pub struct SubnetCache(Mutex<Latest>);

#[derive(Debug, Default)]
struct Latest {
    /// When it was asked for: a change while the answer is on its way may not be in it.
    seen: Option<(Instant, Arc<Vec<Subnet>>)>,
    /// When there was none instead, and why.
    failed: Option<(Instant, CloudError)>,
}

impl SubnetCache {
    /// The subnets: no older than some seconds, and than `since`. Who asks meanwhile waits for the same answer, or for the
    /// same error: in an outage nobody queues for a try of their own.
    pub async fn get(
        &self,
        context: &Context,
        since: Option<Instant>,
    ) -> Result<Arc<Vec<Subnet>>, CloudError> {
        let came = Instant::now();
        let mut latest = self.0.lock().await;
        if let Some((at, subnets)) = &latest.seen
            && at.elapsed() < AGE
            && since.is_none_or(|since| *at >= since)
        {
            return Ok(subnets.clone());
        }
        if let Some((ended, error)) = &latest.failed
            && *ended >= came
        {
            return Err(error.clone());
        }
        let at = Instant::now();
        match context.provider.subnets().await {
            Ok(subnets) => {
                let subnets = Arc::new(subnets);
                latest.seen = Some((at, subnets.clone()));
                Ok(subnets)
            }
            Err(error) => {
                latest.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The subnets for who only counts: none before anybody has looked, and looked at once more when this controller has
    /// changed something that the answer may not show, and that answer is so old that nobody else would use it. Until
    /// then: how long that takes.
    pub async fn counted(&self, context: &Context) -> (Arc<Vec<Subnet>>, Option<Duration>) {
        let Some((at, subnets)) = self.0.lock().await.seen.clone() else { return (Arc::default(), None) };
        let Some(shown) = context.own_changes.shown_from().filter(|shown| at < *shown) else {
            return (subnets, None);
        };
        let left = AGE.saturating_sub(at.elapsed()).max(shown.saturating_duration_since(Instant::now()));
        if !left.is_zero() {
            return (subnets, Some(left));
        }
        match self.get(context, Some(shown)).await {
            Ok(subnets) => (subnets, None),
            Err(error) => {
                warn!(%error, "subnets not seen");
                (subnets, Some(AGE))
            }
        }
    }
}

/// Subnets as placement sees them. Closed ones are those in which nodes have ENIs though they are not configured.
pub fn views(context: &Context, subnets: &[Subnet]) -> Vec<SubnetView> {
    let config = &context.config;
    let mut reserved = if config.reserve_eni_quota { Some(reservations(context)) } else { None };
    let mut views: Vec<SubnetView> = subnets
        .iter()
        .map(|subnet| SubnetView {
            id: subnet.id.clone(),
            zone: subnet.zone.clone(),
            nets: nets(subnet),
            closed: false,
            nominated_only: config.nominated_only_subnets.contains(&subnet.id),
            reservation: reserved.as_mut().map(|reserved| reserved.remove(&subnet.id).unwrap_or_default()),
        })
        .collect();
    for node in context.stores.configs.state() {
        for eni in node.status.iter().flat_map(|status| &status.enis) {
            if views.iter().all(|view| view.id != eni.subnet_id) {
                views.push(closed(eni, &node.spec.zone));
            }
        }
    }
    views
}

fn nets(subnet: &Subnet) -> Vec<NetView> {
    let reserved = subnet.reserved;
    let v4 = NetView {
        cidr: subnet.cidr.into(),
        gateway: subnet.gateway.into(),
        reserved,
        available: subnet.available,
    };
    let v6 = subnet.ipv6.map(|ipv6| NetView {
        cidr: ipv6.cidr.into(),
        gateway: ipv6.gateway.into(),
        reserved,
        available: ipv6.available,
    });
    [v4].into_iter().chain(v6).collect()
}

/// The subnet of an ENI, as the node's status has it.
fn closed(eni: &EniStatus, zone: &str) -> SubnetView {
    let net = |cidr: &str, gateway: &str| {
        let (cidr, gateway) = (cidr.parse().ok()?, gateway.parse().ok()?);
        // Every cloud has these two; nothing new is picked here anyway.
        Some(NetView { cidr, gateway, reserved: 2, available: 0 })
    };
    let v6 = eni.subnet_cidr_v6.as_deref().zip(eni.gateway_ipv6.as_deref());
    let nets = [net(&eni.subnet_cidr, &eni.gateway), v6.and_then(|(cidr, gateway)| net(cidr, gateway))];
    SubnetView {
        id: eni.subnet_id.clone(),
        zone: zone.to_owned(),
        nets: nets.into_iter().flatten().collect(),
        closed: true,
        ..SubnetView::default()
    }
}

/// The full quotas of all ENIs, those to be made included, by subnet. Each has an object for its primary address.
fn reservations(context: &Context) -> BTreeMap<String, Reservation> {
    let quotas: BTreeMap<String, u64> = (context.stores.configs.state().iter())
        .map(|node| (node.name_any(), u64::from(node.spec.max_ips_per_eni) + 1))
        .collect();
    // A cache may not show an intent yet, or not whose it is.
    let mut enis: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    for ip in context.stores.ips.state().iter().filter(|ip| ip.spec.type_ == VpcIPType::Eni) {
        enis.insert(ip.name_any(), (ip.spec.subnet_id.clone(), ip.state().node_name));
    }
    for (name, intent) in context.pools.intents.all() {
        enis.insert(name, (intent.subnet_id, Some(intent.node)));
    }
    let usual = quotas.values().copied().max().unwrap_or(1);
    let mut reserved: BTreeMap<String, Reservation> = BTreeMap::new();
    for (subnet, node) in enis.into_values() {
        let reservation = reserved.entry(subnet).or_default();
        reservation.enis += 1;
        reservation.addresses += node.and_then(|node| quotas.get(&node).copied()).unwrap_or(usual);
    }
    reserved
}
