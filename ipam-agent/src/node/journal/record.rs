//! What the journal holds, and which changes of it are allowed. No I/O.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use ipam_cni::protocol::AttachmentKey;
use serde::{Deserialize, Serialize};

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

/// An attachment: a pod's interface and everything that was made on the node for it.
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
    pub ip: Ipv4Addr,
    /// Epoch of the binding.
    pub epoch: i64,
    /// The cloud's name of the ENI that holds the address.
    pub eni_id: String,
    /// The ENI's slot in the `ENIS` map.
    pub eni_slot: u32,
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
}

impl Change {
    /// Whether it must be on the disk before it counts. An attachment that only begins need not: what a crash loses of
    /// it is an interface of no record, which the next start removes just as it undoes an intent.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::Begin(_))
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

/// Everything that the journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Attachments by key.
    pub attachments: BTreeMap<AttachmentKey, Arc<Record>>,
    /// ENIs by slot.
    pub enis: BTreeMap<u32, EniRecord>,
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
                let last = self.attachments.values().map(|record| record.sequence).max();
                record.sequence = last.unwrap_or(0) + 1;
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
        }
        Ok(())
    }

    /// The attachment that has the address: of those that are committed, the last.
    #[must_use]
    pub fn owner_of(&self, ip: Ipv4Addr) -> Option<&Arc<Record>> {
        let holders = self.attachments.values();
        holders
            .filter(|record| record.ip == ip && record.state == State::Committed)
            .max_by_key(|record| record.sequence)
    }

    /// Whether anything on the node may still use this binding of an address, or an older one. An attachment in any
    /// state does.
    #[must_use]
    pub fn uses(&self, ip: Ipv4Addr, vpc_ip_uid: &str, epoch: i64) -> bool {
        self.attachments
            .values()
            .any(|record| record.ip == ip && (record.vpc_ip_uid != vpc_ip_uid || record.epoch <= epoch))
    }
}
