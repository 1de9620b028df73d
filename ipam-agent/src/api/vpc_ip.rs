//! `VpcIP`: an address that is taken.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use super::Fencing;

/// Annotation of a `VpcIP`: the ENI that it was created for. Until it is bound the status names none.
pub const CHOSEN_ENI: &str = "eni-ipam.dev/chosen-eni";

/// CEL: a text is an IP address. The library `ip` is in Kubernetes 1.31.
const IS_IP: &str = "isIP(self)";

/// CEL: what [`VpcIP::name_of`] does. One address has one name, or creating it would be no lock.
const NAMED_BY_ADDRESS: &str = "!isIP(self.spec.ip) || (ip(self.spec.ip).family() == 4 \
     ? self.metadata.name == self.spec.ip \
     : self.metadata.name.matches('^[0-9a-f]{4}(-[0-9a-f]{4}){7}$') \
       && isIP(self.metadata.name.replace('-', ':')) \
       && ip(self.metadata.name.replace('-', ':')) == ip(self.spec.ip))";

/// An address that is taken: what never changes while it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eni-ipam.dev",
    version = "v1",
    kind = "VpcIP",
    plural = "vpcips",
    singular = "vpcip",
    shortname = "vip",
    category = "eni-ipam",
    doc = "An address that is taken, and by whom. Its name is the address: two objects of one address cannot exist.",
    status = "VpcIPStatus",
    derive = "PartialEq",
    validation = Rule::new(NAMED_BY_ADDRESS)
        .message("the name must be the address itself; IPv6 in eight groups of four digits joined by dashes"),
    selectable = ".status.nodeName",
    selectable = ".status.phase",
    selectable = ".spec.type",
    selectable = ".spec.claimRef.namespace",
    selectable = ".spec.claimRef.name",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type","description":"Pod, or ENI for the primary address of an ENI"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.claimRef.namespace"}"#,
    printcolumn = r#"{"name":"Claim","type":"string","jsonPath":".spec.claimRef.name","description":"The claim that holds the address, named as its pod"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodeName"}"#,
    printcolumn = r#"{"name":"ENI","type":"string","jsonPath":".status.eniID"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","description":"How often the address was bound"}"#,
    printcolumn = r#"{"name":"Detached","type":"date","jsonPath":".status.detached.at","description":"Since when its node has not used it any more; its claim says until when it is kept"}"#,
    printcolumn = r#"{"name":"Subnet","type":"string","priority":1,"jsonPath":".spec.subnetID"}"#,
    printcolumn = r#"{"name":"Pod-UID","type":"string","priority":1,"jsonPath":".status.podUID"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.message","description":"The last error, in the cloud's own words"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("the spec of a VpcIP never changes: delete the claim that holds the address, and it is released"),
    validation = Rule::new("(self.type == 'Pod') == has(self.claimRef)")
        .message("an address of type Pod needs a claimRef, and one of type ENI has none"),
)]
#[serde(rename_all = "camelCase")]
pub struct VpcIPSpec {
    /// Who uses the address: a pod, or an ENI as its primary address.
    #[serde(rename = "type")]
    pub type_: VpcIPType,
    /// The address, in its usual notation.
    #[schemars(length(max = 45))]
    #[x_kube(validation = Rule::new(IS_IP).message("must be one IP address such as 10.0.1.7"))]
    pub ip: String,
    /// Subnet of the address.
    #[serde(rename = "subnetID")]
    #[schemars(length(min = 1, max = 253))]
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
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the claim and its pod.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the claim.
    #[schemars(length(min = 1, max = 128))]
    pub uid: String,
}

/// State of an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.phase != 'Bound' || (has(self.nodeName) && has(self.eniID))")
        .message("a Bound address is on an ENI of a node"),
)]
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
    /// Names of the `VpcIP`s that were bound together to the pod, this one among them, in the order of the families;
    /// empty: this one alone. No agent gives any of them to the pod before all are `Bound` to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 253)))]
    pub together: Vec<String>,
    /// What it takes for the address to leave its node, as the claim had it when it was bound.
    #[serde(default, skip_serializing_if = "Fencing::is_default")]
    pub fencing: Fencing,
    /// Raised by one at each bind; 0: never bound. A release that names another epoch does nothing.
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("an epoch never goes back"))]
    pub epoch: i64,
    /// The node agent's word that nothing on the node uses the address any more. An agent whose pod has ended gives it
    /// unasked, and sets the phase to `Retained`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detached: Option<Detached>,
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
    /// No pod has it, and its node does not use it. Its claim, which still holds it, says what follows: it is kept for
    /// the next pod of the claim's name, or given back.
    Retained,
    /// Nobody's. It is taken off its ENI, and not given to anyone until the cooldown is over.
    Cooldown,
    /// Seen in use by a foreign host, or refused by the cloud as taken. Not given to anyone.
    Quarantined,
}

impl VpcIPStatus {
    /// Whether the node has said that nothing there uses the address any more, as it is bound now.
    #[must_use]
    pub fn is_let_go(&self) -> bool {
        self.detached.as_ref().is_some_and(|detached| detached.epoch >= self.epoch)
    }
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

    /// The ENI that holds the address, or that it was chosen for and may have been put on.
    #[must_use]
    pub fn eni(&self) -> Option<String> {
        let chosen = || self.metadata.annotations.as_ref()?.get(CHOSEN_ENI).cloned();
        self.status.as_ref().and_then(|status| status.eni_id.clone()).or_else(chosen)
    }

    /// The status, or that of an address just allocated when none was written yet.
    #[must_use]
    pub fn state(&self) -> VpcIPStatus {
        self.status.clone().unwrap_or_default()
    }
}
