//! What a change shall come to: the call that makes it, and how a Describe shows that it is so.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::wire::{AddressState, Eni};

/// A state of the cloud that a call brings about. A call names everything it changes, so that it cannot
/// happen twice: one that happened already is refused.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    Attached { eni: &'a str, instance: &'a str },
    Detached { eni: &'a str, instance: &'a str },
    Deleted { eni: &'a str },
    Holds { eni: &'a str, ips: &'a [Ipv4Addr] },
    Lacks { eni: &'a str, ips: &'a [Ipv4Addr] },
    Moved { from: &'a str, to: &'a str, ip: Ipv4Addr },
}

impl Goal<'_> {
    /// The action's name.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Attached { .. } => "AttachNetworkInterface",
            Self::Detached { .. } => "DetachNetworkInterface",
            Self::Deleted { .. } => "DeleteNetworkInterface",
            Self::Holds { .. } => "AssignPrivateIpAddresses",
            Self::Lacks { .. } => "UnassignPrivateIpAddresses",
            Self::Moved { .. } => "MigratePrivateIpAddress",
        }
    }

    /// The action's parameters.
    pub fn params(&self) -> Value {
        let addresses =
            |ips: &[Ipv4Addr]| ips.iter().map(|ip| json!({ "PrivateIpAddress": ip })).collect::<Vec<_>>();
        match self {
            Self::Attached { eni, instance } | Self::Detached { eni, instance } => {
                json!({ "NetworkInterfaceId": eni, "InstanceId": instance })
            }
            Self::Deleted { eni } => json!({ "NetworkInterfaceId": eni }),
            Self::Holds { eni, ips } | Self::Lacks { eni, ips } => {
                json!({ "NetworkInterfaceId": eni, "PrivateIpAddresses": addresses(ips) })
            }
            Self::Moved { from, to, ip } => json!({
                "SourceNetworkInterfaceId": from,
                "DestinationNetworkInterfaceId": to,
                "PrivateIpAddress": ip,
            }),
        }
    }

    /// The ENIs to look at.
    pub fn enis(&self) -> Vec<&str> {
        match self {
            Self::Attached { eni, .. }
            | Self::Detached { eni, .. }
            | Self::Deleted { eni }
            | Self::Holds { eni, .. }
            | Self::Lacks { eni, .. } => vec![eni],
            Self::Moved { from, to, .. } => vec![from, to],
        }
    }

    /// Whether it is so, going by a Describe of [`Goal::enis`] in which an ENI that does not exist is absent.
    pub fn is_reached(&self, described: &[Eni]) -> bool {
        let find = |id: &str| described.iter().find(|eni| eni.network_interface_id == id);
        let address = |id: &str, ip| find(id).and_then(|eni| eni.address(ip));
        let holds =
            |id: &str, ip| address(id, ip).is_some_and(|a| !a.primary && a.state == AddressState::Available);
        let lacks = |id: &str, ip| address(id, ip).is_none();
        match *self {
            Self::Attached { eni, instance } => find(eni).is_some_and(|eni| eni.is_on(instance)),
            Self::Detached { eni, .. } => find(eni).is_none_or(|eni| eni.instance().is_none()),
            Self::Deleted { eni } => find(eni).is_none(),
            Self::Holds { eni, ips } => ips.iter().all(|ip| holds(eni, *ip)),
            Self::Lacks { eni, ips } => ips.iter().all(|ip| lacks(eni, *ip)),
            Self::Moved { from, to, ip } => lacks(from, ip) && holds(to, ip),
        }
    }
}
