//! An explanation as people read it. Its first line names the fault.

use std::fmt::{self, Write as _};

use kube::ResourceExt as _;

use crate::explain::{Finding, Severity, View};

/// The view and what is wrong with it, in lines.
#[must_use]
pub fn render(view: &View, findings: &[Finding]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, view, findings);
    text
}

fn write(text: &mut String, view: &View, findings: &[Finding]) -> fmt::Result {
    writeln!(text, "{}: {}", view.id, headline(view, findings))?;
    for finding in findings {
        let mark = if finding.severity == Severity::Fault { "FAULT" } else { "warning" };
        writeln!(text, "  {mark} [{}] {}", finding.check, finding.what)?;
        writeln!(text, "    → {}", finding.remedy)?;
    }
    if let Ok(api) = &view.api {
        if let Some(claim) = &api.claim {
            let status = claim.status.clone().unwrap_or_default();
            let address = status.address.as_deref().unwrap_or("none");
            writeln!(
                text,
                "claim       {:?}, policy {:?}, address {address}, epoch {}",
                status.phase, claim.spec.delete_policy, status.epoch
            )?;
        }
        for ip in &api.addresses {
            let state = ip.state();
            let [node, eni] =
                [state.node_name, state.eni_id].map(|name| name.unwrap_or_else(|| "none".into()));
            writeln!(
                text,
                "address     {} {:?}, node {node}, ENI {eni}, epoch {}",
                ip.name_any(),
                state.phase,
                state.epoch
            )?;
        }
    }
    node(text, view)?;
    if let Some(Ok(inside)) = &view.inside {
        let addresses: Vec<_> = inside.addresses.iter().map(ToString::to_string).collect();
        let route = if inside.default_route { "a default route" } else { "no default route" };
        let gateway = inside.gateway_mac.as_deref().unwrap_or("unknown");
        writeln!(text, "inside      {}, {route}, gateway at {gateway}", addresses.join(", "))?;
    }
    for trial in view.node.iter().flat_map(|node| &node.trials) {
        writeln!(text, "{:<11} {} {}", trial.program, trial.packet, trial.verdict)?;
    }
    Ok(())
}

fn node(text: &mut String, view: &View) -> fmt::Result {
    let Ok(node) = &view.node else { return Ok(()) };
    for attachment in &node.attachments {
        let link = match &attachment.link {
            Some(link) => format!("interface {}, {}", link.index, if link.up { "up" } else { "down" }),
            None => "gone".into(),
        };
        writeln!(
            text,
            "attachment  {:?} on {}, container {}, {} ({link}), programs {}",
            attachment.state,
            node.node,
            attachment.container_id.get(..12).unwrap_or(&attachment.container_id),
            attachment.host_ifname,
            attachment.programs.join(" "),
        )?;
        for address in &attachment.addresses {
            match &address.entry {
                Some(entry) => writeln!(
                    text,
                    "map entry   {} → interface {}, MAC {}, ENI slot {}, epoch {}",
                    address.ip, entry.ifindex, entry.mac, entry.eni, entry.epoch
                )?,
                None => writeln!(text, "map entry   {} → none", address.ip)?,
            }
            match address.route {
                Some(index) => writeln!(text, "route       {} → interface {index}", address.ip)?,
                None => writeln!(text, "route       {} → none", address.ip)?,
            }
        }
    }
    for eni in &node.enis {
        let device = eni.link.as_ref().map_or("no device", |link| link.name.as_str());
        let gateway =
            eni.entry.as_ref().and_then(|entry| entry.gateway_mac.as_deref()).unwrap_or("an unknown MAC");
        writeln!(
            text,
            "ENI         {} in slot {}, {device}, gateway {} at {gateway}",
            eni.id, eni.slot, eni.gateway
        )?;
    }
    Ok(())
}

/// The cause, or that there is none.
fn headline(view: &View, findings: &[Finding]) -> String {
    match findings.first() {
        Some(finding) if finding.severity == Severity::Fault => format!("FAULT: {finding}"),
        first => {
            let healthy = match view.attachment().and_then(|attachment| attachment.addresses.first()) {
                Some(address) => format!("healthy: {} on ENI {}", address.ip, address.eni_id),
                None => "no fault found".to_owned(),
            };
            first.map_or(healthy.clone(), |warning| format!("{healthy}; warning: {}", warning.what))
        }
    }
}
