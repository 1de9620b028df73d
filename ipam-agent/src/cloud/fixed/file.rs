//! The file of the `fixed` provider: its form, and what cannot be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv4Net, Ipv6AddrRange, Ipv6Net};
use serde::Deserialize;

use super::FixedEni;
use crate::cloud::{ConfigError, Subnet, SubnetV6};

/// Addresses that one entry may stand for. More is a slip of the pen, and would fill the memory.
const ENTRY_ADDRESSES: u128 = 1 << 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    subnet: Vec<FileSubnet>,
    #[serde(default)]
    eni: Vec<FileEni>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSubnet {
    id: String,
    cidr: String,
    gateway: String,
    #[serde(default)]
    zone: String,
    cidr_v6: Option<String>,
    gateway_v6: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEni {
    node: String,
    mac: String,
    subnet: String,
    primary_ip: String,
    addresses: Vec<String>,
}

/// A field of the file, for messages.
struct Field<'a> {
    origin: &'a str,
    path: String,
    value: &'a str,
}

impl Field<'_> {
    fn wrong(&self, problem: impl Display) -> ConfigError {
        ConfigError {
            origin: self.origin.into(),
            field: self.path.clone(),
            value: self.value.into(),
            problem: problem.to_string(),
        }
    }

    fn address(&self) -> Result<Ipv4Addr, ConfigError> {
        self.value.trim().parse().map_err(|_| self.wrong("this is no IPv4 address; write one like 10.0.1.5"))
    }

    fn address_v6(&self) -> Result<Ipv6Addr, ConfigError> {
        self.value.trim().parse().map_err(|_| self.wrong("this is no IPv6 address; write one like fe80::1"))
    }

    /// The value as an address that a host of the subnet can have.
    fn host_of(&self, subnet: &Subnet, ip: IpAddr) -> Result<(), ConfigError> {
        let (id, ipv6) = (&subnet.id, subnet.ipv6);
        let (cidr, gateway) = match ip {
            IpAddr::V4(_) => (IpNet::V4(subnet.cidr), IpAddr::V4(subnet.gateway)),
            IpAddr::V6(_) => match ipv6 {
                Some(ipv6) => (IpNet::V6(ipv6.cidr), IpAddr::V6(ipv6.gateway)),
                None => return Err(self.wrong(format!("subnet {id} has no cidr_v6; add it there"))),
            },
        };
        if !cidr.contains(&ip) {
            return Err(self.wrong(format!("{ip} is outside {cidr} of subnet {id}; choose one inside")));
        }
        // In a /31 and a /32 every address is a host's.
        let all_hosts = cidr.prefix_len() + 1 >= cidr.max_prefix_len();
        if !all_hosts && ip == cidr.network() {
            return Err(self.wrong(format!("{ip} is the network address of subnet {id}; leave it out")));
        }
        if !all_hosts && ip == cidr.broadcast() && ip.is_ipv4() {
            return Err(self.wrong(format!("{ip} is the broadcast address of subnet {id}; leave it out")));
        }
        if ip == gateway {
            return Err(self.wrong(format!("{ip} is the gateway of subnet {id}; leave it out")));
        }
        Ok(())
    }

    /// The addresses of `a`, `a-b` or `a/n`.
    fn range(&self) -> Result<IpAddrRange, ConfigError> {
        let text = self.value.trim();
        let form = || {
            self.wrong("this is neither an address nor a range; write 10.0.1.60, 10.0.1.10-10.0.1.50 or 10.0.1.128/26")
        };
        let (first, last) = if text.contains('/') {
            let net: IpNet = text.parse().map_err(|_| form())?;
            if net.addr() != net.network() {
                return Err(self.wrong(format!("it has host bits; write {}", net.trunc())));
            }
            (net.network(), net.broadcast())
        } else if let Some((first, last)) = text.split_once('-') {
            (first.trim().parse().map_err(|_| form())?, last.trim().parse().map_err(|_| form())?)
        } else {
            let ip: IpAddr = text.parse().map_err(|_| form())?;
            (ip, ip)
        };
        let (more, range) = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let more = u32::from(last).checked_sub(u32::from(first)).map(u128::from);
                (more, IpAddrRange::from(Ipv4AddrRange::new(first, last)))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => (
                u128::from(last).checked_sub(u128::from(first)),
                IpAddrRange::from(Ipv6AddrRange::new(first, last)),
            ),
            _ => return Err(form()),
        };
        match more {
            None => Err(self.wrong("it ends before it begins; write the lower address first")),
            Some(more) if more >= ENTRY_ADDRESSES => {
                Err(self.wrong(format!("it stands for more than {ENTRY_ADDRESSES} addresses; list fewer")))
            }
            Some(_) => Ok(range),
        }
    }

    /// The value as a MAC of one interface: lower case with colons.
    fn mac(&self) -> Result<String, ConfigError> {
        let text = self.value.trim().to_lowercase().replace('-', ":");
        let octets: Option<Vec<u8>> = text
            .split(':')
            .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
            .collect();
        match octets.as_deref() {
            Some([0, 0, 0, 0, 0, 0]) => Err(self.wrong("all zero is no interface's MAC; see `ip link`")),
            Some([first, _, _, _, _, _]) if first & 1 == 1 => {
                Err(self.wrong("this is a group address, no interface's MAC; see `ip link`"))
            }
            Some([_, _, _, _, _, _]) => Ok(text),
            _ => Err(self.wrong("this is no MAC; write six octets like 52:54:00:12:34:56")),
        }
    }
}

