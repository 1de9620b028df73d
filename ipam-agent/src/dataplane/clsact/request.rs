//! Blocking rtnetlink requests for qdiscs and filters: the dataplane's calls are a few system calls long and made in
//! place, some of them on threads without a runtime.

use std::{io, os::fd::RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::Hook;

/// Priority of our filters: before those that the kernel numbers itself (from 49152 downwards), behind those that
/// somebody has put first on purpose.
const PRIORITY: u16 = 1000;

/// Handle of our filters: "ipam" in ASCII.
const HANDLE: u32 = u32::from_be_bytes(*b"ipam");

/// `ETH_P_ALL` of `linux/if_ether.h`: frames of every protocol.
const ETH_P_ALL: u16 = 3;

const QDISC: &str = "clsact";

/// A bpf filter.
pub struct Filter {
    /// Name that was given with the program.
    pub name: String,
    /// The kernel's number of the program; the kernel has told it since 4.16.
    pub program_id: Option<u32>,
}

/// A socket of rtnetlink in the calling thread's network namespace.
pub struct Rtnl(Socket);

impl Rtnl {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Indices and names of all interfaces.
    pub fn interfaces(&mut self) -> io::Result<Vec<(u32, String)>> {
        let answer = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = answer.into_iter().filter_map(|message| {
            let RouteNetlinkMessage::NewLink(link) = message else { return None };
            let index = link.header.index;
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some((index, name)),
                _ => None,
            })
        });
        Ok(links.collect())
    }

    /// Makes the clsact qdisc of an interface, unless it has it.
    ///
    /// An `ingress` qdisc sits in the same place and takes filters for egress too, but runs them on ingress: it is refused.
    pub fn ensure_qdisc(&mut self, ifindex: u32) -> io::Result<()> {
        let mut qdisc = TcMessage::with_index(ifindex.cast_signed());
        qdisc.header.parent = TcHandle::CLSACT;
        qdisc.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        qdisc.attributes.push(TcAttribute::Kind(QDISC.to_owned()));
        let add = RouteNetlinkMessage::NewQueueDiscipline(qdisc.clone());
        match self.request(add, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|_| ()),
        }
        let all = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        for message in self.request(all, NLM_F_DUMP)? {
            if let RouteNetlinkMessage::NewQueueDiscipline(found) = message
                && (found.header.index, found.header.parent) == (qdisc.header.index, qdisc.header.parent)
                && kind(&found) != Some(QDISC)
            {
                let kind = kind(&found).unwrap_or("unknown");
                return Err(io::Error::other(format!(
                    "its qdisc for ingress is `{kind}`, which has no egress hook; remove it (`tc qdisc del dev … \
                     ingress`) or replace it by `clsact`"
                )));
            }
        }
        Ok(())
    }

    /// Our filter on a hook.
    pub fn our_filter(&mut self, ifindex: u32, hook: Hook) -> io::Result<Option<Filter>> {
        match self.request(RouteNetlinkMessage::GetTrafficFilter(our_message(ifindex, hook)), 0) {
            Ok(answer) => Ok(answer.iter().find_map(bpf_filter)),
            // No such interface, filter or priority; no such qdisc or chain, which is "invalid" to the kernel.
            Err(error) if is_one_of(&error, &[Errno::NODEV, Errno::NOENT, Errno::INVAL]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All bpf filters of a hook, by priority.
    pub fn filters(&mut self, ifindex: u32, hook: Hook) -> io::Result<Vec<Filter>> {
        let mut wanted = TcMessage::with_index(ifindex.cast_signed());
        wanted.header.parent = parent(hook);
        let mut answer = self.request(RouteNetlinkMessage::GetTrafficFilter(wanted), NLM_F_DUMP)?;
        answer.sort_by_key(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(filter) => filter.header.info >> 16,
            _ => u32::MAX,
        });
        Ok(answer.iter().filter_map(bpf_filter).collect())
    }

    /// Makes our filter on a hook run this program: a new filter, or the program of the one that is there replaced. The
    /// kernel does the latter with one pointer.
    pub fn put_filter(&mut self, ifindex: u32, hook: Hook, program: RawFd, name: &str) -> io::Result<()> {
        let mut filter = our_message(ifindex, hook);
        let options = [
            TcFilterBpfOption::ProgFd(program.cast_unsigned()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        filter.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
        // Without NLM_F_EXCL a filter of this handle is changed in place.
        self.request(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_ACK | NLM_F_CREATE).map(|_| ())
    }

    /// Removes our filter of a hook; none is fine.
    pub fn delete_filter(&mut self, ifindex: u32, hook: Hook) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelTrafficFilter(our_message(ifindex, hook)), NLM_F_ACK) {
            Err(error) if is_one_of(&error, &[Errno::NODEV, Errno::NOENT, Errno::INVAL]) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Sends one request and reads until its answer has ended.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        // A dump ends with a message of its own, a change with its acknowledgement, a look-up with what it found.
        let look_up = flags & (NLM_F_DUMP | NLM_F_ACK) == 0;
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = &datagram[..];
            while let Some(length) = message_length(rest) {
                let (one, others) = rest.split_at(length);
                rest = others.get(length.next_multiple_of(4) - length..).unwrap_or_default();
                // What this library cannot read is nothing of ours.
                let Ok(answer) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else {
                    if look_up {
                        return Ok(found);
                    }
                    continue;
                };
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(found),
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    _ => {}
                }
                if look_up {
                    return Ok(found);
                }
            }
        }
    }
}

/// Length of the first message in a datagram, which its first word tells; `None` when there is none or it is cut off.
fn message_length(datagram: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(*datagram.first_chunk()?);
    usize::try_from(length).ok().filter(|length| (1..=datagram.len()).contains(length))
}

/// Names our filter on a hook.
fn our_message(ifindex: u32, hook: Hook) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = parent(hook);
    message.header.handle = HANDLE.into();
    message.header.info = (u32::from(PRIORITY) << 16) | u32::from(ETH_P_ALL.to_be());
    message
}

fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

/// The bpf filter in an answer. A dump names each priority once without a filter: that has no options.
fn bpf_filter(message: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else { return None };
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let mut filter = Filter { name: String::new(), program_id: None };
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(*id),
            _ => {}
        }
    }
    (kind(message) == Some(TcFilterBpf::KIND)).then_some(filter)
}

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
