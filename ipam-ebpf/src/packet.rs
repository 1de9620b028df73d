//! Reading a packet, and rewriting its MACs.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
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

    /// The kernel's context, to make a `Packet` of in a function of its own.
    #[inline(always)]
    pub fn as_raw(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
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

    /// The `T` at an offset, in the order of the packet; `None` if the packet is shorter. `T` must be valid for every bit
    /// pattern.
    #[inline(always)]
    pub fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        self.ctx.load(offset as usize).ok()
    }

    /// Copies the eight bytes at an offset to `word`, in the order of the packet; zero if the packet is shorter. It is quicker
    /// where they stand right behind an `F`, as they mostly do.
    #[inline(always)]
    pub fn load_word<F>(&self, offset: u32, word: &mut u64) -> bool {
        let start = self.ctx.data();
        if offset == size_of::<F>() as u32 && start + size_of::<F>() + 8 <= self.ctx.data_end() {
            // SAFETY: the bytes are within the linear part, as the verifier checks again; a frame starts at an even address.
            let [o0, o1, o2, o3] = unsafe { *((start + size_of::<F>()) as *const [u16; 4]) };
            *word = u64::from(o0) | u64::from(o1) << 16 | u64::from(o2) << 32 | u64::from(o3) << 48;
            return true;
        }
        self.load_far_word(offset, word)
    }

    /// As [`Self::load_word`], wherever the bytes stand.
    #[inline(always)]
    pub fn load_far_word(&self, offset: u32, word: &mut u64) -> bool {
        let bytes = core::ptr::from_mut(word).cast();
        // SAFETY: the helper writes eight bytes, in any case.
        unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), offset, bytes, 8) == 0 }
    }

    /// Copies the first bytes of the packet to `head`, whose rest becomes zero; their number. The kernel does the zeroing: by
    /// these programs it would be a loop over a pointer, which the verifier refuses without CAP_PERFMON.
    ///
    /// # Safety
    ///
    /// `head` can be written.
    #[inline(always)]
    pub unsafe fn copy_head<const N: usize>(&self, head: *mut [u8; N]) -> u32 {
        // SAFETY: the helper writes `len` bytes, at most `N`; as many zeroes if the packet is shorter.
        let load = |len| unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), 0, head.cast(), len) == 0 };
        if load(N as u32) {
            return N as u32;
        }
        // Said in this way the verifier of Linux 5.10 too sees that it is neither zero nor more than `N`.
        let len = self.l3_len().min(N as u32 - ether::HEADER_LEN) + ether::HEADER_LEN;
        if load(len) { len } else { 0 }
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
