//! One round of a node: look once, choose a place for every request, then one call per ENI.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::{info, warn};

use super::super::context::Context;
use super::super::write;
use super::memory::Memory;
use super::round::{Chosen, Round};
use super::{Answer, NotPlaced, PlaceRequest, Placed, warming};
use crate::api::condition::reason;
use crate::api::{IpPhase, VpcIP};
use crate::cloud::{CloudError, CloudErrorKind};

/// How often an address that the cloud calls taken is replaced by another before the claim has to wait.
const CHOICES: usize = 16;

type Request = (PlaceRequest, Answer);

/// Serves the requests of a node, then what is due without one: ENIs that it shall have, warm addresses when it is
/// `idle`.
///
/// # Errors
/// The node's ENIs could not be seen; every request has been answered with that.
pub async fn run(
    node: &str,
    context: &Context,
    memory: &mut Memory,
    mut requests: Vec<Request>,
    idle: bool,
) -> Result<(), NotPlaced> {
    let mut round = match Round::begin(node, context, memory).await {
        Ok(round) => round,
        Err(error) => {
            memory.is_blind(&context.config, &error);
            for (request, answer) in requests {
                let _ = answer.send(Err(NotPlaced::new(error.reason, &error.message).holding(request.ips)));
            }
            return Err(error);
        }
    };
    round.memory.sees();
    for _ in 0..CHOICES {
        let mut chosen = Vec::new();
        for (request, answer) in requests {
            match round.choose(&request).await {
                Ok(places) => chosen.push(Work { places, request, answer }),
                Err(error) => refuse(&mut round, &request, answer, error),
            }
        }
        round.publish().await;
        let mut outcomes = tell_the_cloud(context, &chosen).await;
        fetch_strays(context, &chosen, &mut outcomes).await;
        for (address, _) in outcomes.iter().filter(|(_, outcome)| is_in_use(outcome)) {
            round.vacate(*address);
        }
        requests = Vec::new();
        for work in chosen {
            requests.extend(settle(&mut round, work, &outcomes).await);
        }
        if requests.is_empty() {
            break;
        }
    }
    for (request, answer) in requests {
        let error =
            NotPlaced::new(reason::ADDRESS_CONFLICT, "the cloud calls every address that was tried taken");
        let error = error.holding(request.ips.clone());
        refuse(&mut round, &request, answer, error);
    }
    round.ensure_enis().await;
    if idle {
        warming::run(&mut round).await;
    }
    Ok(())
}

fn refuse(round: &mut Round<'_>, request: &PlaceRequest, answer: Answer, error: NotPlaced) {
    let context = round.context;
    round.memory.refuse(&context.config, context.pools.room.version(), request, &error);
    let _ = answer.send(Err(error));
}

/// A request and what was chosen for it.
struct Work {
    places: Vec<Chosen>,
    request: PlaceRequest,
    answer: Answer,
}

/// What the cloud answered, by address: no two requests have the same.
type Outcomes = HashMap<IpAddr, Result<(), CloudError>>;

fn is_in_use(outcome: &Result<(), CloudError>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind == CloudErrorKind::AddressInUse)
}

/// Puts the chosen addresses on their ENIs, one call per ENI and family and one per address that moves.
async fn tell_the_cloud(context: &Context, works: &[Work]) -> Outcomes {
    let mut by_eni: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    let mut moves = Vec::new();
    for work in works {
        let mut moving = Vec::new();
        for place in work.places.iter().filter(|place| !place.is_there) {
            match &place.from_eni {
                Some(from) => moving.push((from.as_str(), place.eni_id.as_str(), place.address)),
                None => by_eni.entry(&place.eni_id).or_default().push(place.address),
            }
        }
        moves.push(moving);
    }
    let moved = futures::future::join_all(moves.into_iter().map(|moves| move_each(context, moves)));
    let assigned =
        futures::future::join_all(by_eni.into_iter().map(|(eni, ips)| assign_all(context, eni, ips)));
    let (moved, assigned) = tokio::join!(moved, assigned);
    moved.into_iter().chain(assigned).flatten().collect()
}

