//! What a change shall come to, and how a Describe shows that it is so.

use std::net::{IpAddr, Ipv4Addr};

use super::{EniCloudState, EniInfo};

/// A state of the cloud that a call brings about. A call names everything it changes, so that it cannot
/// happen twice: one that happened already is refused.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    Attached {
        eni: &'a str,
        instance: &'a str,
    },
    Detached {
        eni: &'a str,
        instance: &'a str,
    },
    Deleted {
        eni: &'a str,
    },
    /// Addresses of one family.
    Holds {
        eni: &'a str,
        ips: &'a [IpAddr],
    },
    /// Addresses of one family.
    Lacks {
        eni: &'a str,
        ips: &'a [IpAddr],
    },
    /// IPv4 only: no cloud can move an IPv6 address.
    Moved {
        from: &'a str,
        to: &'a str,
        ip: Ipv4Addr,
    },
}

/// An ENI as a Describe shows it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The name it was given.
    pub name: String,
    /// What it is.
    pub info: EniInfo,
}

impl Described {
    /// Whether it is on this machine, and settled there.
    fn is_on(&self, instance: &str) -> bool {
        self.info.state == EniCloudState::Attached && self.info.instance_id.as_deref() == Some(instance)
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.info.primary_ip == ip || self.info.secondary_ips.contains(&ip)
    }

    fn holds(&self, ip: IpAddr) -> bool {
        self.info.secondary_ips.contains(&ip) && !self.info.unsettled.contains(&ip)
    }
}

impl<'a> Goal<'a> {
    /// Whether its addresses are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        matches!(
            self,
            Self::Holds { ips: [IpAddr::V6(_), ..], .. } | Self::Lacks { ips: [IpAddr::V6(_), ..], .. }
        )
    }

    /// The ENIs to look at.
    pub fn enis(&self) -> Vec<&'a str> {
        match *self {
            Self::Attached { eni, .. }
            | Self::Detached { eni, .. }
            | Self::Deleted { eni }
            | Self::Holds { eni, .. }
            | Self::Lacks { eni, .. } => vec![eni],
            Self::Moved { from, to, .. } => vec![from, to],
        }
    }

    /// Whether it is so, going by a Describe of [`Goal::enis`] in which an ENI that does not exist is absent.
    pub fn is_reached(&self, described: &[Described]) -> bool {
        let find = |id: &str| described.iter().find(|eni| eni.info.id == id);
        let holds = |id: &str, ip| find(id).is_some_and(|eni| eni.holds(ip));
        let lacks = |id: &str, ip| !find(id).is_some_and(|eni| eni.has(ip));
        match *self {
            Self::Attached { eni, instance } => find(eni).is_some_and(|eni| eni.is_on(instance)),
            Self::Detached { eni, .. } => find(eni).is_none_or(|eni| eni.info.instance_id.is_none()),
            Self::Deleted { eni } => find(eni).is_none(),
            Self::Holds { eni, ips } => ips.iter().all(|ip| holds(eni, *ip)),
            Self::Lacks { eni, ips } => ips.iter().all(|ip| lacks(eni, *ip)),
            Self::Moved { from, to, ip } => lacks(from, ip.into()) && holds(to, ip.into()),
        }
    }
}
