//! What an agent knows and sees of one pod: the journal's word, and what is there.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::journal::State;

/// A pod as its node's agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The node's name.
    pub node: String,
    /// Its attachments, in any state, the last one made first.
    pub attachments: Vec<AttachmentView>,
    /// The ENIs of its addresses.
    pub enis: Vec<EniView>,
    /// Whether the API has told the agent the addresses of its node.
    pub api_synced: bool,
    /// Whether the host stack forwards IPv4 that comes in by the pod's interface.
    pub forwards: Option<bool>,
    /// What each program does with a packet, if that was asked.
    pub trials: Vec<Trial>,
}

/// An attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentView {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// Name of the pod's interface in the pod.
    pub ifname: String,
    /// Where it stands.
    pub state: State,
    /// `CNI_NETNS`.
    pub netns: String,
    /// UID of the pod that it was made for.
    pub pod_uid: Option<String>,
    /// Name of the node's end of the veth.
    pub host_ifname: String,
    /// MAC of that end, which the pod has for its gateway.
    pub host_mac: String,
    /// That end; `None`: it is gone.
    pub link: Option<LinkView>,
    /// The programs that it must have.
    pub programs_wanted: Vec<String>,
    /// Those of them that run.
    pub programs: Vec<String>,
    /// Effective reverse-path filter of that end: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
    /// Its addresses.
    pub addresses: Vec<AddressView>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressView {
    /// The address.
    pub ip: IpAddr,
    /// Epoch of its binding, by the journal.
    pub epoch: i64,
    /// The cloud's name of its ENI.
    pub eni_id: String,
    /// The ENI's slot.
    pub eni_slot: u32,
    /// Other attachments of the same address, by container ID, and whether that one has it now.
    pub others: Vec<(String, bool)>,
    /// The entry of the pod-IP-to-ENI map that it must have.
    pub entry_wanted: Option<Entry>,
    /// The one that it has.
    pub entry: Option<Entry>,
    /// Index of the interface that the main table's route leads to.
    pub route: Option<u32>,
}

/// An entry of the pod-IP-to-ENI map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Index of the node's end of the veth.
    pub ifindex: u32,
    /// Epoch of the binding.
    pub epoch: u32,
    /// The ENI's slot.
    pub eni: u16,
    /// MAC of the pod.
    pub mac: String,
}

/// An ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EniView {
    /// The cloud's name.
    pub id: String,
    /// Its slot.
    pub slot: u32,
    /// Its MAC.
    pub mac: String,
    /// Its next hop.
    pub gateway: IpAddr,
    /// Likewise for IPv6; `None`: it has none.
    pub gateway_v6: Option<IpAddr>,
    /// Its device; `None`: there is none with its MAC.
    pub link: Option<LinkView>,
    /// What the map `ENIS` has in its slot; `None`: the slot is empty.
    pub entry: Option<EniEntry>,
    /// Whether `from_eni` runs there.
    pub from_eni: bool,
    /// Effective reverse-path filter: 0 off, 1 strict, 2 loose.
    pub rp_filter: Option<u8>,
}

/// What `from_pod` knows of an ENI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EniEntry {
    /// Index of its device.
    pub ifindex: u32,
    /// MAC of its next hop; `None`: not known.
    pub gateway_mac: Option<String>,
    /// Likewise for IPv6.
    pub gateway_mac_v6: Option<String>,
}

/// What a packet is tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Where to.
    pub ip: IpAddr,
    /// Port of TCP; without it the packet is an ICMP echo.
    pub port: Option<u16>,
}

/// What a program did with a packet that was never sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The program.
    pub program: String,
    /// The packet.
    pub packet: String,
    /// What became of it.
    pub verdict: String,
    /// Whether it was dropped.
    pub dropped: bool,
}