/// An address that a claim holds and that the cloud calls taken is on another ENI than we know: it was moved, and the
/// word of that was lost. Its object is the claim's, so nobody else can have put it there; from there it is moved.
async fn fetch_strays(context: &Context, works: &[Work], outcomes: &mut Outcomes) {
    let taken = |place: &&Chosen| place.held && outcomes.get(&place.address).is_some_and(is_in_use);
    let strays: Vec<&Chosen> = works.iter().flat_map(|work| &work.places).filter(taken).collect();
    if strays.is_empty() {
        return;
    }
    let enis = match context.provider.enis_of_cluster(&context.config.cluster_id).await {
        Ok(enis) => enis,
        Err(error) => {
            warn!(%error, "where addresses are that the cloud calls taken is not seen");
            return;
        }
    };
    for Chosen { address, eni_id, .. } in strays {
        let Some(eni) = enis.iter().find(|eni| eni.secondary_ips.contains(address)) else { continue };
        info!(%address, on = eni.id, to = eni_id, "not on the ENI that was recorded");
        if eni.id == *eni_id {
            outcomes.insert(*address, Ok(()));
        } else {
            outcomes.extend(move_each(context, vec![(&eni.id, eni_id, *address)]).await);
        }
    }
}

/// Moves addresses, one after the other: an ENI takes one task at a time.
async fn move_each(context: &Context, moves: Vec<(&str, &str, IpAddr)>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for (from, to, ip) in moves {
        let outcome = match context.provider.migrate_ip(from, to, ip).await {
            // It is on no ENI, or its ENI went with its machine: then it is not moved but assigned. An ENI that is on no
            // machine may still have it.
            Err(error) if error.kind == CloudErrorKind::NotFound => {
                match context.provider.unassign_ips(from, &[ip]).await {
                    Err(error) if error.kind != CloudErrorKind::NotFound => Err(error),
                    _ => context.provider.assign_ips(to, &[ip]).await,
                }
            }
            outcome => outcome,
        };
        outcomes.insert(ip, outcome);
    }
    outcomes
}

/// Assigns addresses to one ENI, one family after the other.
async fn assign_all(context: &Context, eni: &str, ips: Vec<IpAddr>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = ips.into_iter().partition(IpAddr::is_ipv4);
    for ips in [v4, v6].iter().filter(|ips| !ips.is_empty()) {
        let together = context.provider.assign_ips(eni, ips).await;
        for ip in ips {
            // One bad address fails the whole call; each alone tells which.
            let outcome = match &together {
                Err(error) if !error.kind.is_transient() && ips.len() > 1 => {
                    context.provider.assign_ips(eni, &[*ip]).await
                }
                outcome => outcome.clone(),
            };
            outcomes.insert(*ip, outcome);
        }
    }
    outcomes
}

/// Answers a request whose addresses are all there, or whose addresses cannot be; returns one that may try others.
async fn settle(round: &mut Round<'_>, work: Work, outcomes: &Outcomes) -> Option<Request> {
    let context = round.context;
    let Work { places, mut request, answer } = work;
    let mut refused = None;
    let mut held = Vec::new();
    for place in places {
        match outcomes.get(&place.address) {
            Some(Err(error)) if error.kind == CloudErrorKind::AddressInUse && place.can_be_replaced => {
                quarantine(context, &place.ip, place.address, error).await;
                context.forget_created(&request.claim.uid, &place.ip.name_any());
                refused.get_or_insert(None);
            }
            Some(Err(error)) => {
                refused = Some(Some(error.clone()));
                held.push(place);
            }
            Some(Ok(())) | None => held.push(place),
        }
    }
    let Some(error) = refused else {
        round.memory.serve(&request);
        let eni_id = held.first().map(|place| place.eni_id.clone()).unwrap_or_default();
        let _ = answer.send(Ok(Placed { ips: held.into_iter().map(|place| place.ip).collect(), eni_id }));
        return None;
    };
    let ips = held.into_iter().map(|place| Arc::new(place.ip)).collect();
    match error {
        Some(error) => {
            refuse(round, &request, answer, NotPlaced::from(error).holding(ips));
            None
        }
        None => {
            request.ips = ips;
            Some((request, answer))
        }
    }
}

/// Somebody outside the cluster has the address: nobody here gets it for a while.
pub async fn quarantine(context: &Context, ip: &VpcIP, address: IpAddr, error: &CloudError) {
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
