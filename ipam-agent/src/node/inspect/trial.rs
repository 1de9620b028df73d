//! What the live programs do with a packet that is never sent (`BPF_PROG_TEST_RUN`). Each trial counts as a packet, and
//! a drop is sampled as any other; flows that the egress programs mark are unmarked again.

use std::{collections::BTreeMap, net::IpAddr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};
use ipam_common::DropReason;

use crate::{
    dataplane::{Dataplane, DataplaneError, Program, TestFrame},
    inspect::{EniView, NodeView, Target, Trial},
    node::{context::Node, failure::Failure, inspect::pod::mac_of, journal::Record},
};

/// Port of the pod and identifier of the echo: reserved (RFC 6335), so that no flow of the pod is meant.
const POD_PORT: u16 = 1;
/// `TC_ACT_*` of `linux/pkt_cls.h`.
const ACT_OK: u32 = 0;
const ACT_UNSPEC: u32 = u32::MAX;
const ACT_SHOT: u32 = 2;
const ACT_REDIRECT: u32 = 7;

/// A packet between the pod and a peer.
struct Packet {
    macs: ([u8; 6], [u8; 6]),
    ips: (IpAddr, IpAddr),
    ports: Option<(u16, u16)>,
}

/// Every program in the order in which a packet of the pod and its answer may meet them.
///
/// # Errors
/// When the kernel refuses the packet.
pub fn all(node: &Node, record: &Record, view: &NodeView, to: Target) -> Result<Vec<Trial>, Failure> {
    let Some(link) = view.attachments.first().and_then(|attachment| attachment.link.as_ref()) else {
        return Ok(Vec::new());
    };
    let bound = record.addresses();
    let Some(bound) = bound.iter().find(|bound| bound.ip.is_ipv4() == to.ip.is_ipv4()) else {
        return Ok(Vec::new());
    };
    let ip = bound.ip;
    let (pod, host) = (mac_of(&record.pod_mac).octets, mac_of(&record.host_mac).octets);
    let ports = to.port.map(|port| (POD_PORT, port));
    let answer_ports = ports.map(|(pod, peer)| (peer, pod));
    let out = |macs| Packet { macs, ips: (ip, to.ip), ports };
    let answer = |macs| Packet { macs, ips: (to.ip, ip), ports: answer_ports };
    let mut runs = vec![(Program::FromPod, link.index, out((pod, host)))];
    let eni = view.enis.iter().find(|eni| eni.slot == bound.eni_slot);
    if let Some((eni, link)) = eni.and_then(|eni| Some((eni, eni.link.as_ref()?))) {
        let (own, gateway) = (mac_of(&eni.mac).octets, gateway_mac(eni));
        runs.push((Program::ToEni, link.index, out((own, gateway))));
        runs.push((Program::FromEni, link.index, answer((gateway, own))));
    }
    runs.push((Program::ToPod, link.index, answer((host, pod))));
    let mut trials = Vec::new();
    for (program, ifindex, packet) in runs {
        trials.push(run(node, view, program, ifindex, &packet)?);
    }
    Ok(trials)
}

fn gateway_mac(eni: &EniView) -> [u8; 6] {
    eni.entry.as_ref().and_then(|entry| entry.gateway_mac.as_deref()).map_or([0; 6], |mac| mac_of(mac).octets)
}

