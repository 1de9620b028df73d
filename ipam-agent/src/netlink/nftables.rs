//! One table of nftables with one NAT chain at postrouting, written and compared as a whole. Other tables are never
//! touched.
//!
//! By netlink and not by the `nft` program, which an image of the agent would have to carry, and whose output would
//! have to be parsed. Attribute orders and values are those that the kernel dumps, so that what is there can be
//! compared with what should be.

use std::io;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, HookNumber, Immediate,
        InetHookNumber, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute,
        RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
    },
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::NetlinkError;

/// Name of the only chain.
const CHAIN: &str = "postrouting";
/// `NF_IP_PRI_NAT_SRC` of `linux/netfilter_ipv4.h`: where `srcnat` chains are.
const PRIORITY: u32 = 100;
/// `NF_ACCEPT` of `linux/netfilter.h`, the chain's policy.
const ACCEPT: u32 = 1;
/// `NFNL_SUBSYS_NFTABLES` of `linux/netfilter/nfnetlink.h`: what a batch is for.
const SUBSYSTEM: u16 = 10;
/// `NFT_PAYLOAD_NETWORK_HEADER` of `linux/netfilter/nf_tables.h`.
const NETWORK_HEADER: u32 = 1;
/// `NFTA_MASQ_FLAGS` there, and `NF_NAT_RANGE_PROTO_RANDOM_FULLY` of `linux/netfilter/nf_nat.h`.
const MASQ_FLAGS: u16 = 1;
const RANDOM_FULLY: u32 = 1 << 4;
/// Offset of the destination in an IPv4 header, in bytes.
const DESTINATION: u32 = 16;

/// A rule: its expressions, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Vec<Expressions>);

impl Rule {
    /// `iifname != "PREFIX*" return`
    #[must_use]
    pub fn return_unless_from(prefix: &str) -> Self {
        Self::return_if_name(MetaKey::Iifname, Operator::NotEqual, prefix)
    }

    /// `oifname "PREFIX*" return`
    #[must_use]
    pub fn return_if_to(prefix: &str) -> Self {
        Self::return_if_name(MetaKey::Oifname, Operator::Equal, prefix)
    }

    /// `ip daddr CIDR return`
    #[must_use]
    pub fn return_if_destination(cidr: Ipv4Net) -> Self {
        let octets = |ip: std::net::Ipv4Addr| DataAttribute::Value(ip.octets().to_vec());
        let destination = Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(DESTINATION),
            Payload::Len(4),
        ]);
        let network = Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Op(0),
            Bitwise::Mask(octets(cidr.netmask())),
            Bitwise::Xor(octets(std::net::Ipv4Addr::UNSPECIFIED)),
        ]);
        Self(vec![destination, network, compare(Operator::Equal, octets(cidr.network())), verdict_return()])
    }

    /// `masquerade fully-random`
    #[must_use]
    pub fn masquerade() -> Self {
        let flags = DefaultNla::new(MASQ_FLAGS, RANDOM_FULLY.to_be_bytes().to_vec());
        Self(vec![Expressions::Other { expression_type: "masq".into(), attributes: vec![flags] }])
    }

    fn return_if_name(key: MetaKey, operator: Operator, prefix: &str) -> Self {
        let name = Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]);
        // Compared without its end, a name is a prefix.
        let prefix = DataAttribute::Value(prefix.as_bytes().to_vec());
        Self(vec![name, compare(operator, prefix), verdict_return()])
    }
}

fn compare(operator: Operator, data: DataAttribute) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(data)])
}

fn verdict_return() -> Expressions {
    let code = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Return)]);
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(code)])
}

/// Whether the table is as [`replace`] leaves it.
///
/// # Errors
/// When the kernel refuses, for want of nf_tables for example.
pub fn is_as(table: &str, rules: &[Rule]) -> Result<bool, NetlinkError> {
    let ask = || {
        let tables = request(NfTablesMessage::GetTable(table_message(table)), 0)?;
        let awake = tables.iter().any(|message| match message {
            NfTablesMessage::NewTable(table) => !table
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, TableAttribute::Flags(flags) if !flags.is_empty())),
            _ => false,
        });
        let named = ChainMessage { attributes: chain_name(table) };
        let chains = request(NfTablesMessage::GetChain(named), 0)?;
        let hooked = chains.iter().any(|message| match message {
            NfTablesMessage::NewChain(chain) => {
                chain_hook().iter().all(|wanted| chain.attributes.contains(wanted))
            }
            _ => false,
        });
        let all = RuleMessage {
            attributes: vec![RuleAttribute::Table(table.into()), RuleAttribute::Chain(CHAIN.into())],
        };
        let found = request(NfTablesMessage::GetRule(all), NLM_F_DUMP)?;
        let found: Vec<Rule> = found.iter().filter_map(rule).collect();
        Ok(awake && hooked && found == rules)
    };
    match ask() {
        Err(error) if is_absent(&error) => Ok(false),
        other => other.map_err(|source| failed("read", table, source)),
    }
}

