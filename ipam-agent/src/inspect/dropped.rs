//! A dropped packet, as people see it.

use std::{fmt, net::IpAddr};

use etherparse::{
    ArpPacketSlice, EtherType, LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice, ether_type,
};
use ipam_common::{DropEvent, DropReason, Mac};
use serde::{Deserialize, Serialize};

use crate::netlink::MacText;

/// A sample of the dropped packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// When the agent read it, moments after.
    pub time: jiff::Timestamp,
    /// Name of the reason, as in metrics; `unknown` for one that this agent does not know.
    pub reason: String,
    /// Number of the reason.
    pub reason_number: u32,
    /// The interface at whose hook it was dropped.
    pub interface: Interface,
    /// Length of the frame in bytes.
    pub length: u32,
    /// What could be read of it.
    pub packet: Headers,
}

/// Whose an interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name, when an attachment has it.
    pub name: Option<String>,
    /// Namespace and name of the pod behind it.
    pub pod: Option<PodId>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What could be read of a frame of which only the head is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Headers {
    /// Source MAC.
    pub source_mac: Option<String>,
    /// Destination MAC.
    pub destination_mac: Option<String>,
    /// Such as `IPv4`, or the number in hexadecimal.
    pub ether_type: Option<String>,
    /// Source address; of ARP the sender's.
    pub source: Option<IpAddr>,
    /// Destination address; of ARP the one asked for.
    pub destination: Option<IpAddr>,
    /// Such as `TCP`, or the number.
    pub protocol: Option<String>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Whether it is a part of a packet.
    pub fragment: bool,
}

impl Dropped {
    /// Reads an event.
    #[must_use]
    pub fn read(event: &DropEvent, interface: Interface, time: jiff::Timestamp) -> Self {
        let captured = usize::try_from(event.captured).unwrap_or(usize::MAX).min(event.head.len());
        Self {
            time,
            reason: DropReason::of(event.reason).map_or("unknown", DropReason::name).to_owned(),
            reason_number: event.reason,
            interface,
            length: event.len,
            packet: Headers::read(&event.head[..captured]),
        }
    }
}

impl Headers {
    /// Reads the head of an Ethernet frame as far as it goes.
    #[must_use]
    pub fn read(head: &[u8]) -> Self {
        let mut headers = Self::default();
        // A frame shorter than an Ethernet header has nothing to show.
        let Ok(packet) = LaxSlicedPacket::from_ethernet(head) else { return headers };
        if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
            let mac = |octets| Some(MacText(Mac { octets }).to_string());
            (headers.source_mac, headers.destination_mac) =
                (mac(ethernet.source()), mac(ethernet.destination()));
            headers.ether_type = Some(ether_type_name(ethernet.ether_type()));
        }
        match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                headers.source = Some(header.source_addr().into());
                headers.destination = Some(header.destination_addr().into());
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                headers.source = Some(ip.header().source_addr().into());
                headers.destination = Some(ip.header().destination_addr().into());
            }
            Some(LaxNetSlice::Arp(arp)) => headers.read_arp(arp),
            None => {}
        }
        if let Some(payload) = packet.ip_payload() {
            let number = payload.ip_number;
            headers.protocol = Some(number.keyword_str().map_or_else(|| number.0.to_string(), str::to_owned));
            headers.fragment = payload.fragmented;
        }
        match &packet.transport {
            Some(TransportSlice::Udp(udp)) => headers.ports(udp.source_port(), udp.destination_port()),
            Some(TransportSlice::Tcp(tcp)) => headers.ports(tcp.source_port(), tcp.destination_port()),
            Some(TransportSlice::Icmpv4(icmp)) => headers.icmp = Some((icmp.type_u8(), icmp.code_u8())),
            Some(TransportSlice::Icmpv6(icmp)) => headers.icmp = Some((icmp.type_u8(), icmp.code_u8())),
            _ => {}
        }
        headers
    }

    fn ports(&mut self, source: u16, destination: u16) {
        (self.source_port, self.destination_port) = (Some(source), Some(destination));
    }

    fn read_arp(&mut self, arp: &ArpPacketSlice<'_>) {
        let address = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
        self.source = address(arp.sender_protocol_addr());
        self.destination = address(arp.target_protocol_addr());
    }
}

