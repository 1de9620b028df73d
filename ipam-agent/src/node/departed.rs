//! Bindings whose sandbox was taken down. When their pod has ended too, the binding is over, and the agent says so
//! before it is asked: two writes to the API fewer for each pod that ends in the usual way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tracing::debug;

use crate::{api::pod::runtime_uid, client::live, node::journal::Record};

/// How often the API is asked about a pod. A runtime takes sandboxes down moments before the API hears that their pod
/// has ended, or makes them anew; who is still there then is left to the controller.
const QUESTIONS: u8 = 3;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// A pod whose sandbox was taken down.
#[derive(Clone, Debug)]
struct Left {
    namespace: String,
    name: String,
    uid: Option<String>,
    epoch: i64,
    asked: u8,
    next: Instant,
}

/// Bindings without a sandbox, by the UID of their `VpcIP`.
#[derive(Clone, Debug, Default)]
pub struct Departed(Arc<Mutex<HashMap<String, Left>>>);

impl Departed {
    /// A sandbox was taken down.
    pub fn note(&self, record: &Record) {
        for address in record.addresses() {
            let left = Left {
                namespace: record.pod_namespace.clone(),
                name: record.pod_name.clone(),
                uid: record.pod_uid.clone(),
                epoch: address.epoch,
                asked: 0,
                next: Instant::now(),
            };
            self.lock().insert(address.vpc_ip_uid, left);
        }
    }

    /// Whether the pod of a binding has ended, by a live read: it is gone, or being deleted, or its containers will not
    /// run again. Such a pod gets no other sandbox. `None`: ask again soon.
    pub async fn has_ended(&self, client: &Client, vpc_ip_uid: &str, epoch: i64) -> Option<bool> {
        let Some(left) = self.lock().get(vpc_ip_uid).filter(|left| left.epoch == epoch).cloned() else {
            return Some(false);
        };
        if Instant::now() < left.next {
            return None;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), &left.namespace);
        let ended = match live(&pods, &left.name).await {
            Ok(pod) => pod.is_none_or(|pod| is_over(&pod, left.uid.as_deref())),
            Err(error) => {
                debug!(pod = left.name, %error, "cannot ask whether this pod has ended");
                false
            }
        };
        if ended {
            return Some(true);
        }
        let mut all = self.lock();
        let known = all.get_mut(vpc_ip_uid).filter(|known| known.epoch == epoch)?;
        known.asked += 1;
        known.next = Instant::now() + PAUSE;
        if known.asked < QUESTIONS {
            return None;
        }
        all.remove(vpc_ip_uid);
        Some(false)
    }

    /// Forgets a binding: it was acknowledged, or is in use again.
    pub fn forget(&self, vpc_ip_uid: &str) {
        self.lock().remove(vpc_ip_uid);
    }

    /// Forgets what is not of this node any more.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| known(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_over(pod: &Pod, uid: Option<&str>) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    uid.is_some_and(|uid| runtime_uid(pod).as_deref() != Some(uid))
        || pod.metadata.deletion_timestamp.is_some()
        || matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_pod_that_gets_no_other_sandbox_is_over() {
        let pod = |json| serde_json::from_value::<Pod>(json).unwrap();
        let running = || json!({ "metadata": { "uid": "u" }, "status": { "phase": "Running" } });
        assert!(!is_over(&pod(running()), Some("u")));
        assert!(!is_over(&pod(running()), None), "which pod it was is not known");
        assert!(is_over(&pod(running()), Some("former")));
        let mut copy = running();
        copy["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "hash" });
        assert!(!is_over(&pod(copy.clone()), Some("hash")), "the runtime's word for a static pod");
        assert!(is_over(&pod(copy), Some("u")));
        let mut deleting = running();
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(is_over(&pod(deleting), Some("u")));
        for (phase, over) in [("Pending", false), ("Unknown", false), ("Succeeded", true), ("Failed", true)] {
            let mut pod_in_phase = running();
            pod_in_phase["status"]["phase"] = json!(phase);
            assert_eq!(is_over(&pod(pod_in_phase), Some("u")), over, "{phase}");
        }
    }
}
