//! Why a pod has no network, or that it has: everything known of it is laid beside what should be.
//!
//! A [`View`] is gathered by `ipamctl` from the API, from the node's agent and from inside the pod. Each check of
//! [`findings`] looks at one thing and answers with what is wrong and what to do; the first fault, in the order in which
//! a pod comes to its network, names the cause. Nothing here does I/O.

mod api_checks;
mod node_checks;
mod pod_checks;
mod text;

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use crate::{
    api::{NodeENIConfig, VpcIP, VpcIPClaim, pod},
    inspect::{AttachmentView, NodeView, PodId},
};

/// Everything that is known of a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The pod.
    pub id: PodId,
    /// What the API says, or why it says nothing.
    pub api: Result<ApiView, String>,
    /// What the node's agent says, or why it says nothing.
    pub node: Result<NodeView, String>,
    /// What is inside the pod, or why that cannot be seen; absent: it has no attachment to look at.
    pub inside: Option<Result<InsideView, String>>,
}

/// A pod's objects.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiView {
    /// The pod.
    pub pod: Option<Pod>,
    /// Its claim.
    pub claim: Option<VpcIPClaim>,
    /// Every address of the claim.
    pub addresses: Vec<VpcIP>,
    /// Its node's ENIs.
    pub node: Option<NodeENIConfig>,
}

/// The pod's own side of its interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InsideView {
    /// Whether its interface is up; `None`: it has none.
    pub up: Option<bool>,
    /// Addresses of its interface, IPv4.
    pub addresses: Vec<std::net::IpAddr>,
    /// Whether a default route leads to its interface.
    pub default_route: bool,
    /// MAC that it has for its gateway.
    pub gateway_mac: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Packets do not get through, or not all of them.
    Fault,
    /// They do, but something is not as it should be, or cannot be seen.
    Warning,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the check, for machines.
    pub check: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn fault(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Fault, check, what: what.into(), remedy: remedy.into() }
    }

    fn warning(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::fault(check, what, remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

pub use self::text::render;

/// One look at one thing.
type Check = fn(&View) -> Vec<Finding>;

/// Everything that is not as it should be: faults first, each kind in the order in which a pod comes to its network.
#[must_use]
pub fn findings(view: &View) -> Vec<Finding> {
    let checks: [&[Check]; 3] = [&api_checks::ALL, &node_checks::ALL, &pod_checks::ALL];
    let mut findings: Vec<_> = checks.concat().iter().flat_map(|check| check(view)).collect();
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The pod is on the host's network: nothing is made for it.
fn on_host_network(view: &View) -> bool {
    view.api.as_ref().ok().and_then(|api| api.pod.as_ref()).is_some_and(pod::on_host_network)
}

impl View {
    /// The node that the API says the pod is on.
    fn node_of_pod(&self) -> Option<&str> {
        self.api.as_ref().ok()?.pod.as_ref()?.spec.as_ref()?.node_name.as_deref()
    }

    /// The agent's view, when its node is the pod's. Another node's agent knows nothing of the pod.
    fn own_node(&self) -> Option<&NodeView> {
        let node = self.node.as_ref().ok()?;
        self.node_of_pod().is_none_or(|name| name == node.node).then_some(node)
    }

    /// The attachment that carries the pod: the last one made.
    fn attachment(&self) -> Option<&AttachmentView> {
        self.own_node()?.attachments.first()
    }
}
