//! Where the address that a pod shall have can be: the zones of its subnet.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::api::annotations::AddressWish;
use crate::api::{DeletePolicy, VpcIPClaim, VpcIPClaimStatus};
use crate::cloud::{EniProvider, Subnet};

/// Time between two looks at the subnets.
const LOOK: Duration = Duration::from_secs(60);
/// How long the API may take to say what a claim holds. kube-apiserver waits two seconds for the whole answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The zones that a pod has to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Each has a subnet that will do.
    pub zones: Vec<String>,
    /// The beginning of a sentence that ends with where.
    pub why: String,
}

/// Subnets and claims, to read.
#[derive(Clone)]
pub struct Places {
    client: Client,
    subnets: watch::Receiver<Arc<Vec<Subnet>>>,
}

impl Places {
    /// And what keeps its view of the subnets fresh while it runs.
    pub fn new(client: Client, provider: Arc<dyn EniProvider>) -> (Self, impl Future<Output = ()>) {
        let (sender, subnets) = watch::channel(Arc::default());
        let keep = async move {
            loop {
                match provider.subnets().await {
                    Ok(found) => drop(sender.send_replace(Arc::new(found))),
                    Err(error) => warn!(%error, "webhook: subnets are as they were last seen"),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        (Self { client, subnets }, keep)
    }

    /// The subnets as last seen; none before the first look.
    pub fn subnets(&self) -> Arc<Vec<Subnet>> {
        self.subnets.borrow().clone()
    }

    /// Where a pod has to go, if its address can only be in some places. What cannot be found out is no reason to keep a
    /// pod from a node.
    pub async fn of_pod(&self, namespace: &str, name: &str, wish: &AddressWish) -> Option<Place> {
        let subnets = self.subnets();
        if let Some(place) = of_wish(&subnets, wish) {
            return Some(place);
        }
        // A pod without a name gets one that no claim has.
        if name.is_empty() {
            return None;
        }
        let claims = Api::<VpcIPClaim>::namespaced(self.client.clone(), namespace);
        match tokio::time::timeout(PATIENCE, claims.get_opt(name)).await {
            Ok(Ok(claim)) => of_claim(&subnets, &claim?),
            Ok(Err(error)) => {
                debug!(%error, namespace, name, "webhook: claim not read");
                None
            }
            Err(_) => None,
        }
    }
}

/// The place of what a pod nominates.
fn of_wish(subnets: &[Subnet], wish: &AddressWish) -> Option<Place> {
    if let Some(ip) = wish.nominated_ips.first() {
        return of_address(subnets, *ip, format!("address {ip} is nominated and lives"));
    }
    if wish.nominated_subnets.is_empty() {
        return None;
    }
    let named = subnets.iter().filter(|subnet| wish.nominated_subnets.contains(&subnet.id));
    place(named, format!("the nominated subnets ({}) are", wish.nominated_subnets.join(", ")))
}

/// The place of what a claim keeps for its pod.
fn of_claim(subnets: &[Subnet], claim: &VpcIPClaim) -> Option<Place> {
    let keeps =
        claim.spec.delete_policy == DeletePolicy::Never && claim.metadata.deletion_timestamp.is_none();
    let status = claim.status.as_ref().filter(|_| keeps)?;
    let ip: IpAddr = VpcIPClaimStatus::all_addresses(status).next()?.parse().ok()?;
    of_address(subnets, ip, format!("address {ip} is kept for this pod and lives"))
}

fn of_address(subnets: &[Subnet], ip: IpAddr, why: String) -> Option<Place> {
    place(subnets.iter().filter(|subnet| contains(subnet, ip)), why)
}

fn place<'a>(subnets: impl Iterator<Item = &'a Subnet>, why: String) -> Option<Place> {
    let mut zones: Vec<String> = subnets.map(|subnet| subnet.zone.clone()).collect();
    zones.sort();
    zones.dedup();
    // Where subnets have no zones, nodes need not have any either.
    (!zones.is_empty() && zones.iter().all(|zone| !zone.is_empty())).then_some(Place { zones, why })
}

fn contains(subnet: &Subnet, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => subnet.cidr.contains(&ip),
        IpAddr::V6(ip) => subnet.ipv6.is_some_and(|ipv6| ipv6.cidr.contains(&ip)),
    }
}
