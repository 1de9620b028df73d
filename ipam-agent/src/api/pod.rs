//! What the pods of a cluster are known by.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

/// Annotation of the API's copy of a pod that a kubelet has from a file (a static pod, in the words of Kubernetes). Its
/// value is the UID that the pod has there.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The UID by which the runtime names the pod: its own, and that of the pod in the file for the copy of such a one.
#[must_use]
pub fn runtime_uid(pod: &Pod) -> Option<String> {
    pod.annotations().get(MIRROR).cloned().or_else(|| pod.uid())
}

/// Whether the pod is on the host's network, where nothing is made for it.
#[must_use]
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_of_a_static_pod_is_known_by_the_uid_that_its_kubelet_gave_it() {
        let pod = |metadata| serde_json::from_value::<Pod>(json!({ "metadata": metadata })).unwrap();
        assert_eq!(runtime_uid(&pod(json!({ "uid": "u" }))).as_deref(), Some("u"));
        let copy = json!({ "uid": "u", "annotations": { MIRROR: "hash" } });
        assert_eq!(runtime_uid(&pod(copy)).as_deref(), Some("hash"));
        assert_eq!(runtime_uid(&pod(json!({}))), None);
    }
}
