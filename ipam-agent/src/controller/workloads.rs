//! The workloads that pods belong to, of whatever kind, read from the API itself and always by UID.
//!
//! Claims have no `ownerReferences`: with them the garbage collector would ask for a claim's deletion while its pod
//! lives, and such a claim serves no later pod; the embedded API has none; and it is the reader that must decide that
//! what it may not read still exists.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::{self, Scope};
use kube::error::DiscoveryError;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tracing::warn;

use super::context::Context;
use super::error::ReconcileError;
use crate::api::{OwnerWorkload, VpcIPClaim};
use crate::client::is_gone;
use crate::ipam::workload::{Fate, Rules, Verdict, place_in};

/// Claims of one workload that are looked at together share one read.
const FRESH: Duration = Duration::from_millis(200);
/// How long a kind that the API does not have is not asked for.
const KIND_AGAIN: Duration = Duration::from_secs(60);
/// How long a chain of owners is known that was climbed to its end, and how many chains are.
const CHAIN_AGAIN: Duration = Duration::from_secs(300);
const CHAINS: usize = 10_000;
/// How often a workload that exists is looked at, in periods of [`super::ControllerConfig::orphan_period`].
const PERIODS: u32 = 5;
/// The longest chain of owners that is climbed.
const LONGEST_CHAIN: usize = 8;
/// The state of a claim whose workload does not want its pod, for [`Context::watched_for`].
const UNWANTED: &str = "unwanted";

type Kind = Option<(ApiResource, Scope)>;

/// What a read has shown.
#[derive(Clone, Debug)]
enum Seen {
    There(Box<DynamicObject>),
    Gone,
    Unknown,
}

/// Reads workloads.
pub struct Workloads {
    client: Client,
    kinds: Mutex<HashMap<(String, String), (Instant, Kind)>>,
    reads: Mutex<HashMap<String, (Instant, Seen)>>,
    /// The top of the chain, by the UID of its lowest workload.
    tops: Mutex<HashMap<String, (Instant, OwnerWorkload)>>,
    told: Mutex<HashSet<String>>,
}

/// The workloads of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// The one at the top.
    pub top: Option<OwnerWorkload>,
    /// The one that made the pod, where that is not the one at the top.
    pub maker: Option<OwnerWorkload>,
    /// The chain could be climbed to its end, or to where nothing more may be read.
    pub complete: bool,
}

impl Workloads {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: Mutex::default(),
            reads: Mutex::default(),
            tops: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// The workloads of a pod, from the one that made it up to the top.
    pub async fn owners_of(&self, pod: &Pod) -> Owners {
        let namespace = pod.namespace().unwrap_or_default();
        let Some(maker) = controller(pod.owner_references()) else {
            return Owners { complete: true, ..Owners::default() };
        };
        let known = lock(&self.tops).get(&maker.uid).filter(|(at, _)| at.elapsed() < CHAIN_AGAIN).cloned();
        let (top, complete) = match known {
            Some((_, top)) => (top, true),
            None => self.climb(&namespace, &maker).await,
        };
        Owners { maker: Some(maker).filter(|maker| *maker != top), top: Some(top), complete }
    }

    /// The top of the chain that begins with a workload, as far as it can be climbed now, and whether that is its end.
    async fn climb(&self, namespace: &str, from: &OwnerWorkload) -> (OwnerWorkload, bool) {
        let mut top = from.clone();
        for _ in 0..LONGEST_CHAIN {
            let next = match self.read(namespace, &top).await {
                Ok(Seen::There(object)) => controller(object.owner_references()),
                Ok(Seen::Unknown) => None,
                Ok(Seen::Gone) | Err(_) => return (top, false),
            };
            match next {
                Some(next) => top = next,
                None => break,
            }
        }
        let mut tops = lock(&self.tops);
        if tops.len() >= CHAINS {
            tops.clear();
        }
        tops.insert(from.uid.clone(), (Instant::now(), top.clone()));
        (top, true)
    }

