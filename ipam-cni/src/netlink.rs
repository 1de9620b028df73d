//! A blocking rtnetlink socket: one pod needs six messages, and no runtime to send them.

use std::{io, num::NonZeroI32};

use netlink_packet_core::{
    Emitable, ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// More than the kernel puts into one datagram: it caps a dump's at 32 KiB (`netlink_recvmsg`).
const DATAGRAM_MAX: usize = 64 << 10;
const ENODEV: i32 = 19;
/// `NLMSGERR_ATTR_MSG`: what the kernel has to say on an error, as a C string.
const ERROR_TEXT: u16 = 1;
/// Bytes of a netlink message's header, which an acknowledgement repeats before its attributes.
const HEADER_LEN: usize = 16;

/// One change, for [`Netlink::batch`].
#[derive(Debug)]
pub struct Change {
    /// What it does, for the error: "add the address 10.0.0.5/32".
    pub what: String,
    /// The message.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and the like; request and acknowledgement are added.
    pub flags: u16,
    /// Whether its refusal leaves the whole as good as done.
    pub optional: bool,
}

/// Why the kernel did not do as told.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {error}{}", if kernel.is_empty() { String::new() } else { format!(" (the kernel says: {kernel})") })]
pub struct NetlinkError {
    /// What was to be done.
    pub what: String,
    /// The error.
    pub error: io::Error,
    /// The kernel's own words, when it has some.
    pub kernel: String,
}

/// A socket to the network namespace in which it was opened.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket to the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Errors then come with a text, and do not repeat the whole request before it.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM_MAX) })
    }

    /// Sends every change in one datagram and waits for the acknowledgement of each. The kernel goes on after
    /// one that fails; the first failure that is not optional is returned.
    pub fn batch(&mut self, changes: Vec<Change>) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut pending = Vec::with_capacity(changes.len());
        let mut datagram = Vec::new();
        for change in changes {
            self.append(&mut datagram, change.message, change.flags | NLM_F_ACK);
            pending.push((change.what, change.optional));
        }
        let on_io = |error| NetlinkError { what: "talk to the kernel".into(), error, kernel: String::new() };
        self.socket.send(&datagram, 0).map_err(on_io)?;
        let mut failure = None;
        let mut missing = pending.len();
        while missing > 0 {
            for (header, payload) in self.receive().map_err(on_io)? {
                let NetlinkPayload::Error(ack) = payload else { continue };
                // Sequence numbers of an earlier exchange give an index beyond the end.
                let index = header.sequence_number.wrapping_sub(first) as usize;
                let Some((what, optional)) = pending.get_mut(index) else { continue };
                missing -= 1;
                if let (Some(code), false, None) = (ack.code, *optional, &failure) {
                    let what = std::mem::take(what);
                    failure =
                        Some(NetlinkError { what, error: errno(code), kernel: kernel_text(&header, &ack) });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The link of that name; `None` when there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.query(RouteNetlinkMessage::GetLink(request), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => {
                Err(NetlinkError { what: format!("look for link {name}"), error, kernel: String::new() })
            }
        }
    }

    /// Every object of the request's kind.
    pub fn dump(
        &mut self,
        what: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.query(request, NLM_F_DUMP).map_err(|error| NetlinkError {
            what: format!("list the {what}"),
            error,
            kernel: String::new(),
        })
    }

    fn query(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, request, flags);
        self.socket.send(&datagram, 0)?;
        let mut answers = Vec::new();
        loop {
            for (header, payload) in self.receive()? {
                if header.sequence_number != self.sequence {
                    continue;
                }
                match payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(ErrorMessage { code: Some(code), .. }) => return Err(errno(code)),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::other("the kernel lost part of its answer"));
                    }
                    _ => return Ok(answers),
                }
            }
            if flags & NLM_F_DUMP == 0 && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(usize::from(NLMSG_ALIGNTO)), 0);
        message.emit(&mut datagram[start..]);
    }

    fn receive(&mut self) -> io::Result<Vec<(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut messages = Vec::new();
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let (header, payload) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?
                .into_parts();
            // At least a header long, or it would not have been decoded.
            let len = (header.length as usize).next_multiple_of(usize::from(NLMSG_ALIGNTO));
            rest = rest.get(len..).unwrap_or_default();
            messages.push((header, payload));
        }
        Ok(messages)
    }
}

fn errno(code: NonZeroI32) -> io::Error {
    io::Error::from_raw_os_error(code.get().saturating_abs())
}

fn kernel_text(header: &NetlinkHeader, ack: &ErrorMessage) -> String {
    let attributes =
        ack.header.get(HEADER_LEN..).filter(|_| header.flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == ERROR_TEXT)
        .map(|text| String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}