/// Puts the table, made anew, in the place of whatever has its name, in one transaction: no packet meets anything
/// between the two. Connections keep the translation that they have.
///
/// # Errors
/// When the kernel refuses; then nothing has changed.
pub fn replace(table: &str, rules: &[Rule]) -> Result<(), NetlinkError> {
    let mut messages = removal(table);
    messages.push((NfTablesMessage::NewTable(table_message(table)), NLM_F_CREATE));
    let attributes = [chain_name(table), chain_hook()].concat();
    messages.push((NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE));
    messages.extend(rules.iter().map(|Rule(expressions)| {
        let attributes = vec![
            RuleAttribute::Table(table.into()),
            RuleAttribute::Chain(CHAIN.into()),
            RuleAttribute::Expressions(expressions.iter().cloned().map(Into::into).collect()),
        ];
        (NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
    }));
    transact(messages).map_err(|source| failed("replace", table, source))
}

/// Removes the table. Answers whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(table: &str) -> Result<bool, NetlinkError> {
    let there = || match request(NfTablesMessage::GetTable(table_message(table)), 0) {
        Ok(_) => transact(removal(table)).map(|()| true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    };
    there().map_err(|source| failed("remove", table, source))
}

/// Deleting what is not there is an error, so it is made first.
fn removal(table: &str) -> Vec<(NfTablesMessage, u16)> {
    vec![
        (NfTablesMessage::NewTable(table_message(table)), NLM_F_CREATE),
        (NfTablesMessage::DeleteTable(table_message(table)), 0),
    ]
}

fn table_message(table: &str) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(table.into())] }
}

fn chain_name(table: &str) -> Vec<ChainAttribute> {
    vec![ChainAttribute::Table(table.into()), ChainAttribute::Name(CHAIN.into())]
}

fn chain_hook() -> Vec<ChainAttribute> {
    let number = Hook::Number(HookNumber::Inet(InetHookNumber::PostRouting));
    vec![
        ChainAttribute::Hook(vec![number, Hook::Priority(PRIORITY)]),
        ChainAttribute::Policy(ACCEPT),
        ChainAttribute::Type("nat".into()),
    ]
}

fn rule(message: &NfTablesMessage) -> Option<Rule> {
    use netlink_packet_netfilter::nftables::{ExpressionAttribute, ListAttribute};
    let NfTablesMessage::NewRule(rule) = message else { return None };
    let expressions = rule.attributes.iter().flat_map(|attribute| match attribute {
        RuleAttribute::Expressions(list) => list.as_slice(),
        _ => &[],
    });
    let data = expressions.map(|element| match element {
        ListAttribute::Element(attributes) => attributes.iter().find_map(|attribute| match attribute {
            ExpressionAttribute::Data(data) => Some(data.clone()),
            _ => None,
        }),
        _ => None,
    });
    // An expression that cannot be read makes the rule one of nobody's.
    Some(Rule(data.collect::<Option<_>>().unwrap_or_default()))
}

/// All messages or none, each acknowledged by the kernel.
fn transact(messages: Vec<(NfTablesMessage, u16)>) -> io::Result<()> {
    let socket = open()?;
    let count = messages.len();
    let mut batch = Vec::new();
    let bound = |inner: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        (NetfilterMessage::new(header, inner), NLM_F_REQUEST)
    };
    let body = messages
        .into_iter()
        .map(|(inner, flags)| (NetfilterMessage::new(header(), inner), NLM_F_REQUEST | NLM_F_ACK | flags));
    let all = [bound(ControlMessage::BatchBegin)].into_iter().chain(body);
    for (message, flags) in all.chain([bound(ControlMessage::BatchEnd)]) {
        batch.extend(bytes(message, flags));
    }
    socket.send(&batch, 0)?;
    let mut acknowledged = 0;
    while acknowledged < count {
        for message in receive(&socket)? {
            if let NetlinkPayload::Error(error) = message.payload {
                if error.code.is_some() {
                    return Err(error.to_io());
                }
                acknowledged += 1;
            }
        }
    }
    Ok(())
}

/// One request and all of its answers.
fn request(inner: NfTablesMessage, flags: u16) -> io::Result<Vec<NfTablesMessage>> {
    let socket = open()?;
    let message = NetfilterMessage::new(header(), inner);
    socket.send(&bytes(message, NLM_F_REQUEST | NLM_F_ACK | flags), 0)?;
    let mut answers = Vec::new();
    loop {
        for message in receive(&socket)? {
            match message.payload {
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(answer),
                    ..
                }) => answers.push(answer),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                _ => {}
            }
        }
    }
}

/// The kernel has its answer ready when a message is sent: waiting for one would be waiting for ever.
fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn header() -> NetfilterHeader {
    NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0)
}

fn bytes(message: NetfilterMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn receive(socket: &Socket) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
    let (datagram, _) = socket.recv_from_full()?;
    let mut rest = datagram.as_slice();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4);
        messages.push(message);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(messages)
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error())
}

fn failed(action: &'static str, table: &str, source: io::Error) -> NetlinkError {
    NetlinkError { action, object: format!("table ip {table} of nftables"), source }
}
