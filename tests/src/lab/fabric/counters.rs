//! What the fabric counts: per ENI, and per ENI and address.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Stdio,
};

use anyhow::{Context, ensure};
use netlink_packet_route::link::LinkAttribute;
use serde::{Deserialize, de::DeserializeOwned};

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

/// The same for IPv6, for which the kernel has no `rp_filter`: here this rule is the source check. What belongs to the
/// link (neighbour discovery) is neither checked nor counted.
const RULES_V6: &str = "
table ip6 fabric {
    set from { type ifname . ipv6_addr; size 65535; flags dynamic; }
    set to { type ifname . ipv6_addr; size 65535; flags dynamic; }
    set foreign { type ifname . ipv6_addr; size 65535; flags dynamic; }
    chain in {
        type filter hook prerouting priority raw;
        ip6 saddr { ::, fe80::/10 } accept
        ip6 daddr { fe80::/10, ff00::/8 } accept
        fib saddr . iif oif missing update @foreign { iifname . ip6 saddr counter } drop
        update @from { iifname . ip6 saddr counter }
    }
    chain out {
        type filter hook postrouting priority filter;
        ip6 daddr { fe80::/10, ff00::/8 } accept
        update @to { oifname . ip6 daddr counter }
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

    /// Packets from `ip` that came in by an ENI and passed the source check.
    ///
    /// # Errors
    /// The ENI is not attached, or the fabric does no accounting.
    pub fn from_eni(&self, eni_id: &str, ip: impl Into<IpAddr>) -> anyhow::Result<Counter> {
        self.count("from", eni_id, ip.into())
    }

    /// Packets to `ip` that went out by an ENI.
    ///
    /// # Errors
    /// As [`Self::from_eni`].
    pub fn to_eni(&self, eni_id: &str, ip: impl Into<IpAddr>) -> anyhow::Result<Counter> {
        self.count("to", eni_id, ip.into())
    }

    /// Packets from `ip` that came in by an ENI which `ip` does not belong to, and were dropped.
    ///
    /// # Errors
    /// As [`Self::from_eni`].
    pub fn foreign(&self, eni_id: &str, ip: impl Into<IpAddr>) -> anyhow::Result<Counter> {
        self.count("foreign", eni_id, ip.into())
    }

    /// All IPv4 packets that the source check dropped, with ENI (by the fabric's interface) and source.
    ///
    /// # Errors
    /// The fabric does no accounting.
    pub fn all_foreign(&self) -> anyhow::Result<Vec<(String, Ipv4Addr, Counter)>> {
        self.list("ip", "foreign")
    }

    /// All IPv6 packets that the source check dropped.
    ///
    /// # Errors
    /// As [`Self::all_foreign`], or no subnet has IPv6.
    pub fn all_foreign_v6(&self) -> anyhow::Result<Vec<(String, Ipv6Addr, Counter)>> {
        self.list("ip6", "foreign")
    }

    fn count(&self, set: &str, eni_id: &str, ip: IpAddr) -> anyhow::Result<Counter> {
        match ip {
            IpAddr::V4(ip) => self.count_of("ip", set, eni_id, ip),
            IpAddr::V6(ip) => self.count_of("ip6", set, eni_id, ip),
        }
    }

    fn count_of<A: DeserializeOwned + PartialEq>(
        &self,
        family: &str,
        set: &str,
        eni_id: &str,
        ip: A,
    ) -> anyhow::Result<Counter> {
        let ifname = self.ifname_of(eni_id)?;
        let mut all = self.list::<A>(family, set)?.into_iter();
        let found = all.find(|(name, address, _)| *name == ifname && *address == ip);
        Ok(found.map(|(_, _, counter)| counter).unwrap_or_default())
    }

    fn list<A: DeserializeOwned>(
        &self,
        family: &str,
        set: &str,
    ) -> anyhow::Result<Vec<(String, A, Counter)>> {
        ensure!(self.accounting, "this lab was built without accounting");
        let output = self.ns.command("nft").args(["-j", "list", "set", family, "fabric", set]).output();
        let output = output.context("nft: install nftables")?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        let listing: Listing<A> = serde_json::from_slice(&output.stdout).context("nft -j list set")?;
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
    load(ns, RULES)
}

/// Puts the source check of IPv6 into the fabric, which counts too.
pub(super) fn install_v6(ns: &Netns) -> anyhow::Result<()> {
    load(ns, RULES_V6)
}

fn load(ns: &Netns, rules: &str) -> anyhow::Result<()> {
    let mut nft = ns.command("nft");
    let nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().context("nft: install nftables")?;
    child.stdin.take().context("nft: no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// libnftables-json(5).

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Listing<A> {
    nftables: Vec<Object<A>>,
}

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Object<A> {
    set: Option<Set<A>>,
}

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Set<A> {
    #[serde(default = "Vec::new")]
    elem: Vec<Entry<A>>,
}

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Entry<A> {
    elem: Elem<A>,
}

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Elem<A> {
    val: Val<A>,
    counter: Counter,
}

#[derive(Deserialize)]
#[serde(bound = "A: DeserializeOwned")]
struct Val<A> {
    concat: (String, A),
}
