//! What the journal holds, and which changes of it are allowed. No I/O.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipam_cni::protocol::AttachmentKey;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::{api::VpcIP, node::contact::Heard};

/// Where an attachment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// An ADD is under way. After a crash: undo it.
    Intent,
    /// The ADD was, or is about to be, answered. After a crash: keep it as it is.
    Committed,
    /// A DEL was begun. After a crash: finish it.
    Detaching,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundAddress {
    /// Name of the `VpcIP`.
    pub vpc_ip: String,
    /// UID of the `VpcIP`.
    pub vpc_ip_uid: String,
    /// The address.
    pub ip: IpAddr,
    /// Epoch of the binding.
    pub epoch: i64,
    /// The cloud's name of the ENI that holds the address.
    pub eni_id: String,
    /// The ENI's slot in the `ENIS` map.
    pub eni_slot: u32,
}

/// An attachment: a pod's interface and everything that was made on the node for it. Its first address lies flat in it,
/// as in the records of builds that knew but one: either build reads the other's record of a pod with one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The attachment's name.
    pub key: AttachmentKey,
    /// Where it stands.
    pub state: State,
    /// Given out in rising order: of two attachments of one address, the higher has it.
    pub sequence: u64,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// UID of the pod that the address is bound to.
    pub pod_uid: Option<String>,
    /// The node agent made the Pod object itself and deletes it with the attachment.
    #[serde(default)]
    pub owns_pod: bool,
    /// Name of the `VpcIP`.
    pub vpc_ip: String,
    /// UID of the `VpcIP`.
    pub vpc_ip_uid: String,
    /// The address.
    pub ip: IpAddr,
    /// Epoch of the binding.
    pub epoch: i64,
    /// The cloud's name of the ENI that holds the address.
    pub eni_id: String,
    /// The ENI's slot in the `ENIS` map.
    pub eni_slot: u32,
    /// The addresses of other families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<BoundAddress>,
    /// Name of the veth's end on the node.
    pub host_ifname: String,
    /// Index of that end; absent in [`State::Intent`].
    pub host_ifindex: Option<u32>,
    /// MAC of that end, lower case with colons. A link of this name with another MAC is not ours.
    pub host_mac: String,
    /// MAC of the pod's end.
    pub pod_mac: String,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// `CNI_NETNS`, to be read by people.
    pub netns: String,
    /// When the ADD began.
    pub created_at: jiff::Timestamp,
}

/// An ENI and the slot it keeps for as long as the node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniRecord {
    /// Slot in the `ENIS` map.
    pub slot: u32,
    /// The cloud's name of the ENI.
    pub id: String,
    /// Its MAC, lower case with colons.
    pub mac: String,
    /// Next hop of its subnet.
    pub gateway: Ipv4Addr,
    /// Its primary address.
    pub primary_ip: Ipv4Addr,
    /// Next hop of its subnet for IPv6, where it has that; a link-local one is of the ENI's link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_v6: Option<Ipv6Addr>,
}

impl Record {
    /// Its addresses, one of each family.
    #[must_use]
    pub fn addresses(&self) -> Vec<BoundAddress> {
        let first = BoundAddress {
            vpc_ip: self.vpc_ip.clone(),
            vpc_ip_uid: self.vpc_ip_uid.clone(),
            ip: self.ip,
            epoch: self.epoch,
            eni_id: self.eni_id.clone(),
            eni_slot: self.eni_slot,
        };
        [first].into_iter().chain(self.more.iter().cloned()).collect()
    }

    /// Its addresses alone.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        [self.ip].into_iter().chain(self.more.iter().map(|address| address.ip))
    }

    /// Whether it has the address.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.ips().any(|own| own == ip)
    }

    /// Whether one of its addresses is on the ENI in this slot.
    #[must_use]
    pub fn uses_slot(&self, slot: u32) -> bool {
        self.eni_slot == slot || self.more.iter().any(|address| address.eni_slot == slot)
    }
}

