//! SCTP through services and past them. This kernel may have no SCTP sockets, as the lab's has none: associations are set
//! up by hand on raw sockets, which takes connection tracking's state for SCTP through its whole handshake.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context as _, ensure};
use ipam_lab::lab::netns::Netns;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::rules::{Proxy, TARGET_PORT};
use crate::scene::{PORT, Scene, Server, TO_LOCAL, TO_REMOTE, TO_SELF, WAIT, failed, seen_from};

/// Chunk types (RFC 9260 §3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// A packet of one chunk.
#[derive(Clone, Copy)]
struct Packet {
    ports: [u16; 2],
    /// Verification tag: the one that the receiver has chosen.
    tag: u32,
    chunk: u8,
    /// Of `INIT` and `INIT_ACK`: the tag that the sender chooses.
    own_tag: u32,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let body = match self.chunk {
            INIT | INIT_ACK => {
                [&self.own_tag.to_be_bytes()[..], &[0, 1, 0, 0], &[0, 1, 0, 1], &[0, 0, 0, 1]].concat()
            }
            COOKIE_ECHO => b"cook".to_vec(),
            _ => Vec::new(),
        };
        let length = u16::try_from(4 + body.len()).unwrap();
        let ports = self.ports.map(u16::to_be_bytes).concat();
        let head = [&ports[..], &self.tag.to_be_bytes(), &[0; 4], &[self.chunk, 0], &length.to_be_bytes()];
        let mut packet = [head.concat(), body].concat();
        let checksum = crc32c(&packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
        packet
    }

    /// Behind an IPv4 header.
    fn parse(datagram: &[u8]) -> Option<Self> {
        let packet = datagram.get(usize::from(datagram.first()? & 0xf) * 4..)?;
        let word = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
        let both = word(0)?;
        let ports = [(both >> 16) as u16, both as u16];
        Some(Self { ports, tag: word(4)?, chunk: *packet.get(12)?, own_tag: word(16).unwrap_or(0) })
    }
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

struct Endpoint(UdpSocket);

impl Endpoint {
    fn new(ns: &Netns) -> anyhow::Result<Self> {
        let raw =
            || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::SCTP));
        let socket = UdpSocket::from(ns.run(raw)?);
        socket.set_read_timeout(Some(WAIT))?;
        Ok(Self(socket))
    }

    fn send(&self, to: IpAddr, packet: Packet) -> anyhow::Result<()> {
        self.0.send_to(&packet.bytes(), (to, 0))?;
        Ok(())
    }

    /// The next packet with this chunk to this port.
    fn receive(&self, chunk: u8, port: u16) -> anyhow::Result<(IpAddr, Packet)> {
        let mut datagram = [0; 1500];
        loop {
            let (length, from) = self.0.recv_from(&mut datagram).with_context(|| format!("chunk {chunk}"))?;
            let packet = Packet::parse(&datagram[..length]).context("cut short")?;
            if (packet.chunk, packet.ports[1]) == (chunk, port) {
                return Ok((from.ip(), packet));
            }
        }
    }
}

/// The four packets that make an association, whose server must see one of `peers`.
fn associate<'a>(
    from: &Netns,
    to: (Ipv4Addr, u16),
    server: impl Into<Server<'a>>,
    peers: &[Ipv4Addr],
) -> anyhow::Result<()> {
    let at = server.into();
    let (client, server) = (Endpoint::new(from)?, Endpoint::new(at.ns)?);
    let port = rand::random_range(20_000..30_000);
    let (ip, ports) = (IpAddr::V4(to.0), [port, to.1]);
    let (client_tag, server_tag) = (0x0c0f_fee0, 0x5e12_7e12);
    client.send(ip, Packet { ports, tag: 0, chunk: INIT, own_tag: client_tag })?;
    for (asked, answered, asked_tag) in [(INIT, INIT_ACK, 0), (COOKIE_ECHO, COOKIE_ACK, server_tag)] {
        let (peer, question) = server.receive(asked, at.port)?;
        ensure!(question.tag == asked_tag, "tag {:x} of chunk {asked}", question.tag);
        seen_from(vec![(peer, 0).into()], peers)?;
        let back = [at.port, question.ports[0]];
        server.send(peer, Packet { ports: back, tag: client_tag, chunk: answered, own_tag: server_tag })?;
        let (answerer, answer) = client.receive(answered, port)?;
        ensure!((answerer, answer.ports[0]) == (ip, to.1), "{answerer} answers for {ip}");
        if answered == INIT_ACK {
            client.send(ip, Packet { ports, tag: answer.own_tag, chunk: COOKIE_ECHO, own_tag: 0 })?;
        }
    }
    Ok(())
}

async fn associations(test: &str, proxy: Proxy) {
    let scene = Scene::new(test, proxy, &[]).await;
    let (primary, secondary) = scene.node_ips();
    let Scene { client, local, remote, cluster } = &scene;
    let (pod, ctl, own) = (client.sandbox.ns(), cluster.lab.ctl(), [client.ip()]);
    let node = [primary, secondary];
    let failed = failed(vec![
        ("pod → pod here", associate(pod, (local.ip(), TARGET_PORT), local, &own)),
        ("pod → pod there", associate(pod, (remote.ip(), TARGET_PORT), remote, &own)),
        ("pod → service → pod here", associate(pod, (TO_LOCAL, PORT), local, &own)),
        ("pod → service → pod there", associate(pod, (TO_REMOTE, PORT), remote, &own)),
        ("NodePort, Cluster", associate(ctl.ns(), (primary, 30082), remote, &node)),
        ("NodePort, Cluster, pod here", associate(ctl.ns(), (primary, 30080), client, &node)),
        ("NodePort, Local", associate(ctl.ns(), (primary, 30081), local, &[ctl.ip()])),
        ("NodePort, Local, secondary ENI", associate(ctl.ns(), (secondary, 30081), local, &[ctl.ip()])),
        ("node → service → pod here", associate(scene.machine(), (TO_SELF, PORT), client, &node)),
    ]);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sctp_beside_kube_proxy_in_iptables_mode() {
    associations("sctp_iptables", Proxy::Iptables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sctp_beside_kube_proxy_in_nftables_mode() {
    associations("sctp_nftables", Proxy::Nftables).await;
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    // RFC 3720 §B.4: 32 bytes of zeros.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}
