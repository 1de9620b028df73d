//! One round of a node: look once, choose a place for every request, then one call per ENI.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::{info, warn};

use super::super::context::Context;
use super::super::write;
use super::round::{Chosen, Round};
use super::{Answer, NotPlaced, PlaceRequest, Placed};
use crate::api::condition::reason;
use crate::api::{IpPhase, VpcIP};
use crate::cloud::{CloudError, CloudErrorKind};

/// How often an address that the cloud calls taken is replaced by another before the claim has to wait.
const CHOICES: usize = 16;

type Request = (PlaceRequest, Answer);

/// Serves the requests of a node.
///
/// # Errors
/// The node's ENIs could not be seen; every request has been answered with that.
pub async fn run(node: &str, context: &Context, mut requests: Vec<Request>) -> Result<(), NotPlaced> {
    let mut round = match Round::begin(node, context).await {
        Ok(round) => round,
        Err(error) => {
            for (request, answer) in requests {
                let _ = answer.send(Err(NotPlaced::new(error.reason, &error.message).holding(request.ip)));
            }
            return Err(error);
        }
    };
    for _ in 0..CHOICES {
        let mut chosen = Vec::new();
        for (request, answer) in requests {
            match round.choose(&request).await {
                Ok(place) => chosen.push((place, (request, answer))),
                Err(error) => {
                    let held = error.ip.clone().or(request.ip);
                    let _ = answer.send(Err(error.holding(held)));
                }
            }
        }
        round.publish().await;
        requests = tell_the_cloud(context, chosen).await;
        if requests.is_empty() {
            break;
        }
    }
    for (request, answer) in requests {
        let error =
            NotPlaced::new(reason::ADDRESS_CONFLICT, "the cloud calls every address that was tried taken");
        let _ = answer.send(Err(error.holding(request.ip)));
    }
    Ok(())
}

/// Puts the chosen addresses on their ENIs, one call per ENI and one per address that moves. Returns the
/// requests for which another address must be chosen.
async fn tell_the_cloud(context: &Context, chosen: Vec<(Chosen, Request)>) -> Vec<Request> {
    let mut by_eni: BTreeMap<String, Vec<(Chosen, Request)>> = BTreeMap::new();
    let mut moves = Vec::new();
    for (place, request) in chosen {
        match &place.from_eni {
            _ if place.is_there => answer_placed(place, request),
            Some(from) => moves.push((from.clone(), place, request)),
            None => by_eni.entry(place.eni_id.clone()).or_default().push((place, request)),
        }
    }
    let moved = futures::future::join_all(moves.into_iter().map(async |(from, place, request)| {
        let ip = IpAddr::V4(place.address);
        let outcome = match context.provider.migrate_ip(&from, &place.eni_id, ip).await {
            // It is on no ENI, or its ENI went with its machine: then it is not moved but assigned.
            Err(error) if error.kind == CloudErrorKind::NotFound => {
                context.provider.assign_ips(&place.eni_id, &[ip]).await
            }
            outcome => outcome,
        };
        settle(context, place, request, outcome).await
    }));
    let assigned = futures::future::join_all(by_eni.into_iter().map(async |(eni, places)| {
        let ips: Vec<IpAddr> = places.iter().map(|(place, _)| place.address.into()).collect();
        let together = context.provider.assign_ips(&eni, &ips).await;
        let mut again = Vec::new();
        for (place, request) in places {
            // One bad address fails the whole call; each alone tells which.
            let outcome = match &together {
                Err(error) if !error.kind.is_transient() && ips.len() > 1 => {
                    context.provider.assign_ips(&eni, &[place.address.into()]).await
                }
                outcome => outcome.clone(),
            };
            again.extend(settle(context, place, request, outcome).await);
        }
        again
    }));
    let (moved, assigned) = tokio::join!(moved, assigned);
    moved.into_iter().flatten().chain(assigned.into_iter().flatten()).collect()
}

fn answer_placed(place: Chosen, (_, answer): Request) {
    let _ = answer.send(Ok(Placed { ip: place.ip, eni_id: place.eni_id }));
}

async fn settle(
    context: &Context,
    place: Chosen,
    request: Request,
    outcome: Result<(), CloudError>,
) -> Option<Request> {
    match outcome {
        Ok(()) => {
            answer_placed(place, request);
            None
        }
        Err(error) if error.kind == CloudErrorKind::AddressInUse && place.can_be_replaced => {
            quarantine(context, &place.ip, place.address, &error).await;
            context.remember_created(&request.0.claim.uid, None);
            Some(request)
        }
        Err(error) => {
            let _ = request.1.send(Err(NotPlaced::from(error).holding(Some(Arc::new(place.ip)))));
            None
        }
    }
}

/// Somebody outside the cluster has the address: nobody here gets it for a while.
async fn quarantine(context: &Context, ip: &VpcIP, address: Ipv4Addr, error: &CloudError) {
    info!(%address, %error, "taken by somebody outside the cluster");
    let written = write::status(&context.ips(), ip, |ip| {
        let status = ip.status.get_or_insert_default();
        status.phase = IpPhase::Quarantined;
        status.released_at = Some(Time(jiff::Timestamp::now()));
        status.message = error.to_string();
    })
    .await;
    if let Err(error) = written {
        warn!(ip = %ip.name_any(), %error, "quarantine not written");
    }
}