/// Reads and checks all of it.
pub fn parse(origin: &str, text: &str) -> Result<(Vec<Subnet>, Vec<FixedEni>), ConfigError> {
    let file: File = toml::from_str(text).map_err(|error| ConfigError {
        origin: origin.into(),
        field: "file".into(),
        value: origin.into(),
        // Line, column, the line itself, and which fields there are.
        problem: error.to_string(),
    })?;
    let subnets = subnets(origin, &file.subnet)?;
    let enis = enis(origin, &file.eni, &subnets)?;
    Ok((subnets, enis))
}

fn subnets(origin: &str, entries: &[FileSubnet]) -> Result<Vec<Subnet>, ConfigError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let field = |name: &str, value| Field { origin, path: format!("subnet[{index}].{name}"), value };
        let id = field("id", &entry.id);
        if entry.id.trim().is_empty() {
            return Err(id.wrong("a subnet needs a name; write one"));
        }
        if subnets.iter().any(|subnet| subnet.id == entry.id) {
            return Err(id.wrong("another subnet has this name; choose a second one"));
        }
        let cidr_field = field("cidr", &entry.cidr);
        let cidr: Ipv4Net = entry
            .cidr
            .parse()
            .map_err(|_| cidr_field.wrong("this is no IPv4 network; write one like 10.0.1.0/24"))?;
        if cidr.addr() != cidr.network() {
            return Err(cidr_field.wrong(format!("it has host bits; write {}", cidr.trunc())));
        }
        if let Some(other) = subnets
            .iter()
            .find(|other| other.cidr.contains(&cidr.network()) || cidr.contains(&other.cidr.network()))
        {
            return Err(cidr_field.wrong(format!(
                "it overlaps {} of subnet {}, so that an address would be in both; separate them",
                other.cidr, other.id
            )));
        }
        let gateway_field = field("gateway", &entry.gateway);
        let gateway = gateway_field.address()?;
        let (zone, id) = (entry.zone.clone(), entry.id.clone());
        // With no gateway yet to compare with: 0.0.0.0 equals none that is inside.
        let subnet =
            Subnet { id, zone, cidr, gateway: Ipv4Addr::UNSPECIFIED, reserved: 2, available: 0, ipv6: None };
        gateway_field.host_of(&subnet, gateway.into())?;
        let ipv6 = subnet_v6(entry, &field, &subnets)?;
        subnets.push(Subnet { gateway, ipv6, ..subnet });
    }
    Ok(subnets)
}

