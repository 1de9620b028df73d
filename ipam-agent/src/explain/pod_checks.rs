//! The pod's own side of its interface, which whoever runs in the pod with NET_ADMIN can undo.

use crate::{
    explain::{Check, Finding, InsideView, View},
    inspect::AttachmentView,
    node::journal::State,
};

/// Every check.
pub const ALL: [Check; 3] = [visible, interface, default_route];

/// What puts a pod's side right: nobody does while it runs.
const REMEDY: &str = "delete the pod, and see what in it changes its network (it needs NET_ADMIN for that)";

fn sides(view: &View) -> Option<(&AttachmentView, &InsideView)> {
    let attachment = view.attachment().filter(|attachment| attachment.state == State::Committed)?;
    Some((attachment, view.inside.as_ref()?.as_ref().ok()?))
}

fn visible(view: &View) -> Vec<Finding> {
    let Some(Err(error)) = &view.inside else { return Vec::new() };
    vec![Finding::warning(
        "inside",
        format!("the pod's own side cannot be seen: {error}"),
        "run this as root on the pod's node",
    )]
}

fn interface(view: &View) -> Vec<Finding> {
    let Some((attachment, inside)) = sides(view) else { return Vec::new() };
    let ifname = &attachment.ifname;
    match inside.up {
        None => {
            return vec![Finding::fault(
                "pod-interface",
                format!("the pod has no interface {ifname}"),
                REMEDY,
            )];
        }
        Some(false) => {
            return vec![Finding::fault("pod-interface", format!("the pod's {ifname} is down"), REMEDY)];
        }
        Some(true) => {}
    }
    let own = attachment.addresses.iter().map(|address| address.ip);
    own.filter(|ip| !inside.addresses.contains(ip))
        .map(|ip| {
            Finding::fault("pod-address", format!("the pod's {ifname} has lost its address {ip}"), REMEDY)
        })
        .collect()
}

fn default_route(view: &View) -> Vec<Finding> {
    let Some((attachment, inside)) = sides(view).filter(|(_, inside)| inside.up == Some(true)) else {
        return Vec::new();
    };
    let ifname = &attachment.ifname;
    if !inside.default_route {
        return vec![Finding::fault(
            "pod-route",
            format!("the pod has no default route to {ifname}"),
            REMEDY,
        )];
    }
    if inside.gateway_mac.as_ref() != Some(&attachment.host_mac) {
        let what = format!("the pod does not have the MAC of its gateway, {}", attachment.host_mac);
        return vec![Finding::fault("pod-gateway", what, REMEDY)];
    }
    Vec::new()
}
