//! A custom resource with one of everything that ours have. Not ours, so that recorded answers outlive changes of them.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a thing is to be.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "seam.eni-ipam.dev",
    version = "v1",
    kind = "Thing",
    plural = "things",
    singular = "thing",
    shortname = "th",
    category = "seam",
    namespaced,
    status = "ThingStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name != 'forbidden'").message("this name is forbidden"),
    selectable = ".spec.color",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Color","type":"string","jsonPath":".spec.color","description":"What it looks like"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch"}"#,
    printcolumn = r#"{"name":"Tags","type":"string","priority":1,"jsonPath":".spec.tags"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("!has(oldSelf.owner) || has(self.owner)").message("an owner stays"))]
#[serde(rename_all = "camelCase")]
pub struct ThingSpec {
    /// What it looks like.
    #[serde(default)]
    pub color: Color,
    /// A few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self != 'bad'").message("write something better"))]
    pub note: Option<String>,
    /// Names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(min = 1)))]
    pub tags: Vec<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub count: Option<i64>,
}

/// Colors of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Color {
    #[default]
    Red,
    Blue,
}

/// An owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Owner {
    pub kind: String,
    pub name: String,
}

/// What has become of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.phase != 'Done' || self.epoch > 0").message("what is done has an epoch"))]
#[serde(rename_all = "camelCase")]
pub struct ThingStatus {
    #[serde(default)]
    pub phase: Phase,
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("an epoch never goes back"))]
    pub epoch: i64,
}

/// Phases of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    #[default]
    New,
    Done,
}
