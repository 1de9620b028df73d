//! When a pod may take over its address from a node that does not answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What it takes for the address of a pod to go to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Fencing {
    /// The former node's word that nothing uses it, or a person's word that the machine is off.
    #[default]
    Strict,
    /// Also that the node has been silent for a while. What is then left of the pod there has an address that the cloud
    /// has moved away.
    Optimistic,
}

impl Fencing {
    /// Whether it is what is meant when nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
