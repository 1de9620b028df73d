//! CHECK: what differs between how a pod's interface must be and how it is.

use crate::{
    error::{CniError, code},
    pod_netns::Observed,
    protocol::PodInterface,
    result::{CniResult, host_prefix},
};

/// Compares the interface with what the agent says and with the result of the ADD, which plugins later in the
/// chain may have added to. Fails with [`code::CHECK_FAILED`], naming every difference.
pub fn check(
    expected: &PodInterface,
    found: Option<&Observed>,
    result: &CniResult,
    sandbox: &str,
) -> Result<(), CniError> {
    let mut differences = against_result(expected, result, sandbox);
    // A plugin later in the chain may change the MTU, and says so in the result.
    let tuned = result.pod_interface(&expected.ifname, sandbox).and_then(|interface| interface.mtu);
    match found {
        Some(found) => differences.extend(against_pod(expected, tuned.unwrap_or(expected.mtu), found)),
        None => differences.push(format!("there is no interface {}", expected.ifname)),
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(CniError::new(code::CHECK_FAILED, format!("{} is not as it should be", expected.ifname))
        .details(differences.join("; ")))
}

fn against_pod(expected: &PodInterface, mtu: u32, found: &Observed) -> Vec<String> {
    let mut differences = Vec::new();
    if !found.up {
        differences.push("the link is down".to_owned());
    }
    if found.mac != expected.mac {
        differences.push(format!("the MAC is {} and not {}", found.mac, expected.mac));
    }
    if found.mtu != mtu {
        differences.push(format!("the MTU is {} and not {mtu}", found.mtu));
    }
    for &address in &expected.addresses {
        let prefix = host_prefix(address);
        if !found.addresses.contains(&(address, prefix)) {
            differences.push(format!("the address {address}/{prefix} is missing"));
        }
    }
    for &gateway in &expected.gateways {
        if !found.default_routes.contains(&gateway) {
            differences.push(format!("the default route via {gateway} is missing"));
        }
        match found.neighbours.iter().find(|(address, _)| *address == gateway) {
            Some((_, mac)) if *mac == expected.gateway_mac => {}
            Some((_, mac)) => {
                differences
                    .push(format!("the neighbour {gateway} is {mac} and not {}", expected.gateway_mac));
            }
            None => differences.push(format!("the permanent neighbour {gateway} is missing")),
        }
    }
    differences
}

fn against_result(expected: &PodInterface, result: &CniResult, sandbox: &str) -> Vec<String> {
    let mut differences = Vec::new();
    match result.pod_interface(&expected.ifname, sandbox) {
        None => differences.push(format!("prevResult has no interface {} in {sandbox}", expected.ifname)),
        Some(interface)
            if !interface.mac.is_empty() && !interface.mac.eq_ignore_ascii_case(&expected.mac) =>
        {
            differences.push(format!("the MAC in prevResult is {} and not {}", interface.mac, expected.mac));
        }
        Some(_) => {}
    }
    for &address in &expected.addresses {
        let listed = result.ips.iter().any(|ip| {
            let text = ip.address.split('/').next().unwrap_or_default();
            text.parse() == Ok(address)
        });
        if !listed {
            differences.push(format!("prevResult lacks the address {address}"));
        }
    }
    differences
}
