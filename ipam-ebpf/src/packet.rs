//! Reading a packet, and rewriting its MACs.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use ipam_common::Mac;

use crate::ether;

/// `pkt_type` of a frame sent to the MAC of the interface that received it (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// `tc_index` of packets that were redirected to an ENI. The field survives `bpf_redirect`, and unlike the mark no rule
/// of users sees it; the kernel's last readers of it are the schedulers gred and dsmark.
const REDIRECTED: u32 = 0x1fa7;

/// A packet at a TC hook, seen from its Ethernet header.
pub struct Packet {
    ctx: TcContext,
}

/// Both addresses of an Ethernet header as they stand in it.
#[repr(C)]
pub struct MacPair {
    /// Where the frame goes.
    pub destination: Mac,
    /// Where it comes from.
    pub source: Mac,
}

impl Packet {
    /// Wraps the context that the kernel passes to a program.
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel passes a valid context, which outlives the program's run; the verifier
        // checks each access.
        unsafe { &*self.ctx.skb.skb }
    }

    /// Length in bytes, Ethernet header included.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.skb().len
    }

    /// Length in bytes without the Ethernet header.
    #[inline(always)]
    pub fn l3_len(&self) -> u32 {
        self.len().wrapping_sub(ether::HEADER_LEN)
    }

    /// Bytes of transport payload in each segment that this packet will be cut into; 0: it stays whole.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        self.skb().gso_size
    }

    /// Index of the interface at whose hook the program runs.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    /// Whether a VLAN tag was taken off the frame and kept beside it.
    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        self.skb().vlan_present != 0
    }

    /// Whether the frame was sent to the MAC of the interface that received it.
    #[inline(always)]
    pub fn is_to_host(&self) -> bool {
        self.skb().pkt_type == PACKET_HOST
    }

    /// The `T` at the front of the packet, `None` if the packet is shorter. `T` must be valid for every
    /// bit pattern and of alignment 1 or 2: a frame starts at an even address.
    #[inline(always)]
    pub fn front<T>(&self) -> Option<&T> {
        const { assert!(align_of::<T>() <= 2) };
        if self.ctx.data() + size_of::<T>() > self.ctx.data_end() {
            // The headers may lie in a page fragment: have them copied to the linear part. Should that fail,
            // the packet being too short, the check below does too.
            let _ = self.ctx.pull_data(size_of::<T>() as u32);
        }
        // One place only makes the reference: with two, LLVM compares it with null where they meet, and without
        // CAP_PERFMON the verifier refuses to compare a packet's address with anything but the packet's end.
        let start = self.ctx.data();
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: the bytes are within the linear part, as the verifier checks again.
        Some(unsafe { &*(start as *const T) })
    }

    /// Bytes from an offset, `None` if the packet is shorter.
    #[inline(always)]
    pub fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.ctx.load(offset as usize).ok()
    }

    /// Marks the packet as redirected to an ENI by these programs.
    #[inline(always)]
    pub fn set_redirected(&self) {
        self.set_tc_index(REDIRECTED);
    }

    /// Whether the packet was marked as redirected; takes the mark off, so that it never leaves the node.
    #[inline(always)]
    pub fn take_redirected(&self) -> bool {
        let marked = self.skb().tc_index == REDIRECTED;
        if marked {
            self.set_tc_index(0);
        }
        marked
    }

    #[inline(always)]
    fn set_tc_index(&self, value: u32) {
        // SAFETY: as in `skb`; the kernel lets TC programs write this field.
        unsafe { (&raw mut (*self.ctx.skb.skb).tc_index).write_volatile(value) };
    }

    /// Writes both MACs. Every reference got from [`Self::front`] is stale afterwards; the verifier refuses
    /// a program that uses one.
    #[inline(always)]
    pub fn set_macs(&self, macs: &MacPair) -> bool {
        self.ctx.store(0, macs, 0).is_ok()
    }
}
