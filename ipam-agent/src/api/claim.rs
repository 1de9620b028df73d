//! `VpcIPClaim`: what a pod of this name needs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fencing;

/// CEL: one address, or one of each family with a comma between. The library `ip` is in Kubernetes 1.31.
const ARE_IPS: &str = "self.split(',').size() <= 2 && self.split(',').all(text, isIP(text)) && \
     (self.split(',').size() == 1 || !self.split(',').all(text, isIP(text)) \
      || ip(self.split(',')[0]).family() != ip(self.split(',')[1]).family())";

/// CEL: what [`crate::api::annotations::format_expiry`] writes. `duration()` knows hours, minutes and seconds only.
const IS_EXPIRY: &str =
    "self == 'never' || (self.matches('^([0-9]+[hms])+$') && duration(self) >= duration('5m'))";

/// What the pod asks for. The claim outlives the pod when the policy is `Never`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eni-ipam.dev",
    version = "v1",
    kind = "VpcIPClaim",
    plural = "vpcipclaims",
    singular = "vpcipclaim",
    shortname = "vipc",
    category = "eni-ipam",
    doc = "A pod's need for an address. Namespace and name are the pod's; it outlives the pod when its deletePolicy is Never.",
    namespaced,
    status = "VpcIPClaimStatus",
    derive = "PartialEq",
    selectable = ".status.phase",
    selectable = ".status.nodeName",
    selectable = ".spec.deletePolicy",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.address"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason","description":"Bound, or what the claim waits for; describe has the sentence"}"#,
    printcolumn = r#"{"name":"Policy","type":"string","jsonPath":".spec.deletePolicy","description":"Never: the address is static; Immediate: it goes with the pod"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodeName"}"#,
    printcolumn = r#"{"name":"ENI","type":"string","priority":1,"jsonPath":".status.eniID"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","description":"Epoch of the last binding"}"#,
    printcolumn = r#"{"name":"Retained","type":"date","jsonPath":".status.detachedAt","description":"Since when the address is kept without a pod"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.expireAt","description":"When the retained address is reclaimed; none: never"}"#,
    printcolumn = r#"{"name":"Addresses","type":"string","priority":1,"jsonPath":".status.addresses","description":"All addresses of a pod that has more than one"}"#,
    printcolumn = r#"{"name":"Owner-Kind","type":"string","priority":1,"jsonPath":".spec.owner.kind"}"#,
    printcolumn = r#"{"name":"Owner","type":"string","priority":1,"jsonPath":".spec.owner.name"}"#,
    printcolumn = r#"{"name":"Pod-UID","type":"string","priority":1,"jsonPath":".status.podUID"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VpcIPClaimSpec {
    /// Whether the address outlives the pod.
    #[serde(default)]
    pub delete_policy: DeletePolicy,
    /// How long a retained address is kept after the pod is detached: a duration such as `1h30m`, at least
    /// `5m`, or `never`. Absent: the controller's `--claim-expired-duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(IS_EXPIRY).message("write a duration of at least 5m such as 1h30m, or never"))]
    pub expired_duration: Option<String>,
    /// The one address this pod wants, or one of each family with a comma between.
    #[serde(rename = "nominatedIP", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 91))]
    #[x_kube(validation = Rule::new(ARE_IPS).message("write one IP address such as 10.0.1.7, or one of each family: 10.0.1.7,fd00::7"))]
    pub nominated_ip: Option<String>,
    /// The subnets the address may come from; empty: any subnet of the node's zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1, max = 253)))]
    pub nominated_subnets: Vec<String>,
    /// What happens to the address when the workload that made the pod is gone. Absent: it is kept for as long as
    /// `expiredDuration` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_deleted: Option<Afterwards>,
    /// What happens to the address when a StatefulSet has fewer replicas than the pod's ordinal needs. Absent: it is kept for as long
    /// as `expiredDuration` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_scaled: Option<Afterwards>,
    /// What it takes for the address to go to another node when its own does not answer.
    #[serde(default, skip_serializing_if = "Fencing::is_default")]
    pub fencing: Fencing,
    /// The workload at the top of the pod's owner chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerWorkload>,
    /// The workload that made the pod, where that is not the one at the top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<OwnerWorkload>,
}

/// What happens to the address of a pod that its workload does not want any more; as a StatefulSet's
/// `persistentVolumeClaimRetentionPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Afterwards {
    /// It is kept, also beyond `expiredDuration`.
    Retain,
    /// It is given back.
    Delete,
    /// It is kept for as long as `expiredDuration` says.
    #[serde(rename = "TTL")]
    Ttl,
}

/// What happens to the address when the pod goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletePolicy {
    /// The address goes back to the subnet with the pod.
    #[default]
    Immediate,
    /// The address is static: kept for the next pod of the same name.
    Never,
}

/// A workload, by UID: a workload of the same name made later is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerWorkload {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `StatefulSet`.
    pub kind: String,
    /// Name of the workload, in the claim's namespace.
    pub name: String,
    /// UID of the workload.
    pub uid: String,
}

/// What has become of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcIPClaimStatus {
    /// Where the claim stands.
    #[serde(default)]
    pub phase: ClaimPhase,
    /// The address that this claim holds; of several, that of the first family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The addresses of all families, `address` being the first; empty when that is the only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The node the address is, or was last, bound on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The ENI that holds the address.
    #[serde(rename = "eniID", default, skip_serializing_if = "Option::is_none")]
    pub eni_id: Option<String>,
    /// UID of the pod the address is, or was last, bound to.
    #[serde(rename = "podUID", default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Epoch of the last binding.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// When the last pod was seen detached. Retention counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detached_at: Option<Time>,
    /// When the retained address will be reclaimed; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<Time>,
    /// Why the claim waits, if it does: the types `Ready` and `DeletionPendingInUse`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl VpcIPClaimStatus {
    /// The addresses that this claim holds, of all families.
    pub fn all_addresses(&self) -> impl Iterator<Item = &str> {
        let others = self.addresses.iter().filter(|ip| Some(*ip) != self.address.as_ref());
        self.address.iter().chain(others).map(String::as_str)
    }
}

impl VpcIPClaimSpec {
    /// The workload that made the pod.
    #[must_use]
    pub fn maker(&self) -> Option<&OwnerWorkload> {
        self.maker.as_ref().or(self.owner.as_ref())
    }

    /// The addresses that this pod wants, as they are written.
    pub fn nominated_ips(&self) -> impl Iterator<Item = &str> {
        self.nominated_ip.iter().flat_map(|list| list.split(',')).map(str::trim)
    }
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimPhase {
    /// No address is bound yet; a condition says why.
    #[default]
    Pending,
    /// The address is bound to the pod's node: CNI ADD can be answered.
    Bound,
    /// The pod is gone; its node has not yet said that nothing uses the address.
    Detaching,
    /// No pod; the address is kept for the next one of this name.
    Retained,
    /// The address is on its way back to the subnet.
    Releasing,
}
