//! Stack affinity: flows that the host stack has touched stay on it in both directions.
//!
//! The egress programs mark a flow when the stack sends a packet of it; the ingress programs then pass both of its
//! directions to the stack. Fragments have ports in the first one only, so beside each flow its pair of addresses is
//! marked (ports zero), and fragments of a marked pair, the first too, go to the stack. That costs fragments of the
//! pair's other flows the fast path, and is right for them as well: the stack delivers them all the same.

use ipam_common::{Ipv4Octets, StackFlow, flow::STACK_FLOW_SEEN};

use crate::{ether, ipv4::Frame, maps::STACK_FLOWS, packet::Packet};

/// IP protocol numbers (IANA).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// ICMP types of echo (RFC 792).
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// `family` of [`StackFlow`].
const IPV4: u8 = 4;

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

    /// Protocol and ports as they lie in [`StackFlow`], behind the addresses.
    #[inline(always)]
    fn rest(protocol: u8, pod_port: [u8; 2], peer_port: [u8; 2]) -> u64 {
        let ([o0, o1], [o2, o3]) = (pod_port, peer_port);
        u64::from_ne_bytes([o0, o1, o2, o3, protocol, IPV4, 0, 0])
    }
}

/// The flow of a packet, `None` if it has none: not TCP, UDP, SCTP or ICMP echo, or cut short.
#[inline(always)]
fn of(packet: &Packet, frame: &Frame, pod: Pod) -> Option<Key> {
    let (source_port, destination_port) = ports(packet, frame)?;
    let (pod, peer, pod_port, peer_port) = match pod {
        Pod::Source => (frame.source, frame.destination, source_port, destination_port),
        Pod::Destination => (frame.destination, frame.source, destination_port, source_port),
    };
    // The identifier of an echo is that of both directions.
    let peer_port = if frame.protocol == ICMP { [0; 2] } else { peer_port };
    let rest = Key::rest(frame.protocol, pod_port, peer_port);
    Some(Key { pod: [word(pod), 0], peer: [word(peer), 0], rest })
}

/// Source and destination port; zero for fragments. For ICMP echo twice the identifier.
#[inline(always)]
fn ports(packet: &Packet, frame: &Frame) -> Option<([u8; 2], [u8; 2])> {
    if !matches!(frame.protocol, ICMP | TCP | UDP | SCTP) {
        return None;
    }
    if frame.is_fragment() {
        return Some(([0; 2], [0; 2]));
    }
    let [o0, o1, o2, o3, o4, o5, _, _]: [u8; 8] = packet.load(ether::HEADER_LEN + frame.header_len())?;
    match (frame.protocol, o0) {
        (ICMP, ECHO_REPLY | ECHO_REQUEST) => Some(([o4, o5], [o4, o5])),
        (ICMP, _) => None,
        _ => Some(([o0, o1], [o2, o3])),
    }
}

/// The first half of an address in a flow.
#[inline(always)]
fn word(addr: Ipv4Octets) -> u64 {
    let [o0, o1, o2, o3] = addr.octets;
    u64::from_ne_bytes([o0, o1, o2, o3, 0, 0, 0, 0])
}

/// Whether the stack has touched the packet's flow.
#[inline(always)]
pub fn is_on_stack(packet: &Packet, frame: &Frame, pod: Pod) -> bool {
    of(packet, frame, pod).is_some_and(|key| is_marked(&key))
}

#[inline(always)]
fn is_marked(key: &Key) -> bool {
    STACK_FLOWS.get_ptr(key.flow()).is_some()
}

/// Marks the flow of a packet that the stack sends. Should the map refuse, the next packet tries again.
#[inline(always)]
pub fn mark(packet: &Packet, frame: &Frame, pod: Pod) {
    let Some(mut key) = of(packet, frame, pod) else { return };
    insert(&key);
    key.rest = Key::rest(frame.protocol, [0; 2], [0; 2]);
    insert(&key);
}

#[inline(always)]
fn insert(key: &Key) {
    // The look-up is what keeps a flow young in the LRU, and much cheaper than an update.
    if !is_marked(key) {
        let _ = STACK_FLOWS.insert(key.flow(), STACK_FLOW_SEEN, 0);
    }
}
