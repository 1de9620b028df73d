//! Masquerading: pods reach destinations outside a list of CIDRs by the node's address. A pod's own address is known to
//! its VPC only, and without a NAT gateway nothing else would answer it.
//!
//! Optional, and configured by a file in the format of `ip-masq-agent`, such as a mounted ConfigMap. It takes two things
//! that are kept here: the dataplane hands every destination outside the list to the stack (with what comes from there,
//! so that connection tracking sees both directions), and a table of nftables of our own translates.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow, ensure};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use tracing::{debug, info, warn};

use crate::{
    netlink::nftables::{self, Rule},
    node::{context::Node, drift::Kind, names::HOST_IFNAME_PREFIX},
};

/// Name of our table, of the family `ip`.
const TABLE: &str = "eni-ipam";

/// Every address.
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16);

/// The file: that of `ip-masq-agent`, which is JSON or YAML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Vec<IpNet>,
    #[serde(default)]
    masq_link_local: bool,
    /// IPv6 is not masqueraded: no effect.
    #[serde(default, rename = "masqLinkLocalIPv6")]
    _masq_link_local_ipv6: bool,
    /// The file is read every few seconds: no effect.
    #[serde(default, rename = "resyncInterval")]
    _resync_interval: Option<String>,
}

/// What is masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Masquerade {
    /// Destinations that pods reach by their own address; sorted, none within another.
    except: Vec<Ipv4Net>,
    /// Whether link-local destinations, metadata for example, are reached by the node's address too.
    link_local: bool,
}

impl Masquerade {
    /// Reads the file; `None` when there is none.
    fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Self::parse(&text).map(Some)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // The error's other lines show the place in the file.
        let first_line =
            |error: serde_saphyr::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| anyhow!("not the format of ip-masq-agent: {}", first_line(error)))?;
        let ipv4 = file.non_masquerade_cidrs.into_iter().filter_map(|cidr| match cidr {
            IpNet::V4(cidr) => Some(cidr),
            IpNet::V6(_) => None,
        });
        let except = Ipv4Net::aggregate(&ipv4.collect());
        // Most likely a file cut short, and what it says would hide all pods of the VPC from each other.
        ensure!(!except.is_empty(), "nonMasqueradeCIDRs has no IPv4 CIDR: list at least the VPC's");
        Ok(Self { except, link_local: file.masq_link_local })
    }

    fn rules(&self) -> Vec<Rule> {
        // Only what pods send, and not what the stack delivers to pods of this node.
        let scope = [Rule::return_unless_from(HOST_IFNAME_PREFIX), Rule::return_if_to(HOST_IFNAME_PREFIX)];
        let link_local = (!self.link_local).then_some(LINK_LOCAL);
        let except = link_local.into_iter().chain(self.except.iter().copied());
        scope.into_iter().chain(except.map(Rule::return_if_destination)).chain([Rule::masquerade()]).collect()
    }

    /// Every destination outside the list, in as few CIDRs as it takes.
    fn outside(&self) -> Vec<Ipv4Net> {
        fn split(block: Ipv4Net, except: &[Ipv4Net], outside: &mut Vec<Ipv4Net>) {
            if except.iter().any(|cidr| cidr.contains(&block)) {
                return;
            }
            if !except.iter().any(|cidr| block.contains(cidr)) {
                return outside.push(block);
            }
            // A block that holds a smaller one is no single address, so it has halves.
            block
                .subnets(block.prefix_len() + 1)
                .into_iter()
                .flatten()
                .for_each(|half| split(half, except, outside));
        }
        let mut outside = Vec::new();
        split(ANYWHERE, &self.except, &mut outside);
        outside
    }
}

/// What the file said when it could be read last; `None`: it could not be since the start.
#[derive(Debug, Default)]
struct State {
    known: Option<Option<Masquerade>>,
    complaint: String,
}

/// See [`keep`].
#[derive(Debug, Default)]
pub struct Keeper(Mutex<State>);