/// A change of the journal.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new attachment, in [`State::Intent`]. Its sequence is given by the journal.
    Begin(Box<Record>),
    /// The attachment is complete.
    Commit {
        /// Which.
        key: AttachmentKey,
        /// Index of the node's end of its veth.
        host_ifindex: u32,
    },
    /// The attachment is to go. Again and again is fine.
    Detach(AttachmentKey),
    /// Nothing is left of the attachment.
    Forget(AttachmentKey),
    /// An ENI has a slot.
    SetEni(EniRecord),
    /// A slot is free.
    ForgetEni(u32),
    /// These are the addresses that the API says are bound to pods of this node, by name. One whose binding is over
    /// stays away: that may be older than [`Change::Unbind`].
    SetBindings(BTreeMap<String, Arc<VpcIP>>),
    /// The binding of this address is over, and every older one, whatever else the API says.
    Unbind(Arc<VpcIP>),
    /// It is not over after all: this is what the API says.
    Rebind(Arc<VpcIP>),
    /// The API was heard.
    Heard(Heard),
    /// An attachment that was found without a record, or more that has become known of it; `was` is the record that this
    /// one replaces. It is [`State::Committed`].
    Adopt {
        /// The key that stood in for the unknown one.
        was: Option<AttachmentKey>,
        /// The attachment.
        record: Box<Record>,
    },
    /// Everything that was found without a record has one.
    Rebuilt,
}

impl Change {
    /// Whether it must be on the disk before it counts. An attachment that only begins need not: what a crash loses of
    /// it is an interface of no record, which the next start removes just as it undoes an intent. Nor need a binding,
    /// which gets there with the attachment that uses it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::Begin(_) | Self::SetBindings(_) | Self::Rebind(_))
    }
}

/// A change that does not fit what the journal holds: a bug of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal: cannot {action} attachment {key:?}, which is {found:?}")]
pub struct Refused {
    /// What was asked for.
    pub action: &'static str,
    /// Of which attachment.
    pub key: AttachmentKey,
    /// What it is now; `None`: it does not exist.
    pub found: Option<State>,
}

/// UID of an address and epoch of its binding.
fn binding_of(vpc_ip: &VpcIP) -> Option<(String, i64)> {
    Some((vpc_ip.uid()?, vpc_ip.state().epoch))
}

/// Everything that the journal holds.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Attachments by key.
    pub attachments: BTreeMap<AttachmentKey, Arc<Record>>,
    /// ENIs by slot.
    pub enis: BTreeMap<u32, EniRecord>,
    /// The addresses that the API said are bound to pods of this node, by name.
    pub bindings: BTreeMap<String, Arc<VpcIP>>,
    /// When the API was last heard, give or take half a minute.
    pub heard: Option<Heard>,
    /// The journal is new: what is on the node may be of one that was lost.
    pub rebuilding: bool,
    /// Highest epoch that is over of addresses that the API may still call bound, by UID of the `VpcIP`. Not on the disk:
    /// a new agent lists them anew.
    pub over: BTreeMap<String, i64>,
}

/// Alike on the disk.
impl PartialEq for Book {
    fn eq(&self, other: &Self) -> bool {
        let Self { attachments, enis, bindings, heard, rebuilding, over: _ } = self;
        *attachments == other.attachments
            && *enis == other.enis
            && *bindings == other.bindings
            && *heard == other.heard
            && *rebuilding == other.rebuilding
    }
}