fn run(
    node: &Node,
    view: &NodeView,
    program: Program,
    ifindex: u32,
    packet: &Packet,
) -> Result<Trial, Failure> {
    let Some(bytes) = packet.build() else {
        let verdict = "cannot be tried: addresses of two families".to_owned();
        return Ok(Trial {
            program: program.name().into(),
            packet: packet.to_string(),
            verdict,
            dropped: false,
        });
    };
    let frame = TestFrame { bytes: &bytes, ifindex, gso_size: 0, repeat: 1 };
    let mut dataplane = node.dataplane();
    let drops = drops(&dataplane)?;
    let marked = dataplane.stack_flows()?;
    let verdict = dataplane.test_run(program, &frame)?;
    let after = self::drops(&dataplane)?;
    // What the trial marked would keep the flow on the stack for as long as it is in use.
    let mut table = dataplane.flow_table()?;
    for flow in dataplane.stack_flows()?.iter().filter(|flow| packet.may_be(flow) && !marked.contains(flow)) {
        table.remove(flow)?;
    }
    drop(dataplane);
    let text = match verdict.action {
        ACT_OK | ACT_UNSPEC => "goes on to the host stack".to_owned(),
        ACT_SHOT => {
            let reason = after.iter().find(|(reason, count)| drops.get(*reason) != Some(count));
            format!("is dropped: {}", reason.map_or("no reason counted", |(reason, _)| reason))
        }
        ACT_REDIRECT => redirected(view, &bytes, &verdict.bytes, packet),
        other => format!("TC action {other}"),
    };
    // Beyond the hooks at egress there is the wire, not the stack.
    let text = match (program, verdict.action) {
        (Program::ToPod, ACT_OK | ACT_UNSPEC) => {
            "goes on to the pod; its flow stays on the host stack".to_owned()
        }
        (Program::ToEni, ACT_OK | ACT_UNSPEC) => {
            "goes on to the wire; its flow stays on the host stack".to_owned()
        }
        _ => text,
    };
    let dropped = verdict.action == ACT_SHOT;
    Ok(Trial { program: program.name().into(), packet: packet.to_string(), verdict: text, dropped })
}

fn drops(dataplane: &Dataplane) -> Result<BTreeMap<&'static str, u64>, DataplaneError> {
    let drops = dataplane.drops()?;
    Ok(drops.into_iter().map(|(reason, count)| (DropReason::name(reason), count.packets)).collect())
}

/// Where a redirected packet goes, by the MACs that it was given.
fn redirected(view: &NodeView, before: &[u8], after: &[u8], packet: &Packet) -> String {
    if after.get(..12) == before.get(..12) {
        return format!("goes straight into the pod that has {}", packet.ips.1);
    }
    let by_source = |eni: &&EniView| after.get(6..12) == Some(&mac_of(&eni.mac).octets);
    match view.enis.iter().find(by_source) {
        Some(eni) => format!("goes out of ENI {} to its gateway {}", eni.id, eni.gateway),
        None => "is redirected with other MACs".to_owned(),
    }
}

impl Packet {
    /// The frame: TCP SYN, or an ICMP echo where there are no ports.
    fn build(&self) -> Option<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.macs.0, self.macs.1);
        let step: PacketBuilderStep<_> = match self.ips {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), 64)
            }
            _ => return None,
        };
        let mut frame = Vec::new();
        // Writing to memory fails only for a payload that is too long.
        match (self.ports, self.ips.0) {
            (Some((source, destination)), _) => {
                step.tcp(source, destination, 0, 1024).syn().write(&mut frame, &[])
            }
            (None, IpAddr::V4(_)) => step.icmpv4_echo_request(POD_PORT, 1).write(&mut frame, &[0; 8]),
            (None, IpAddr::V6(_)) => step.icmpv6_echo_request(POD_PORT, 1).write(&mut frame, &[0; 8]),
        }
        .ok()?;
        Some(frame)
    }

    /// Whether a flow of the table can be this packet's.
    fn may_be(&self, flow: &ipam_common::StackFlow) -> bool {
        let (a, b) = (octets(self.ips.0), octets(self.ips.1));
        (flow.pod, flow.peer) == (a, b) || (flow.pod, flow.peer) == (b, a)
    }
}

impl std::fmt::Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, destination) = self.ips;
        match self.ports {
            Some((from, to)) => write!(
                f,
                "{} {source} port {from} to {destination} port {to}",
                IpNumber::TCP.keyword_str().unwrap_or_default()
            ),
            None => write!(f, "echo {source} to {destination}"),
        }
    }
}

/// An address as the flow table has it.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}
