//! `NodeENIConfig`: what a node may have, and its ENIs.

use ipam_common::{MAX_ENIS, maps::MAX_PODS};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the node may have. The limits are the operator's to change; the rest is taken from the node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eni-ipam.dev",
    version = "v1",
    kind = "NodeENIConfig",
    plural = "nodeeniconfigs",
    singular = "nodeeniconfig",
    shortname = "nec",
    category = "eni-ipam",
    doc = "What a node may have, and its ENIs. The name is the node's.",
    status = "NodeENIConfigStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.instanceID"}"#,
    printcolumn = r#"{"name":"Zone","type":"string","jsonPath":".spec.zone"}"#,
    printcolumn = r#"{"name":"ENIs","type":"integer","jsonPath":".status.eniCount","description":"Attached ENIs that carry pods"}"#,
    printcolumn = r#"{"name":"Max-ENIs","type":"integer","jsonPath":".spec.maxENIs"}"#,
    printcolumn = r#"{"name":"IPs-per-ENI","type":"integer","jsonPath":".spec.maxIPsPerENI","description":"Secondary addresses that one ENI can have"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason","description":"ENIsReady, or why the node did not get an ENI that it needs"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.message","description":"The last error of creating or attaching an ENI"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeENIConfigSpec {
    /// The cloud's name of the machine: the last part of the node's `spec.providerID`, or the node's name
    /// where it has none.
    #[serde(rename = "instanceID")]
    #[schemars(length(min = 1, max = 253))]
    pub instance_id: String,
    /// Zone of the machine (`topology.kubernetes.io/zone`). New ENIs come from subnets of this zone.
    pub zone: String,
    /// Secondary ENIs that the machine can take. The node's eBPF maps hold 64.
    #[serde(rename = "maxENIs")]
    #[schemars(range(min = 0, max = MAX_ENIS), extend("format" = "int32"))]
    pub max_enis: u32,
    /// Secondary addresses of one ENI, of each family; its primary address is not counted. The node's eBPF maps hold 4096 pods.
    #[serde(rename = "maxIPsPerENI")]
    #[schemars(range(min = 1, max = MAX_PODS), extend("format" = "int32"))]
    pub max_ips_per_eni: u32,
    /// Addresses that wait on the node's ENIs for pods to come; absent: as the controller's flags say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<WarmSpec>,
}

/// Addresses that wait for pods. More than `max` are taken back after a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("min must not be above max"))]
#[serde(rename_all = "camelCase")]
pub struct WarmSpec {
    /// Fewer are filled up.
    #[schemars(range(min = 0, max = MAX_PODS), extend("format" = "int32"))]
    pub min: u32,
    /// More are taken back.
    #[schemars(range(min = 0, max = MAX_PODS), extend("format" = "int32"))]
    pub max: u32,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeENIConfigStatus {
    /// Number of ENIs that are attached.
    #[serde(default)]
    #[schemars(extend("format" = "int32"))]
    pub eni_count: u32,
    /// The node's ENIs that may carry pods, by ID. The agent brings up those that are attached.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub enis: Vec<EniStatus>,
    /// The last error of creating or attaching an ENI, in the cloud's own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether the node has got the ENIs it needs, and whether their subnets are configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What the cloud says the machine can take. As long as `spec` says the same, it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineStatus>,
}

/// Limits of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Its type (`node.kubernetes.io/instance-type`) when the cloud was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance_type: String,
    /// Secondary ENIs.
    #[serde(rename = "maxENIs")]
    #[schemars(extend("format" = "int32"))]
    pub max_enis: u32,
    /// Secondary addresses of one ENI.
    #[serde(rename = "maxIPsPerENI")]
    #[schemars(extend("format" = "int32"))]
    pub max_ips_per_eni: u32,
}

/// An ENI of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EniStatus {
    /// The cloud's name of the ENI.
    pub id: String,
    /// Its MAC, lower case with colons.
    #[schemars(regex(pattern = r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$"))]
    pub mac: String,
    /// Its subnet.
    #[serde(rename = "subnetID")]
    pub subnet_id: String,
    /// CIDR of the subnet.
    #[serde(rename = "subnetCIDR")]
    pub subnet_cidr: String,
    /// Next hop of the subnet.
    pub gateway: String,
    /// IPv6 CIDR of the subnet, where it has one.
    #[serde(rename = "subnetCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub subnet_cidr_v6: Option<String>,
    /// Next hop of the subnet for IPv6, mostly a link-local address, which is one of this ENI's link.
    #[serde(rename = "gatewayIPv6", default, skip_serializing_if = "Option::is_none")]
    pub gateway_ipv6: Option<String>,
    /// Its primary address, which no pod can have.
    #[serde(rename = "primaryIP")]
    pub primary_ip: String,
    /// Where it stands.
    pub state: EniState,
}

/// Where an ENI stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EniState {
    /// Exists, not yet on the machine.
    Attaching,
    /// On the machine.
    Attached,
    /// Being taken off the machine.
    Detaching,
}
