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
    /// A neighbour message (RFC 4861) claims an address or MAC that is not the pod's.
    NdSpoof = 8,
    /// The pod plays the router: a router advertisement or an ICMPv6 redirect.
    RouterAdvertisement = 9,
    /// The pod plays the DHCP server, of either family.
    DhcpServer = 10,
    /// Not a destination on a wire: unspecified, loopback, or an IPv4 address mapped into IPv6.
    InvalidDestination = 11,
}

/// Number of drop reasons, the size of the `DROPS` map.
pub const DROP_REASONS: u32 = 12;

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
        Self::NdSpoof,
        Self::RouterAdvertisement,
        Self::DhcpServer,
        Self::InvalidDestination,
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
            Self::NdSpoof => "nd_spoof",
            Self::RouterAdvertisement => "router_advertisement",
            Self::DhcpServer => "dhcp_server",
            Self::InvalidDestination => "invalid_destination",
        }
    }
}

/// Bytes of a dropped frame that a [`DropEvent`] carries.
pub const DROP_HEAD_LEN: usize = 96;

/// Shortest time between two samples of one reason on one CPU, in nanoseconds.
pub const DROP_SAMPLE_INTERVAL_NS: u64 = 10_000_000;

/// A sample of the dropped packets: an entry of the ring buffer `DROP_EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropEvent {
    /// `CLOCK_MONOTONIC` in nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Index of the interface at whose hook the packet was dropped.
    pub ifindex: u32,
    /// Number of the [`DropReason`].
    pub reason: u32,
    /// Length of the frame in bytes, Ethernet header included.
    pub len: u32,
    /// How many bytes of `head` are the frame's; the others are zero.
    pub captured: u32,
    /// The frame's first bytes, from the Ethernet header on.
    pub head: [u8; DROP_HEAD_LEN],
}

impl DropReason {
    /// The reason of a number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}