impl Book {
    /// Applies a change, or changes nothing.
    ///
    /// # Errors
    /// When the change does not fit.
    pub fn apply(&mut self, change: Change) -> Result<(), Refused> {
        let refuse = |action, key: &AttachmentKey, found: Option<&Arc<Record>>| Refused {
            action,
            key: key.clone(),
            found: found.map(|record| record.state),
        };
        match change {
            Change::Begin(mut record) => {
                let found = self.attachments.get(&record.key);
                if found.is_some() || record.state != State::Intent {
                    return Err(refuse("begin", &record.key, found));
                }
                record.sequence = self.next_sequence();
                self.attachments.insert(record.key.clone(), Arc::from(record));
            }
            Change::Commit { key, host_ifindex } => match self.attachments.get_mut(&key) {
                Some(record) if record.state == State::Intent => {
                    let record = Arc::make_mut(record);
                    record.state = State::Committed;
                    record.host_ifindex = Some(host_ifindex);
                }
                other => return Err(refuse("commit", &key, other.as_deref())),
            },
            Change::Detach(key) => match self.attachments.get_mut(&key) {
                Some(record) => Arc::make_mut(record).state = State::Detaching,
                None => return Err(refuse("detach", &key, None)),
            },
            Change::Forget(key) => match self.attachments.get(&key) {
                Some(record) if record.state != State::Committed => {
                    self.attachments.remove(&key);
                }
                other => return Err(refuse("forget", &key, other)),
            },
            Change::SetEni(eni) => {
                self.enis.insert(eni.slot, eni);
            }
            Change::ForgetEni(slot) => {
                self.enis.remove(&slot);
            }
            Change::SetBindings(mut bindings) => {
                let bound: BTreeMap<String, i64> =
                    bindings.values().filter_map(|vpc_ip| binding_of(vpc_ip)).collect();
                // What the API has come to know is over needs not be remembered.
                self.over.retain(|uid, over| bound.get(uid).is_some_and(|epoch| *epoch <= *over));
                bindings.retain(|_, vpc_ip| !self.is_over(vpc_ip));
                self.bindings = bindings;
            }
            Change::Unbind(vpc_ip) => {
                if let Some((uid, epoch)) = binding_of(&vpc_ip) {
                    let over = self.over.entry(uid).or_insert(epoch);
                    *over = epoch.max(*over);
                }
                let later = |known: &VpcIP| known.uid() == vpc_ip.uid() && !self.is_over(known);
                let name = vpc_ip.name_any();
                if !self.bindings.get(&name).is_some_and(|known| later(known)) {
                    self.bindings.remove(&name);
                }
            }
            Change::Rebind(vpc_ip) => {
                if let Some((uid, _)) = binding_of(&vpc_ip) {
                    self.over.remove(&uid);
                }
                self.bindings.insert(vpc_ip.name_any(), vpc_ip);
            }
            Change::Heard(heard) => self.heard = Some(heard),
            Change::Adopt { was, mut record } => {
                let before = was.as_ref().unwrap_or(&record.key);
                let found = self.attachments.get(before);
                let fits = match (&was, found) {
                    (Some(_), found) => found.is_some_and(|found| found.state == State::Committed),
                    (None, found) => found.is_none(),
                };
                let taken =
                    was.is_some() && *before != record.key && self.attachments.contains_key(&record.key);
                if !fits || taken || record.state != State::Committed {
                    return Err(refuse("adopt", &record.key, found));
                }
                match was.and_then(|was| self.attachments.remove(&was)) {
                    Some(before) => record.sequence = before.sequence,
                    None => record.sequence = self.next_sequence(),
                }
                self.attachments.insert(record.key.clone(), Arc::from(record));
            }
            Change::Rebuilt => self.rebuilding = false,
        }
        Ok(())
    }

    fn is_over(&self, vpc_ip: &VpcIP) -> bool {
        let over = |(uid, epoch)| self.over.get(&uid).is_some_and(|over| epoch <= *over);
        binding_of(vpc_ip).is_some_and(over)
    }

    fn next_sequence(&self) -> u64 {
        self.attachments.values().map(|record| record.sequence).max().unwrap_or(0) + 1
    }

    /// The attachment that has the address: of those that are committed, the last.
    #[must_use]
    pub fn owner_of(&self, ip: IpAddr) -> Option<&Arc<Record>> {
        let holders = self.attachments.values();
        holders
            .filter(|record| record.state == State::Committed && record.has(ip))
            .max_by_key(|record| record.sequence)
    }

    /// Whether anything on the node may still use this binding of an address, or an older one. An attachment in any
    /// state does.
    #[must_use]
    pub fn uses(&self, ip: IpAddr, vpc_ip_uid: &str, epoch: i64) -> bool {
        self.attachments
            .values()
            .flat_map(|record| record.addresses())
            .any(|own| own.ip == ip && (own.vpc_ip_uid != vpc_ip_uid || own.epoch <= epoch))
    }
}