/// The IPv6 side of a subnet: both fields, or none.
fn subnet_v6<'a>(
    entry: &'a FileSubnet,
    field: &impl Fn(&str, &'a str) -> Field<'a>,
    others: &[Subnet],
) -> Result<Option<SubnetV6>, ConfigError> {
    let (cidr_text, gateway_text) = match (&entry.cidr_v6, &entry.gateway_v6) {
        (None, None) => return Ok(None),
        (Some(cidr), Some(gateway)) => (cidr, gateway),
        (Some(cidr), None) => {
            return Err(field("cidr_v6", cidr).wrong("it needs a gateway_v6 beside it; add the next hop"));
        }
        (None, Some(gateway)) => {
            return Err(field("gateway_v6", gateway).wrong("it needs a cidr_v6 beside it; add the network"));
        }
    };
    let cidr_field = field("cidr_v6", cidr_text);
    let cidr: Ipv6Net = cidr_text
        .parse()
        .map_err(|_| cidr_field.wrong("this is no IPv6 network; write one like fd00:0:0:1::/64"))?;
    if cidr.addr() != cidr.network() {
        return Err(cidr_field.wrong(format!("it has host bits; write {}", cidr.trunc())));
    }
    let overlap = |other: &&Subnet| {
        other
            .ipv6
            .is_some_and(|other| other.cidr.contains(&cidr.network()) || cidr.contains(&other.cidr.network()))
    };
    if let Some(other) = others.iter().find(overlap) {
        let problem = format!("it overlaps cidr_v6 of subnet {}; separate them", other.id);
        return Err(cidr_field.wrong(problem));
    }
    let gateway_field = field("gateway_v6", gateway_text);
    let gateway = gateway_field.address_v6()?;
    if !gateway.is_unicast_link_local() && !cidr.contains(&gateway) {
        let problem = format!("it is neither link-local nor in {cidr}; write the next hop of that network");
        return Err(gateway_field.wrong(problem));
    }
    Ok(Some(SubnetV6 { cidr, gateway, available: 0 }))
}

fn enis(origin: &str, entries: &[FileEni], subnets: &[Subnet]) -> Result<Vec<FixedEni>, ConfigError> {
    let field =
        |index: usize, name: &str, value| Field { origin, path: format!("eni[{index}].{name}"), value };
    let mut macs = BTreeMap::new();
    let mut primaries = BTreeMap::new();
    let mut heads = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.node.trim().is_empty() {
            let problem = "an ENI needs the name of its node; write what `kubectl get nodes` shows";
            return Err(field(index, "node", &entry.node).wrong(problem));
        }
        let mac_field = field(index, "mac", &entry.mac);
        let mac = mac_field.mac()?;
        if let Some(other) = macs.insert(mac.clone(), index) {
            return Err(mac_field.wrong(format!("eni[{other}] has this MAC too; correct one of them")));
        }
        let subnet = subnets.iter().find(|subnet| subnet.id == entry.subnet).ok_or_else(|| {
            let known = subnets.iter().map(|s| s.id.as_str()).collect::<Vec<_>>().join(", ");
            let problem = format!("there is no such [[subnet]]; add it, or name one of: {known}");
            field(index, "subnet", &entry.subnet).wrong(problem)
        })?;
        let primary_field = field(index, "primary_ip", &entry.primary_ip);
        let primary_ip = primary_field.address()?;
        primary_field.host_of(subnet, primary_ip.into())?;
        if let Some(other) = primaries.insert(IpAddr::V4(primary_ip), index) {
            return Err(primary_field.wrong(format!("eni[{other}] has it too; give each its own")));
        }
        heads.push((mac, subnet, primary_ip));
    }
    let mut enis = Vec::new();
    for (index, (entry, (mac, subnet, primary_ip))) in entries.iter().zip(heads).enumerate() {
        let mut addresses = BTreeSet::new();
        for (at, text) in entry.addresses.iter().enumerate() {
            let entry_field = field(index, &format!("addresses[{at}]"), text);
            for ip in entry_field.range()? {
                entry_field.host_of(subnet, ip)?;
                if let Some(owner) = primaries.get(&ip) {
                    let problem =
                        format!("{ip} is the primary_ip of eni[{owner}], never a pod's; leave it out");
                    return Err(entry_field.wrong(problem));
                }
                if !addresses.insert(ip) {
                    return Err(
                        entry_field.wrong(format!("{ip} is listed twice on this ENI; once is enough"))
                    );
                }
            }
        }
        enis.push(FixedEni {
            id: format!("eni-{}", mac.replace(':', "")),
            node: entry.node.clone(),
            mac,
            subnet: subnet.id.clone(),
            primary_ip,
            addresses,
        });
    }
    Ok(enis)
}
