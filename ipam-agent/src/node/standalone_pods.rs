//! Pod objects for containers of no cluster: standalone mode makes one for each, and from then on a plain container
//! is a pod like any other.

use std::{collections::BTreeMap, time::Duration};

use ipam_cni::{
    error::{CniError, code},
    protocol::AttachmentKey,
};
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use wildmatch::WildMatch;

use crate::{
    api::{
        DeletePolicy, GROUP,
        annotations::{DELETE_POLICY, EXPIRED_DURATION, PREFIX},
    },
    node::{bindings::PodName, context::Node, journal::State},
};

/// Namespace of containers that have none.
const NAMESPACE: &str = "default";
/// Label of the Pods that node agents make; the value is the node's name.
const MADE_BY_LABEL: &str = "eni-ipam.dev/made-by-node";
/// How long an ADD waits for the former container of the same name to be gone.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(10);

/// Which containers keep their address.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct PodRules {
    /// Containers whose address is kept when they go, by name; `*` and `?` stand for any characters.
    #[arg(long = "static-names", value_name = "PATTERN", value_delimiter = ',')]
    pub static_names: Vec<String>,
    /// How long an address is kept: a duration of at least 5m such as 1h30m, or never. Absent: the controller's default.
    #[arg(long = "static-expiry", value_name = "DURATION", value_parser = parse_expiry)]
    pub expired_duration: Option<String>,
}

fn parse_expiry(text: &str) -> Result<String, String> {
    match crate::api::annotations::parse_expiry(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(problem) => Err(format!("{problem}; write a duration of at least 5m such as 1h30m, or never")),
    }
}

impl PodRules {
    /// The annotations of a container's Pod.
    #[must_use]
    pub fn annotations(&self, container: &str) -> BTreeMap<String, String> {
        let keep = self.static_names.iter().any(|pattern| WildMatch::new(pattern).matches(container));
        let policy = if keep { DeletePolicy::Never } else { DeletePolicy::Immediate };
        let mut annotations = BTreeMap::from([(format!("{PREFIX}{DELETE_POLICY}"), format!("{policy:?}"))]);
        if let (true, Some(duration)) = (keep, &self.expired_duration) {
            annotations.insert(format!("{PREFIX}{EXPIRED_DURATION}"), duration.clone());
        }
        annotations
    }
}

/// Makes and deletes the Pods of this node's containers.
pub struct StandalonePods {
    api: Api<Pod>,
    node_name: String,
    rules: PodRules,
}

impl StandalonePods {
    /// For the containers of one node.
    #[must_use]
    pub fn new(client: Client, node_name: &str, rules: PodRules) -> Self {
        Self { api: Api::namespaced(client, NAMESPACE), node_name: node_name.to_owned(), rules }
    }

