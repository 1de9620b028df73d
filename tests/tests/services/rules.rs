//! Rules laid out as kube-proxy lays them out, in its two modes; chain names without their hashes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use anyhow::ensure;
use ipam_lab::lab::netns::Netns;

/// What every service is of.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// Port of every backend.
pub const TARGET_PORT: u16 = 8080;

/// What the rules of one family call otherwise than those of the other.
struct Words {
    /// The program that reads rules of iptables.
    restore: &'static str,
    /// nftables' word for the family.
    ip: &'static str,
    /// Its type of an address.
    addr: &'static str,
    /// Length of an address as a prefix.
    host: u8,
    /// Where no NodePort listens.
    loopback: &'static str,
    /// kube-proxy's `--cluster-cidr`.
    pods: &'static str,
}

const V4: Words = Words {
    restore: "iptables-restore",
    ip: "ip",
    addr: "ipv4_addr",
    host: 32,
    loopback: "127.0.0.0/8",
    pods: "10.0.1.0/24",
};
const V6: Words = Words {
    restore: "ip6tables-restore",
    ip: "ip6",
    addr: "ipv6_addr",
    host: 128,
    loopback: "::1",
    pods: "fd00:0:0:1::/64",
};

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq)]
pub enum Policy {
    /// Masqueraded, to any pod.
    Cluster,
    /// To a pod of the node, with the client's address.
    Local,
}

/// A service of TCP, UDP and SCTP with one backend.
pub struct Service {
    pub ip: IpAddr,
    /// Its address at a load balancer that keeps it as the destination.
    pub balancer: Option<IpAddr>,
    pub port: u16,
    pub backend: IpAddr,
    pub node_port: u16,
    pub policy: Policy,
}

/// The mode of kube-proxy.
#[derive(Clone, Copy)]
pub enum Proxy {
    Iptables,
    Nftables,
}

impl Proxy {
    /// Writes the rules of the services, all of one family, in a node's namespace.
    pub fn install(self, node: &Netns, services: &[Service]) -> anyhow::Result<()> {
        let words = if services.iter().all(|service| service.ip.is_ipv4()) { &V4 } else { &V6 };
        let (program, args, rules) = match self {
            Self::Iptables => (words.restore, &[][..], iptables(words, services)),
            Self::Nftables => ("nft", &["-f", "-"][..], nftables(words, services)),
        };
        let mut child =
            node.command(program).args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("piped").write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}\n{rules}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn iptables(words: &Words, services: &[Service]) -> String {
    let Words { host, pods, .. } = words;
    let mut chains = String::new();
    let mut rules = String::new();
    for (n, service) in services.iter().enumerate() {
        let Service { ip, balancer, port, backend, node_port, policy } = service;
        let target = SocketAddr::new(*backend, TARGET_PORT);
        for protocol in PROTOCOLS {
            let name = format!("{protocol}{n}");
            for kind in ["SVC", "SVL", "SEP", "EXT"] {
                writeln!(chains, ":KUBE-{kind}-{name} - [0:0]").expect("a string");
            }
            let external = match policy {
                Policy::Cluster => {
                    format!("-A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{name} -j KUBE-SVC-{name}\n")
                }
                Policy::Local => format!(
                    "-A KUBE-EXT-{name} -s {pods} -j KUBE-SVC-{name}\n\
                     -A KUBE-EXT-{name} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{name} -m addrtype --src-type LOCAL -j KUBE-SVC-{name}\n\
                     -A KUBE-EXT-{name} -j KUBE-SVL-{name}\n"
                ),
            };
            if let Some(balancer) = balancer {
                writeln!(
                    rules,
                    "-A KUBE-SERVICES -d {balancer}/{host} -p {protocol} -m {protocol} --dport {port} -j KUBE-EXT-{name}"
                )
                .expect("a string");
            }
            write!(
                rules,
                "-A KUBE-SERVICES -d {ip}/{host} -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{name}\n\
                 -A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{name}\n\
                 {external}\
                 -A KUBE-SVC-{name} -j KUBE-SEP-{name}\n-A KUBE-SVL-{name} -j KUBE-SEP-{name}\n\
                 -A KUBE-SEP-{name} -s {backend}/{host} -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name} -p {protocol} -m {protocol} -j DNAT --to-destination {target}\n"
            )
            .expect("a string");
        }
    }
    format!(
        "*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n{rules}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
    )
}

fn nftables(words: &Words, services: &[Service]) -> String {
    let Words { ip: family, addr, loopback, pods, .. } = words;
    let (mut chains, mut ips, mut node_ports) = (String::new(), Vec::new(), Vec::new());
    for (n, service) in services.iter().enumerate() {
        let Service { ip, balancer, port, backend, node_port, policy } = service;
        let target = SocketAddr::new(*backend, TARGET_PORT);
        for protocol in PROTOCOLS {
            let name = format!("{protocol}-{n}");
            let external = match policy {
                Policy::Cluster => format!("jump mark-for-masquerade; goto service-{name};"),
                Policy::Local => format!(
                    "{family} saddr {pods} goto service-{name}; fib saddr type local jump mark-for-masquerade; \
                     fib saddr type local goto service-{name}; goto service-{name};"
                ),
            };
            write!(
                chains,
                "chain endpoint-{name} {{ {family} saddr {backend} jump mark-for-masquerade; \
                 meta l4proto {protocol} dnat to {target}; }}\n\
                 chain service-{name} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}; }}\n\
                 chain external-{name} {{ {external} }}\n"
            )
            .expect("a string");
            ips.extend(balancer.map(|ip| format!("{ip} . {protocol} . {port} : goto external-{name}")));
            ips.push(format!("{ip} . {protocol} . {port} : goto service-{name}"));
            node_ports.push(format!("{protocol} . {node_port} : goto external-{name}"));
        }
    }
    let (ips, node_ports) = (ips.join(", "), node_ports.join(", "));
    format!(
        "table {family} kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n{chains}\
         map service-ips {{ type {addr} . inet_proto . inet_service : verdict; elements = {{ {ips} }}; }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}; }}\n\
         chain services {{ {family} daddr . meta l4proto . th dport vmap @service-ips; \
         fib daddr type local {family} daddr != {loopback} meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; \
         masquerade fully-random; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n\
         chain filter-forward {{ type filter hook forward priority -110; ct state invalid drop; }}\n}}\n"
    )
}
