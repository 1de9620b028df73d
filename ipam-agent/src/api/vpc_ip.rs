//! `VpcIP`: an address that is taken.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address that is taken. [`VpcIP::name_of`] gives its name; two objects of one address cannot exist.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eni-ipam.dev",
    version = "v1",
    kind = "VpcIP",
    plural = "vpcips",
    singular = "vpcip",
    shortname = "vip",
    status = "VpcIPStatus",
    derive = "PartialEq",
    selectable = ".status.nodeName",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.claimRef.namespace"}"#,
    printcolumn = r#"{"name":"Claim","type":"string","jsonPath":".spec.claimRef.name"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodeName"}"#,
    printcolumn = r#"{"name":"ENI","type":"string","jsonPath":".status.eniID"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.expireAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VpcIPSpec {
    /// Who uses the address: a pod, or an ENI as its primary address.
    #[serde(rename = "type")]
    pub type_: VpcIPType,
    /// The address, in its usual notation.
    pub ip: String,
    /// Subnet of the address.
    #[serde(rename = "subnetID")]
    pub subnet_id: String,
    /// The claim that holds the address; absent for an ENI's primary address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_ref: Option<ClaimRef>,
}

/// What uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VpcIPType {
    /// A pod, through a claim.
    Pod,
    /// An ENI, as its primary address.
    #[serde(rename = "ENI")]
    Eni,
}

/// A claim, by UID: a claim of the same name made later is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimRef {
    /// Namespace of the claim and its pod.
    pub namespace: String,
    /// Name of the claim and its pod.
    pub name: String,
    /// UID of the claim.
    pub uid: String,
}

/// State of an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcIPStatus {
    /// Where the address stands in its life.
    #[serde(default)]
    pub phase: IpPhase,
    /// The node whose ENI holds, or last held, the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The ENI that holds the address in the cloud.
    #[serde(rename = "eniID", default, skip_serializing_if = "Option::is_none")]
    pub eni_id: Option<String>,
    /// UID of the pod that the address is, or was last, bound to.
    #[serde(rename = "podUID", default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Raised by one at each bind; 0: never bound. A release that names another epoch does nothing.
    #[serde(default)]
    pub epoch: i64,
    /// The node agent's word that nothing on the node uses the address any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detached: Option<Detached>,
    /// When a retained address will be reclaimed; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<Time>,
    /// When the cooldown began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Time>,
    /// The last error, in the cloud's own words; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A node agent's acknowledgement: no interface, route or map entry of this address is left on the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Detached {
    /// The epoch that is over.
    pub epoch: i64,
    /// When the agent saw it.
    pub at: Time,
}

/// The life of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpPhase {
    /// Taken for a claim, not yet on an ENI.
    #[default]
    Allocated,
    /// The cloud has been asked to put it on an ENI, or refused: `message` has its words.
    Attaching,
    /// On an ENI of the pod's node. Only now may an agent give it to the pod.
    Bound,
    /// The pod is gone; the agent of `nodeName` must acknowledge with `detached`.
    Detaching,
    /// Kept for the next pod of the claim's name.
    Retained,
    /// Off every ENI; not given to anyone until the cooldown is over.
    Cooldown,
    /// Seen in use by a foreign host, or refused by the cloud as taken. Not given to anyone.
    Quarantined,
}

impl VpcIP {
    /// Object name of an address. IPv4 as it is; IPv6, whose colons a name may not have, in eight full
    /// groups joined by dashes (`fd00::1` is `fd00-0000-0000-0000-0000-0000-0000-0001`).
    #[must_use]
    pub fn name_of(ip: IpAddr) -> String {
        match ip {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:04x}")).join("-"),
        }
    }

    /// The status, or that of an address just allocated when none was written yet.
    #[must_use]
    pub fn state(&self) -> VpcIPStatus {
        self.status.clone().unwrap_or_default()
    }
}
