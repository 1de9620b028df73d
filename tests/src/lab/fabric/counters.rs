//! What the fabric counts: per ENI, and per ENI and address.

use std::{io::Write, net::Ipv4Addr, process::Stdio};

use anyhow::{Context, ensure};
use netlink_packet_route::link::LinkAttribute;
use serde::Deserialize;

use super::{Fabric, Netns};

/// Dynamic sets are keyed by interface and address. `fib saddr . iif oif missing` is the strict reverse path
/// check (nft(8), "FIB expressions"); it comes before routing, so the kernel's own `rp_filter` behind it sees
/// nothing left to drop but ARP.
const RULES: &str = "
table ip fabric {
    set from { type ifname . ipv4_addr; size 65535; flags dynamic; }
    set to { type ifname . ipv4_addr; size 65535; flags dynamic; }
    set foreign { type ifname . ipv4_addr; size 65535; flags dynamic; }
    chain in {
        type filter hook prerouting priority raw;
        fib saddr . iif oif missing update @foreign { iifname . ip saddr counter } drop
        update @from { iifname . ip saddr counter }
    }
    chain out {
        type filter hook postrouting priority filter;
        update @to { oifname . ip daddr counter }
    }
}";

/// Packets and bytes (of IP packets, or of frames where an interface counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counter {
    /// Packets; a burst that segmentation offload carries as one counts once.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An ENI's traffic since it was attached, as its interface counts: all protocols, before the source check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EniCounters {
    /// From the machine into the fabric.
    pub from_eni: Counter,
    /// From the fabric to the machine.
    pub to_eni: Counter,
}

impl Fabric {
    /// An ENI's counters.
    ///
    /// # Errors
    /// The ENI is not attached.
    pub fn counters(&self, eni_id: &str) -> anyhow::Result<EniCounters> {
        let link = self.ns.rtnl().link(&self.ifname_of(eni_id)?)?;
        let attributes = link.with_context(|| format!("{eni_id} has no interface"))?.attributes;
        let stats = attributes.into_iter().find_map(|a| match a {
            LinkAttribute::Stats64(stats) => Some(stats),
            _ => None,
        });
        let stats = stats.with_context(|| format!("{eni_id}: the kernel gives no statistics"))?;
        Ok(EniCounters {
            from_eni: Counter { packets: stats.rx_packets, bytes: stats.rx_bytes },
            to_eni: Counter { packets: stats.tx_packets, bytes: stats.tx_bytes },
        })
    }

    /// IPv4 packets from `ip` that came in by an ENI and passed the source check.
    ///
    /// # Errors
    /// The ENI is not attached, or the fabric does no accounting.
    pub fn from_eni(&self, eni_id: &str, ip: Ipv4Addr) -> anyhow::Result<Counter> {
        self.count("from", eni_id, ip)
    }

    /// IPv4 packets to `ip` that went out by an ENI.
    ///
    /// # Errors
    /// As [`Self::from_eni`].
    pub fn to_eni(&self, eni_id: &str, ip: Ipv4Addr) -> anyhow::Result<Counter> {
        self.count("to", eni_id, ip)
    }

    /// IPv4 packets from `ip` that came in by an ENI which `ip` does not belong to, and were dropped.
    ///
    /// # Errors
    /// As [`Self::from_eni`].
    pub fn foreign(&self, eni_id: &str, ip: Ipv4Addr) -> anyhow::Result<Counter> {
        self.count("foreign", eni_id, ip)
    }

    /// All packets that the source check dropped, with ENI (by the fabric's interface) and source.
    ///
    /// # Errors
    /// The fabric does no accounting.
    pub fn all_foreign(&self) -> anyhow::Result<Vec<(String, Ipv4Addr, Counter)>> {
        self.list("foreign")
    }

    fn count(&self, set: &str, eni_id: &str, ip: Ipv4Addr) -> anyhow::Result<Counter> {
        let ifname = self.ifname_of(eni_id)?;
        let found = self.list(set)?.into_iter().find(|(name, address, _)| *name == ifname && *address == ip);
        Ok(found.map(|(_, _, counter)| counter).unwrap_or_default())
    }

    fn list(&self, set: &str) -> anyhow::Result<Vec<(String, Ipv4Addr, Counter)>> {
        ensure!(self.accounting, "this lab was built without accounting");
        let output = self.ns.command("nft").args(["-j", "list", "set", "ip", "fabric", set]).output();
        let output = output.context("nft: install nftables")?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        let listing: Listing = serde_json::from_slice(&output.stdout).context("nft -j list set")?;
        let sets = listing.nftables.into_iter().filter_map(|object| object.set);
        let entries = sets.flat_map(|set| set.elem).map(|Entry { elem }| {
            let (ifname, ip) = elem.val.concat;
            (ifname, ip, elem.counter)
        });
        Ok(entries.collect())
    }
}

/// Puts the counting rules into the fabric.
pub(super) fn install(ns: &Netns) -> anyhow::Result<()> {
    let mut nft = ns.command("nft");
    let nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().context("nft: install nftables")?;
    child.stdin.take().context("nft: no standard input")?.write_all(RULES.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// libnftables-json(5).

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<Set>,
}

#[derive(Deserialize)]
struct Set {
    #[serde(default)]
    elem: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    elem: Elem,
}

#[derive(Deserialize)]
struct Elem {
    val: Val,
    counter: Counter,
}

#[derive(Deserialize)]
struct Val {
    concat: (String, Ipv4Addr),
}