    /// What became of the workloads of a claim without a pod, and when to look again. A release needs two looks that
    /// are a period apart. What cannot be read now is unknown, and looked at again.
    pub async fn verdict(&self, claim: &VpcIPClaim, context: &Context) -> (Verdict, Option<Duration>) {
        let rules = Rules {
            when_deleted: claim.spec.when_deleted,
            when_scaled: claim.spec.when_scaled,
            cascade: context.config.cascade,
        };
        let (Some(maker), Some(top), true) = (claim.spec.maker(), &claim.spec.owner, rules.any()) else {
            return (Verdict::Expire, None);
        };
        let namespace = claim.namespace().unwrap_or_default();
        let looks = [self.read(&namespace, maker).await, self.read(&namespace, top).await];
        let soon = looks.iter().any(|look| look.as_ref().map_or(true, Seen::is_leaving));
        let [of_maker, of_top] = looks.map(|look| {
            look.unwrap_or_else(|error| {
                warn!(claim = %claim.name_any(), error = &error as &dyn std::error::Error, "workload not read: its addresses stay");
                Seen::Unknown
            })
        });
        let verdict = rules.verdict(fate(&of_maker, &claim.name_any(), maker), fate(&of_top, "", top));
        let (uid, period) = (claim.uid().unwrap_or_default(), context.config.orphan_period);
        if verdict != Verdict::Release {
            context.stop_watching(&uid, UNWANTED);
            return (verdict, Some(if soon { period } else { period * PERIODS }));
        }
        match period.saturating_sub(context.watched_for(&uid, UNWANTED)) {
            Duration::ZERO => (Verdict::Release, None),
            left => (Verdict::Keep, Some(left)),
        }
    }

    /// Whether there is no workload of this UID any more, by a read of its own.
    pub async fn is_gone(&self, namespace: &str, workload: &OwnerWorkload) -> Result<bool, ReconcileError> {
        Ok(matches!(self.read_live(namespace, workload).await?, Seen::Gone))
    }

    async fn read(&self, namespace: &str, workload: &OwnerWorkload) -> Result<Seen, ReconcileError> {
        let now = Instant::now();
        let known = lock(&self.reads).get(&workload.uid).cloned();
        if let Some((_, seen)) = known.filter(|(read, _)| now.duration_since(*read) < FRESH) {
            return Ok(seen);
        }
        let seen = self.read_live(namespace, workload).await?;
        let mut reads = lock(&self.reads);
        reads.retain(|_, (read, _)| now.duration_since(*read) < FRESH);
        reads.insert(workload.uid.clone(), (now, seen.clone()));
        Ok(seen)
    }