fn ether_type_name(ether_type: EtherType) -> String {
    match ether_type {
        ether_type::IPV4 => "IPv4".into(),
        ether_type::IPV6 => "IPv6".into(),
        ether_type::ARP => "ARP".into(),
        ether_type::VLAN_TAGGED_FRAME => "VLAN".into(),
        EtherType(number) => format!("{number:#06x}"),
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, reason, interface, length, packet, .. } = self;
        write!(f, "{time:.3} {reason:<22} ")?;
        match (&interface.pod, &interface.name) {
            (Some(pod), _) => write!(f, "{pod}")?,
            (None, Some(name)) => f.write_str(name)?,
            (None, None) => write!(f, "interface {}", interface.index)?,
        }
        write!(f, "  {packet}  {length} bytes")
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = || "?".to_owned();
        let side = |ip: Option<IpAddr>, port: Option<u16>, mac: &Option<String>| match (ip, port) {
            (Some(IpAddr::V6(ip)), Some(port)) => format!("[{ip}]:{port}"),
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (Some(ip), None) => ip.to_string(),
            (None, _) => mac.clone().unwrap_or_else(unknown),
        };
        let kind = self.protocol.clone().or_else(|| self.ether_type.clone()).unwrap_or_else(unknown);
        let source = side(self.source, self.source_port, &self.source_mac);
        let destination = side(self.destination, self.destination_port, &self.destination_mac);
        write!(f, "{kind} {source} > {destination}")?;
        if let Some((kind, code)) = self.icmp {
            write!(f, " type {kind} code {code}")?;
        }
        if self.fragment {
            f.write_str(" fragment")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use ipam_common::drops::DROP_HEAD_LEN;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn event(frame: &[u8]) -> DropEvent {
        let mut head = [0; DROP_HEAD_LEN];
        let captured = frame.len().min(DROP_HEAD_LEN);
        head[..captured].copy_from_slice(&frame[..captured]);
        let (len, captured) = (frame.len() as u32, captured as u32);
        let reason = DropReason::WrongInterface as u32;
        DropEvent { time_ns: 0, ifindex: 7, reason, len, captured, head }
    }

    fn shown(frame: &[u8]) -> String {
        Headers::read(&event(frame).head[..frame.len().min(DROP_HEAD_LEN)]).to_string()
    }

    #[test]
    fn a_frame_of_which_only_the_head_is_there_is_read() {
        let mut frame = Vec::new();
        let udp =
            PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([10, 0, 0, 5], [10, 0, 0, 9], 64).udp(4000, 53);
        udp.write(&mut frame, &[0; 1400]).unwrap();
        let pod = PodId { namespace: "default".into(), name: "web-0".into() };
        let interface = Interface { index: 7, name: Some("ipam0".into()), pod: Some(pod) };
        let dropped = Dropped::read(&event(&frame), interface, "2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(
            dropped.to_string(),
            "2026-01-02T03:04:05.000Z wrong_interface        default/web-0  UDP 10.0.0.5:4000 > 10.0.0.9:53  1442 bytes"
        );
        let json = serde_json::to_value(&dropped).unwrap();
        assert_eq!(json["packet"]["destinationPort"], 53);
        assert_eq!(json["interface"]["pod"]["name"], "web-0");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut frame = Vec::new();
        let tcp = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4);
        tcp.write(&mut frame, &[]).unwrap();
        assert_eq!(
            shown(&frame),
            "TCP [101:101:101:101:101:101:101:101]:1 > [202:202:202:202:202:202:202:202]:2"
        );
        assert_eq!(shown(&frame[..20]), "IPv6 02:00:00:00:00:01 > 02:00:00:00:00:02");
        assert_eq!(shown(&frame[..5]), "? ? > ?");
        let mut ping = Vec::new();
        let icmp = PacketBuilder::ethernet2(MACS.0, MACS.1).ipv4([10, 0, 0, 5], [10, 0, 0, 9], 64);
        icmp.icmpv4_echo_request(1, 2).write(&mut ping, &[]).unwrap();
        assert_eq!(shown(&ping), "ICMP 10.0.0.5 > 10.0.0.9 type 8 code 0");
    }
}
