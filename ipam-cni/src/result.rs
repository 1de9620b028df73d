//! The result of an ADD, in each version of the specification.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::{protocol::PodInterface, version::SpecVersion};

/// A result in the newest form. Unknown fields are kept: another plugin's result passes through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CniResult {
    /// Interfaces on both sides; `ips` refer to them by position.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes in the pod.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name servers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub dns: Dns,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// MAC, lower case with colons.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU in bytes. Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; empty on the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Position of its interface in the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Address and prefix length.
    pub address: String,
    /// Next hop of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Destination and prefix length.
    pub dst: String,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Name servers, as in resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of the servers.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Go's encoder writes null for an empty list.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl CniResult {
    /// Appends the pod's interface with its node end, addresses and default routes.
    pub fn append(&mut self, pod: &PodInterface, sandbox: &str) {
        // The gateway is the node end of the veth, so its MAC is the gateway's.
        self.interfaces.push(Interface {
            name: pod.host_ifname.clone(),
            mac: pod.gateway_mac.clone(),
            mtu: Some(pod.mtu),
            ..Interface::default()
        });
        let interface = Some(self.interfaces.len());
        self.interfaces.push(Interface {
            name: pod.ifname.clone(),
            mac: pod.mac.clone(),
            mtu: Some(pod.mtu),
            sandbox: sandbox.to_owned(),
            other: Map::new(),
        });
        for address in &pod.addresses {
            let gateway = pod.gateways.iter().find(|gw| gw.is_ipv4() == address.is_ipv4());
            self.ips.push(IpConfig {
                interface,
                address: format!("{address}/{}", host_prefix(*address)),
                gateway: gateway.map(IpAddr::to_string),
                other: Map::new(),
            });
        }
        for gateway in &pod.gateways {
            let dst = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            self.routes.push(Route { dst: dst.into(), gw: Some(gateway.to_string()), other: Map::new() });
        }
    }

    /// The result as JSON of the version.
    pub fn to_json(mut self, version: SpecVersion) -> Value {
        for ip in &mut self.ips {
            ip.other.remove("version");
            if version < SpecVersion::V1_0_0 {
                ip.other.insert("version".into(), json!(if ip.address.contains(':') { "6" } else { "4" }));
            }
        }
        if version < SpecVersion::V1_1_0 {
            for interface in &mut self.interfaces {
                interface.mtu = None;
                interface.other.retain(|name, _| !["socketPath", "pciID"].contains(&name.as_str()));
            }
            for route in &mut self.routes {
                let new = ["mtu", "advmss", "priority", "table", "scope"];
                route.other.retain(|name, _| !new.contains(&name.as_str()));
            }
        }
        self.other.insert("cniVersion".into(), json!(version.as_str()));
        json!(self)
    }

    /// The interface of that name in that namespace.
    pub fn pod_interface(&self, name: &str, sandbox: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name && interface.sandbox == sandbox)
    }
}

/// Prefix length of a lone address in bits.
pub(crate) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodInterface {
        PodInterface {
            ifname: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            gateway_mac: "02:00:00:00:00:02".into(),
            host_ifname: "ipam0".into(),
        }
    }

    #[test]
    fn each_version_has_its_form() {
        for version in SpecVersion::ALL {
            let mut result = CniResult::default();
            result.append(&pod(), "/run/netns/x");
            let json = result.to_json(version);
            assert_eq!(json["cniVersion"], version.as_str());
            assert_eq!(json["interfaces"][0]["name"], "ipam0");
            assert_eq!(json["interfaces"][0].get("sandbox"), None);
            assert_eq!(json["interfaces"][1]["sandbox"], "/run/netns/x");
            assert_eq!(json["interfaces"][1].get("mtu").is_some(), version >= SpecVersion::V1_1_0);
            assert_eq!(json["ips"][0]["address"], "10.0.0.5/32");
            assert_eq!(json["ips"][0]["interface"], 1);
            assert_eq!(json["ips"][0]["gateway"], "169.254.1.1");
            assert_eq!(json["ips"][1]["gateway"], "fe80::1");
            let ip_version = (version < SpecVersion::V1_0_0).then(|| json!("6"));
            assert_eq!(json["ips"][1].get("version"), ip_version.as_ref());
            assert_eq!(
                json["routes"],
                json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}])
            );
        }
    }

    #[test]
    fn a_result_before_ours_passes_through() {
        let before = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/n", "x": 1}],
            "ips": [{"version": "4", "interface": 1, "address": "192.0.2.1/24"}],
            "routes": null,
            "dns": {"nameservers": ["192.0.2.53"]},
            "extra": true
        });
        let mut result: CniResult = serde_json::from_value(before).unwrap();
        result.append(&pod(), "/n");
        let json = result.to_json(SpecVersion::V0_4_0);
        assert_eq!(json["interfaces"].as_array().unwrap().len(), 4);
        assert_eq!(json["interfaces"][1], json!({"name": "net1", "sandbox": "/n", "x": 1}));
        assert_eq!(json["ips"][0], json!({"version": "4", "interface": 1, "address": "192.0.2.1/24"}));
        assert_eq!(json["ips"][1]["interface"], 3);
        assert_eq!(json["dns"]["nameservers"][0], "192.0.2.53");
        assert_eq!(json["extra"], true);
    }
}
