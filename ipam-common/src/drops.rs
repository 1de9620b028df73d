//! Why a program dropped a packet. The numbers are the indices of the `DROPS` map and of metrics;
//! a retired number is never used again.

/// A reason for a drop.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Shorter than its headers say, or not linear where it must be.
    Malformed = 0,
    /// The source address belongs to no pod of this node.
    UnknownSource = 1,
    /// The source address belongs to a pod behind another interface.
    WrongInterface = 2,
    /// The source MAC is not the pod's.
    WrongSourceMac = 3,
    /// An ARP packet claims an address or MAC that is not the pod's.
    ArpSpoof = 4,
    /// The pod sent a VLAN tag.
    VlanTagged = 5,
    /// An EtherType that pods may not send (neither IPv4, ARP nor, where enabled, IPv6).
    UnsupportedEtherType = 6,
    /// The pod's ENI slot is empty or its gateway MAC is not known yet.
    EniNotReady = 7,
}

/// Number of drop reasons, the size of the `DROPS` map.
pub const DROP_REASONS: u32 = 8;

impl DropReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; DROP_REASONS as usize] = [
        Self::Malformed,
        Self::UnknownSource,
        Self::WrongInterface,
        Self::WrongSourceMac,
        Self::ArpSpoof,
        Self::VlanTagged,
        Self::UnsupportedEtherType,
        Self::EniNotReady,
    ];

    /// The name used in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownSource => "unknown_source",
            Self::WrongInterface => "wrong_interface",
            Self::WrongSourceMac => "wrong_source_mac",
            Self::ArpSpoof => "arp_spoof",
            Self::VlanTagged => "vlan_tagged",
            Self::UnsupportedEtherType => "unsupported_ether_type",
            Self::EniNotReady => "eni_not_ready",
        }
    }
}
