//! Stack affinity: flows that the host stack has touched stay on it in both directions.
//!
//! The egress programs mark a flow when the stack sends a packet of it; the ingress programs then pass both of its
//! directions to the stack. Fragments have ports in the first one only, so beside each flow its pair of addresses is
//! marked (ports zero), and fragments of a marked pair, the first too, go to the stack. That costs fragments of the
//! pair's other flows the fast path, and is right for them as well: the stack delivers them all the same. Opaque packets
//! have a pair of their own, of protocol 0.
//!
//! An ICMP error belongs to the flow of the packet that it quotes, for only the stack can translate it as it translated
//! that. It marks nothing, and a quoted error has no flow.

use ipam_common::{StackFlow, flow::STACK_FLOW_SEEN};

use crate::{
    ip::{Ends, Frame},
    maps::{FLOW_STATS, STACK_FLOWS},
    packet::Packet,
    transport::{Part, Transport},
};

/// `BPF_NOEXIST` of `linux/bpf.h`: insert, but never overwrite.
const NO_EXIST: u64 = 1;

/// Length in bytes of the header of an ICMP error; the packet that it quotes follows.
const ICMP_HEADER_LEN: u32 = 8;

/// Which end of a packet is the pod.
#[derive(Clone, Copy)]
pub enum Pod {
    /// The pod sends it.
    Source,
    /// The pod receives it.
    Destination,
}

/// A [`StackFlow`] as words. Written octet by octet it costs thrice as much, and LLVM fills it with a loop over a pointer
/// into the stack, which the verifier refuses without CAP_PERFMON.
#[repr(C)]
struct Key {
    pod: [u64; 2],
    peer: [u64; 2],
    rest: u64,
}

const _: () = assert!(size_of::<Key>() == size_of::<StackFlow>());

impl Key {
    #[inline(always)]
    fn flow(&self) -> &StackFlow {
        // SAFETY: of the same size, valid for every bit pattern, and of a smaller alignment.
        unsafe { &*(&raw const *self).cast() }
    }

    /// The key of a packet, `None` if it has no flow.
    #[inline(always)]
    fn of<F: Frame>(ends: Ends, transport: &Transport, pod: Pod) -> Option<Self> {
        let (source_port, destination_port) = ports::<F>(transport)?;
        let (pod, peer, pod_port, peer_port) = match pod {
            Pod::Source => (ends.source, ends.destination, source_port, destination_port),
            Pod::Destination => (ends.destination, ends.source, destination_port, source_port),
        };
        // The identifier of an echo is that of both directions.
        let peer_port = if transport.protocol == F::ICMP { [0; 2] } else { peer_port };
        Some(Self { pod, peer, rest: rest::<F>(transport.protocol, pod_port, peer_port) })
    }
}

/// Ports, protocol and family as they lie in [`StackFlow`], behind the addresses.
#[inline(always)]
fn rest<F: Frame>(protocol: u8, pod_port: [u8; 2], peer_port: [u8; 2]) -> u64 {
    let ([o0, o1], [o2, o3]) = (pod_port, peer_port);
    u64::from_ne_bytes([o0, o1, o2, o3, protocol, F::FAMILY, 0, 0])
}

/// Source and destination port; zero for fragments and opaque packets. For ICMP echo twice the identifier. `None`: not of a
/// protocol that has flows, or cut short.
#[inline(always)]
fn ports<F: Frame>(transport: &Transport) -> Option<([u8; 2], [u8; 2])> {
    match transport.part {
        Part::Opaque => return Some(([0; 2], [0; 2])),
        _ if !transport.has_flows => return None,
        Part::First | Part::Later => return Some(([0; 2], [0; 2])),
        Part::Whole => {}
    }
    let [o0, o1, o2, o3, o4, o5, _, _] = transport.head()?;
    if transport.protocol != F::ICMP {
        Some(([o0, o1], [o2, o3]))
    } else if F::is_icmp_echo(o0) {
        Some(([o4, o5], [o4, o5]))
    } else {
        None
    }
}

/// Whether the stack has touched the flow of the packet, or of the packet that it quotes.
#[inline(always)]
pub fn is_on_stack<F: Frame>(packet: &Packet, frame: &F, transport: &Transport, pod: Pod) -> bool {
    let key = if is_error::<F>(transport) {
        quoted_key::<F>(packet, transport.offset + ICMP_HEADER_LEN, pod)
    } else {
        Key::of::<F>(frame.ends(), transport, pod)
    };
    key.is_some_and(|key| is_marked(&key))
}

/// Whether it is an ICMP error, which belongs to another packet's flow.
#[inline(always)]
pub fn is_error<F: Frame>(transport: &Transport) -> bool {
    transport.part == Part::Whole && transport.icmp_type::<F>().is_some_and(F::is_icmp_error)
}

/// The quoted packet went the other way: the pod that sends an error has received it.
#[inline(always)]
fn quoted_key<F: Frame>(packet: &Packet, offset: u32, pod: Pod) -> Option<Key> {
    let (ends, transport) = F::quoted(packet, offset)?;
    let pod = match pod {
        Pod::Source => Pod::Destination,
        Pod::Destination => Pod::Source,
    };
    Key::of::<F>(ends, &transport, pod)
}

#[inline(always)]
fn is_marked(key: &Key) -> bool {
    STACK_FLOWS.get_ptr(key.flow()).is_some()
}

/// Marks the flow of a packet that the stack sends. Should the map refuse, the next packet tries again.
#[inline(always)]
pub fn mark<F: Frame>(frame: &F, transport: &Transport, pod: Pod) {
    let Some(mut key) = Key::of::<F>(frame.ends(), transport, pod) else { return };
    insert(&key);
    key.rest = rest::<F>(transport.protocol, [0; 2], [0; 2]);
    insert(&key);
}

#[inline(always)]
fn insert(key: &Key) {
    // The look-up is what keeps a flow young in the LRU, and much cheaper than an update. Of two CPUs that come here at once
    // only one counts the flow.
    if is_marked(key) || STACK_FLOWS.insert(key.flow(), STACK_FLOW_SEEN, NO_EXIST).is_err() {
        return;
    }
    if let Some(stats) = FLOW_STATS.get_ptr_mut(0) {
        // SAFETY: this CPU's own copy; the verifier has seen the null check.
        unsafe { (*stats).inserted += 1 };
    }
}