/// Reads the file, and makes the table of nftables what it says. A file that cannot be understood changes nothing, and is
/// complained about once.
///
/// # Errors
/// When the kernel refuses.
pub fn keep(node: &Node) -> anyhow::Result<()> {
    let mut state = node.masquerade.0.lock().unwrap_or_else(PoisonError::into_inner);
    let read = match &node.config.masquerade_file {
        None => Ok(None),
        Some(path) => Masquerade::read(path).with_context(|| {
            format!("--masquerade-file {}: correct it; what it said before holds", path.display())
        }),
    };
    let changed = match read {
        Ok(now) => {
            state.complaint.clear();
            let changed = state.known.as_ref() != Some(&now);
            state.known = Some(now);
            changed
        }
        Err(error) => {
            let complaint = format!("{error:#}");
            if state.complaint != complaint {
                warn!("{complaint}");
                state.complaint = complaint;
            }
            false
        }
    };
    match &state.known {
        None => Ok(()),
        Some(None) => {
            // Nothing of ours is there on a kernel that has no nftables.
            match nftables::remove(TABLE) {
                Ok(true) => info!("pods are no longer masqueraded"),
                Ok(false) => {}
                Err(error) => debug!(%error, "cannot look for a table of ours"),
            }
            Ok(())
        }
        Some(Some(masquerade)) => {
            let rules = masquerade.rules();
            if nftables::is_as(TABLE, &rules)? {
                return Ok(());
            }
            nftables::replace(TABLE, &rules)?;
            if changed {
                info!(except = ?masquerade.except, link_local = masquerade.link_local, "pods are masqueraded");
            } else {
                node.repairs.done(Kind::Masquerade, TABLE, "a table of nftables that is missing or wrong");
            }
            Ok(())
        }
    }
}

/// What the stack must have for masquerading. Before the file could be read it is what the stack has.
///
/// # Errors
/// When the kernel refuses.
pub fn stack_cidrs(node: &Node) -> anyhow::Result<Vec<IpNet>> {
    let state = node.masquerade.0.lock().unwrap_or_else(PoisonError::into_inner);
    match &state.known {
        Some(None) => Ok(Vec::new()),
        Some(Some(masquerade)) => Ok(masquerade.outside().into_iter().map(IpNet::V4).collect()),
        None => Ok(node.dataplane().stack_cidrs()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_that_of_ip_masq_agent() {
        let yaml = "nonMasqueradeCIDRs:\n- 10.0.0.0/9\n- 10.128.0.0/9\n- fd00::/8\nmasqLinkLocal: true\nresyncInterval: 60s\n";
        let json =
            r#"{"nonMasqueradeCIDRs": ["10.0.0.0/8"], "masqLinkLocal": true, "masqLinkLocalIPv6": false}"#;
        let wanted = Masquerade { except: vec!["10.0.0.0/8".parse().unwrap()], link_local: true };
        assert_eq!(Masquerade::parse(yaml).unwrap(), wanted);
        assert_eq!(Masquerade::parse(json).unwrap(), wanted);
    }

    #[test]
    fn a_file_that_says_nothing_is_refused() {
        for text in
            ["", "nonMasqueradeCIDRs: []", "nonMasqueradeCIDRs: [fd00::/8]", "nonMasqueradeCIDRs: [ten]"]
        {
            assert!(Masquerade::parse(text).is_err(), "{text:?}");
        }
        let error = Masquerade::parse("nonMasqueradeCIDR: [10.0.0.0/8]").unwrap_err();
        assert!(format!("{error:#}").contains("nonMasqueradeCIDR"), "{error:#}");
    }

    #[test]
    fn what_is_outside_and_the_exceptions_are_everything() {
        let masquerade =
            Masquerade::parse("nonMasqueradeCIDRs: [64.0.0.0/2, 192.0.0.0/3, 224.0.0.7/32]").unwrap();
        let outside = masquerade.outside();
        let text: Vec<_> = outside.iter().take(2).map(ToString::to_string).collect();
        assert_eq!(text, ["0.0.0.0/2", "128.0.0.0/2"]);
        let all = [outside, masquerade.except].concat();
        let addresses: u64 = all.iter().map(|cidr| 1 << (32 - cidr.prefix_len())).sum();
        assert_eq!((Ipv4Net::aggregate(&all), addresses), (vec![ANYWHERE], 1 << 32));
    }
}