    async fn read_live(&self, namespace: &str, workload: &OwnerWorkload) -> Result<Seen, ReconcileError> {
        let OwnerWorkload { api_version, kind, name, uid } = workload;
        let Some((resource, scope)) = self.kind(api_version, kind).await? else { return Ok(Seen::Unknown) };
        let client = self.client.clone();
        let api: Api<DynamicObject> = match scope {
            Scope::Namespaced => Api::namespaced_with(client, namespace, &resource),
            Scope::Cluster => Api::all_with(client, &resource),
        };
        match api.get(name).await {
            Ok(object) if object.uid().as_ref() == Some(uid) => Ok(Seen::There(Box::new(object))),
            // Another of the same name.
            Ok(_) => Ok(Seen::Gone),
            // Only the word about this very object counts: the kind itself may just have gone.
            Err(kube::Error::Api(status)) if is_gone(&status, name) => Ok(Seen::Gone),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Seen::Unknown),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let resource = format!("{}.{}", resource.plural, resource.group);
                self.tell_once(
                    &resource,
                    "grant the verb get of this resource; until then addresses of its pods stay",
                );
                Ok(Seen::Unknown)
            }
            Err(source) => Err(ReconcileError::Api { action: format!("read {kind} {name}"), source }),
        }
    }

    /// The resource of a kind; `None` when the API has none.
    async fn kind(&self, api_version: &str, kind: &str) -> Result<Kind, ReconcileError> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some((asked, known)) = lock(&self.kinds).get(&key)
            && (known.is_some() || asked.elapsed() < KIND_AGAIN)
        {
            return Ok(known.clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found =
            match discovery::pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await {
                Ok((resource, capabilities)) => Some((resource, capabilities.scope)),
                Err(kube::Error::Discovery(
                    DiscoveryError::MissingKind(_) | DiscoveryError::MissingResource(_),
                )) => None,
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => None,
                Err(source) => return Err(ReconcileError::Api { action: format!("look up {kind}"), source }),
            };
        if found.is_none() {
            self.tell_once(
                &format!("{kind} of {api_version}"),
                "the API has no such kind; addresses of its pods stay",
            );
        }
        lock(&self.kinds).insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    fn tell_once(&self, what: &str, remedy: &str) {
        if lock(&self.told).insert(what.to_owned()) {
            warn!("cannot read {what}: {remedy}");
        }
    }
}

impl Seen {
    fn is_leaving(&self) -> bool {
        matches!(self, Self::There(object) if object.metadata.deletion_timestamp.is_some())
    }
}

/// The fate of a pod's place in a workload. Only a StatefulSet numbers its pods.
fn fate(seen: &Seen, pod: &str, workload: &OwnerWorkload) -> Fate {
    let object = match seen {
        Seen::There(object) => object,
        Seen::Gone => return Fate::Gone,
        Seen::Unknown => return Fate::Unknown,
    };
    let number = |pointer| object.data.pointer(pointer).and_then(Value::as_i64);
    match number("/spec/replicas") {
        Some(replicas) if workload.kind == "StatefulSet" => {
            let Some(reserved) = reserved(object.data.pointer("/spec/reserveOrdinals")) else {
                return Fate::Wanted;
            };
            let start = number("/spec/ordinals/start").unwrap_or(0);
            place_in(pod, &workload.name, start, replicas, reserved)
        }
        _ => Fate::Wanted,
    }
}

/// The ordinals that OpenKruise's StatefulSet leaves out: numbers, and ranges such as `3-5`. `None`: not to be read.
fn reserved(ordinals: Option<&Value>) -> Option<Vec<RangeInclusive<i64>>> {
    let Some(ordinals) = ordinals.filter(|ordinals| !ordinals.is_null()) else { return Some(Vec::new()) };
    let range = |ordinal: &Value| {
        if let Some(ordinal) = ordinal.as_i64() {
            return Some(ordinal..=ordinal);
        }
        let (first, last) = ordinal.as_str()?.split_once('-')?;
        let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
        (!range.is_empty()).then_some(range)
    };
    ordinals.as_array()?.iter().map(range).collect()
}

/// The claim has a pod, or holds nothing that waits for one: of the two looks that a release needs, none came before this.
pub fn is_wanted(claim: &VpcIPClaim, context: &Context) {
    context.stop_watching(&claim.uid().unwrap_or_default(), UNWANTED);
}

/// The controller among owners.
pub fn controller(owners: &[OwnerReference]) -> Option<OwnerWorkload> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some(OwnerWorkload {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The fates of `web-0`, `web-1` and so on in a StatefulSet.
    fn fates(spec: &Value, pods: usize) -> String {
        let object = json!({ "metadata": { "name": "web" }, "spec": spec });
        let seen = Seen::There(Box::new(serde_json::from_value(object).unwrap()));
        let workload = OwnerWorkload {
            api_version: "apps.kruise.io/v1beta1".into(),
            kind: "StatefulSet".into(),
            name: "web".into(),
            uid: "uid".into(),
        };
        let fate = |ordinal| match fate(&seen, &format!("web-{ordinal}"), &workload) {
            Fate::Wanted => 'w',
            Fate::ScaledAway => '-',
            other => panic!("{other:?}"),
        };
        (0..pods).map(fate).collect()
    }

    #[test]
    fn reserved_ordinals_shift_the_end_of_a_statefulset() {
        for (reserved, fates_of_8) in [
            (json!(null), "ww------"),
            (json!([]), "ww------"),
            (json!([1]), "www-----"),
            (json!(["1-3"]), "wwwww---"),
            (json!(["0001-03", 2, "2-3"]), "wwwww---"),
            // Beyond the end they move nothing.
            (json!([5, "6-9"]), "ww------"),
            (json!([0, "2-3"]), "wwwww---"),
        ] {
            let spec = json!({ "replicas": 2, "reserveOrdinals": reserved });
            assert_eq!(fates(&spec, 8), fates_of_8, "{spec}");
        }
        let spec = json!({ "replicas": 4, "reserveOrdinals": [1, 3], "ordinals": { "start": 2 } });
        assert_eq!(fates(&spec, 9), "wwwwwww--", "{spec}");
    }

    #[test]
    fn a_statefulset_whose_reserved_ordinals_cannot_be_read_wants_all_its_pods() {
        for reserved in
            [json!(["x"]), json!(["3-1"]), json!(["1-2-3"]), json!([1.5]), json!("1-3"), json!([[1]])]
        {
            let spec = json!({ "replicas": 1, "reserveOrdinals": reserved });
            assert_eq!(fates(&spec, 9), "wwwwwwwww", "{spec}");
        }
    }
}
