//! What the steps share.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use ipam_agent::api::{VpcIP, VpcIPStatus};
use kube::Api;

use super::{PING, Stage, millis};
use crate::cluster::RunningPod;
use crate::lab::netns::Netns;
use crate::lab::traffic::{TcpEcho, ping, tcp_roundtrip};

/// The pods on the stage, by name.
#[derive(Default)]
pub struct Pods(BTreeMap<String, RunningPod>);

impl Pods {
    pub fn get(&self, name: &str) -> &RunningPod {
        self.0.get(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &RunningPod)> {
        self.0.iter()
    }

    pub fn put(&mut self, name: &str, pod: RunningPod) {
        self.0.insert(name.into(), pod);
    }

    pub fn take(&mut self, name: &str) -> RunningPod {
        self.0.remove(name).unwrap_or_else(|| panic!("no pod {name}"))
    }
}

impl Stage {
    /// The object of an address.
    pub async fn vip(&self, ip: Ipv4Addr) -> anyhow::Result<Option<VpcIPStatus>> {
        let vips = Api::<VpcIP>::all(self.cluster.client.clone());
        Ok(vips.get_opt(&ip.to_string()).await?.map(|vip| vip.state()))
    }

    /// The ENI that the API says owns an address.
    pub async fn eni_of(&self, ip: Ipv4Addr) -> anyhow::Result<String> {
        self.vip(ip).await?.and_then(|vip| vip.eni_id).with_context(|| format!("{ip} is on no ENI"))
    }
}

/// Ping and a TCP exchange between two namespaces; says how long they took, and that the server saw the
/// client's own address.
pub fn talk(from: &Netns, from_ip: Ipv4Addr, to: &Netns, to_ip: Ipv4Addr) -> anyhow::Result<String> {
    let ping_time = ping(from, to_ip, PING).with_context(|| format!("ping {from_ip} → {to_ip}"))?;
    let server = TcpEcho::start(to, (to_ip, 0).into())?;
    let tcp_time = tcp_roundtrip(from, server.address()?, b"hello", PING)
        .with_context(|| format!("TCP {from_ip} → {to_ip}"))?;
    let peers = server.peers();
    ensure!(
        peers.iter().all(|peer| peer.ip() == from_ip) && !peers.is_empty(),
        "the server saw {peers:?}, not {from_ip}"
    );
    Ok(format!("{from_ip} → {to_ip}: ping {}, TCP exchange {}", millis(ping_time), millis(tcp_time)))
}