    /// Makes the Pod of a container. One of the same name that is left of a former container is deleted first.
    ///
    /// # Errors
    /// When another container of this name is attached, or the API refuses.
    pub async fn create(
        &self,
        node: &Node,
        container: &str,
        key: &AttachmentKey,
    ) -> Result<PodName, CniError> {
        let name = pod_name(container);
        let pod = self.pod(container, &name);
        let deadline = Instant::now() + PREDECESSOR_WAIT;
        let refused = |error: kube::Error| {
            CniError::new(code::TRY_AGAIN_LATER, format!("cannot make the Pod object {name}"))
                .details(error.to_string())
        };
        loop {
            match self.api.create(&PostParams::default(), &pod).await {
                Ok(made) => {
                    return Ok(PodName { namespace: NAMESPACE.to_owned(), name, uid: made.uid() });
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(refused(error)),
            }
            if let Some(former) = self.api.get_opt(&name).await.map_err(refused)? {
                let held = node.journal.book().attachments.values().find_map(|record| {
                    let holds = record.pod_uid == former.uid() && record.key != *key;
                    holds.then(|| (record.state, record.key.container_id.clone()))
                });
                match held {
                    // Its DEL was answered; the rest follows in moments.
                    Some((State::Detaching, _)) => {}
                    Some((_, other)) => {
                        return Err(CniError::new(
                            code::INVALID_CONFIG,
                            format!("container {other} of the name {container} is attached"),
                        )
                        .details("a name is one pod, with one address: give this container another"));
                    }
                    None => {
                        let uid = former.uid();
                        let former = PodName { namespace: NAMESPACE.to_owned(), name: name.clone(), uid };
                        // It may have finalizers, and stay for a while.
                        self.delete(&former).await.map_err(refused)?;
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(CniError::new(
                    code::TRY_AGAIN_LATER,
                    format!("the former container of the name {container} is not gone yet"),
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Deletes a Pod, if it is still this very one.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn delete(&self, pod: &PodName) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: pod.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        match self.api.delete(&pod.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes the Pods of this node that no attachment holds: what an agent left that died before its journal knew.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn sweep(&self, node: &Node) -> Result<(), kube::Error> {
        let ours = ListParams::default().labels(&format!("{MADE_BY_LABEL}={}", self.node_name));
        for pod in self.api.list(&ours).await? {
            let uid = pod.uid();
            if node.journal.book().attachments.values().any(|record| record.pod_uid == uid) {
                continue;
            }
            let name = pod.name_any();
            info!(pod = name, "deleting a Pod object whose container is gone");
            if let Err(error) = self.delete(&PodName { namespace: NAMESPACE.to_owned(), name, uid }).await {
                warn!(%error, "cannot delete a Pod object");
            }
        }
        Ok(())
    }

    fn pod(&self, container: &str, name: &str) -> Pod {
        // The API wants a container; nobody runs this one.
        let container_of_name =
            Container { name: "container".into(), image: Some("unknown".into()), ..Default::default() };
        let mut annotations = self.rules.annotations(container);
        annotations.insert(format!("{GROUP}/container-name"), container.to_owned());
        Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                annotations: Some(annotations),
                labels: Some(BTreeMap::from([(MADE_BY_LABEL.to_owned(), self.node_name.clone())])),
                ..Default::default()
            },
            spec: Some(PodSpec {
                node_name: Some(self.node_name.clone()),
                containers: vec![container_of_name],
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// The Pod's name of a container. Names that Kubernetes does not allow (podman makes `happy_hopper`) are made fit; a
/// piece of their hash keeps two of them apart.
fn pod_name(container: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = container.len() <= 63
        && container.chars().all(allowed)
        && !container.starts_with('-')
        && !container.ends_with('-');
    if fits && !container.is_empty() {
        return container.to_owned();
    }
    let fitted: String = container
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if allowed(c) { c } else { '-' })
        .take(50)
        .collect();
    let hash = hex::encode(Sha256::digest(container));
    format!("{}-{}", fitted.trim_matches('-'), &hash[..8]).trim_start_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_become_names_of_pods() {
        assert_eq!(pod_name("web-0"), "web-0");
        assert!(pod_name("happy_hopper").starts_with("happy-hopper-"));
        assert_ne!(pod_name("happy_hopper"), pod_name("happy.hopper"));
        assert_eq!(pod_name("happy_hopper"), pod_name("happy_hopper"));
        let long = pod_name(&"a".repeat(64));
        assert!(long.len() <= 63, "{long}");
        assert_eq!(pod_name("___").len(), 8);
    }

    #[test]
    fn rules_make_an_address_static_by_name() {
        let rules = PodRules {
            static_names: vec!["web-*".into(), "db".into()],
            expired_duration: Some("1h30m".into()),
        };
        let policy = |name: &str| {
            let (wish, bad) = crate::api::annotations::AddressWish::parse(&rules.annotations(name));
            assert_eq!(bad, []);
            (wish.delete_policy, wish.expired_duration)
        };
        assert_eq!(policy("web-0"), (Some(DeletePolicy::Never), Some("1h30m".into())));
        assert_eq!(policy("db"), (Some(DeletePolicy::Never), Some("1h30m".into())));
        assert_eq!(policy("db2"), (Some(DeletePolicy::Immediate), None));
        assert!(parse_expiry("10s").unwrap_err().starts_with("is shorter than 5m; write "));
    }
}
