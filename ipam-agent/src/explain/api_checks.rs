//! What the API says of the pod, its claim and its address.

use kube::ResourceExt as _;

use crate::{
    api::{ClaimPhase, EniState, IpPhase, VpcIP, condition, pod::runtime_uid},
    explain::{ApiView, Check, Finding, View, on_host_network},
};

/// Every check, in the order in which a pod comes to its address.
pub const ALL: [Check; 8] = [
    api_answers,
    pod_exists,
    host_network,
    claim_exists,
    address_elsewhere,
    claim_ready,
    address_bound,
    eni_attached,
];

fn api(view: &View) -> Option<&ApiView> {
    view.api.as_ref().ok().filter(|_| !on_host_network(view))
}

/// The address that the claim's status names.
fn address(api: &ApiView) -> Option<&VpcIP> {
    let named = api.claim.as_ref()?.status.as_ref()?.address.as_deref()?;
    api.addresses.iter().find(|ip| ip.spec.ip == named)
}

fn api_answers(view: &View) -> Vec<Finding> {
    let Err(error) = &view.api else { return Vec::new() };
    let what = format!("the API cannot be asked: {error}");
    vec![Finding::warning("api", what, "give --kubeconfig; the rest is what the node alone knows")]
}

fn pod_exists(view: &View) -> Vec<Finding> {
    let Some(api) = api(view).filter(|api| api.pod.is_none()) else { return Vec::new() };
    let what = match &api.claim {
        Some(claim) => {
            let phase = claim.status.as_ref().map(|status| status.phase).unwrap_or_default();
            format!("the pod does not exist; its claim does, and is {phase:?}")
        }
        None => "the pod does not exist, and has no claim".to_owned(),
    };
    vec![Finding::fault("pod", what, "check namespace and name")]
}

fn host_network(view: &View) -> Vec<Finding> {
    if !on_host_network(view) {
        return Vec::new();
    }
    vec![Finding::warning(
        "host-network",
        "the pod is on the host's network",
        "it has no address of its own to explain",
    )]
}

fn claim_exists(view: &View) -> Vec<Finding> {
    let Some(api) = api(view).filter(|api| api.pod.is_some() && api.claim.is_none()) else {
        return Vec::new();
    };
    if api.pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_none() {
        return vec![Finding::fault(
            "scheduled",
            "the pod is on no node yet",
            "see `kubectl describe pod` for its scheduling",
        )];
    }
    vec![Finding::fault("claim", "the pod has no VpcIPClaim", "see that the controller runs, and its log")]
}

fn address_elsewhere(view: &View) -> Vec<Finding> {
    let Some(api) = api(view) else { return Vec::new() };
    let (Some(ip), Some(pod_node)) = (address(api), view.node_of_pod()) else { return Vec::new() };
    let status = ip.state();
    let held = matches!(status.phase, IpPhase::Bound | IpPhase::Detaching);
    let Some(node) = status.node_name.filter(|node| held && node != pod_node) else { return Vec::new() };
    let what = format!(
        "its address {} is still bound on node {node}, and the pod is on node {pod_node}",
        ip.spec.ip
    );
    let remedy = format!(
        "see that the agent of {node} runs; if that machine is off, delete its Node object or taint it \
         node.kubernetes.io/out-of-service"
    );
    vec![Finding::fault("address-elsewhere", what, remedy)]
}

fn claim_ready(view: &View) -> Vec<Finding> {
    let Some(claim) = api(view).filter(|api| api.pod.is_some()).and_then(|api| api.claim.as_ref()) else {
        return Vec::new();
    };
    let status = claim.status.clone().unwrap_or_default();
    if status.phase == ClaimPhase::Bound {
        return Vec::new();
    }
    let ready = status.conditions.iter().find(|condition| condition.type_ == condition::READY);
    let why = ready.map(|ready| format!(": {}: {}", ready.reason, ready.message)).unwrap_or_default();
    let remedy = "the controller tries again by itself; its log and the pod's events have more";
    vec![Finding::fault("claim-ready", format!("the claim is {:?}{why}", status.phase), remedy)]
}

fn address_bound(view: &View) -> Vec<Finding> {
    let Some(api) = api(view) else { return Vec::new() };
    let Some(claim) = api.claim.as_ref() else { return Vec::new() };
    let status = claim.status.clone().unwrap_or_default();
    let Some(named) = status.address.filter(|_| status.phase == ClaimPhase::Bound) else { return Vec::new() };
    let Some(ip) = address(api) else {
        let what = format!("the claim has the address {named}, of which there is no VpcIP");
        return vec![Finding::fault("address", what, "see the controller's log")];
    };
    let state = ip.state();
    if state.phase != IpPhase::Bound {
        let because = if state.message.is_empty() { String::new() } else { format!(": {}", state.message) };
        let what = format!("VpcIP {} is {:?}{because}", ip.name_any(), state.phase);
        let remedy = match state.phase {
            IpPhase::Quarantined => "see who else uses the address; delete the claim to get another",
            _ => "the controller goes on by itself; see its log",
        };
        return vec![Finding::fault("address-phase", what, remedy)];
    }
    let pod = api.pod.as_ref().and_then(runtime_uid);
    if pod.is_some() && state.pod_uid != pod {
        let what = format!("VpcIP {} is bound to a former pod of this name", ip.name_any());
        return vec![Finding::fault("address-pod", what, "the controller binds it anew; see its log")];
    }
    Vec::new()
}

fn eni_attached(view: &View) -> Vec<Finding> {
    let Some(api) = api(view) else { return Vec::new() };
    let (Some(ip), Some(node)) = (address(api), &api.node) else { return Vec::new() };
    let status = ip.state();
    let Some(eni) = status.eni_id.filter(|_| status.phase == IpPhase::Bound) else { return Vec::new() };
    let listed = node.status.iter().flat_map(|status| &status.enis).find(|listed| listed.id == eni);
    let what = match listed.map(|listed| listed.state) {
        Some(EniState::Attached) => return Vec::new(),
        Some(state) => format!("ENI {eni} of its address is {state:?}"),
        None => format!("ENI {eni} of its address is not listed for node {}", node.name_any()),
    };
    vec![Finding::fault("eni-attached", what, "see the controller's log and the cloud's console")]
}
