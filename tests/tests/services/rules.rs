//! Rules laid out as kube-proxy lays them out, in its two modes; chain names without their hashes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::ensure;
use ipam_lab::lab::netns::Netns;

/// Port of every backend.
pub const TARGET_PORT: u16 = 8080;

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq)]
pub enum Policy {
    /// Masqueraded, to any pod.
    Cluster,
    /// To a pod of the node, with the client's address.
    Local,
}

/// A service of TCP and UDP with one backend.
pub struct Service {
    pub ip: Ipv4Addr,
    pub port: u16,
    pub backend: Ipv4Addr,
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
    /// Writes the rules of the services in a node's namespace.
    pub fn install(self, node: &Netns, services: &[Service]) -> anyhow::Result<()> {
        let (program, args, rules) = match self {
            Self::Iptables => ("iptables-restore", &[][..], iptables(services)),
            Self::Nftables => ("nft", &["-f", "-"][..], nftables(services)),
        };
        let mut child =
            node.command(program).args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("piped").write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}\n{rules}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

fn iptables(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for (n, service) in services.iter().enumerate() {
        let Service { ip, port, backend, node_port, policy } = service;
        for protocol in ["tcp", "udp"] {
            let name = format!("{protocol}{n}");
            for kind in ["SVC", "SEP", "EXT"] {
                writeln!(chains, ":KUBE-{kind}-{name} - [0:0]").expect("a string");
            }
            let masquerade = match policy {
                Policy::Cluster => format!("-A KUBE-EXT-{name} -j KUBE-MARK-MASQ\n"),
                Policy::Local => String::new(),
            };
            write!(
                rules,
                "-A KUBE-SERVICES -d {ip}/32 -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{name}\n\
                 -A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{name}\n\
                 {masquerade}-A KUBE-EXT-{name} -j KUBE-SVC-{name}\n\
                 -A KUBE-SVC-{name} -j KUBE-SEP-{name}\n\
                 -A KUBE-SEP-{name} -s {backend}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{name} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}:{TARGET_PORT}\n"
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

fn nftables(services: &[Service]) -> String {
    let (mut chains, mut ips, mut node_ports) = (String::new(), Vec::new(), Vec::new());
    for (n, service) in services.iter().enumerate() {
        let Service { ip, port, backend, node_port, policy } = service;
        for protocol in ["tcp", "udp"] {
            let name = format!("{protocol}-{n}");
            let masquerade = if *policy == Policy::Cluster { "jump mark-for-masquerade;" } else { "" };
            write!(
                chains,
                "chain endpoint-{name} {{ ip saddr {backend} jump mark-for-masquerade; \
                 meta l4proto {protocol} dnat to {backend}:{TARGET_PORT}; }}\n\
                 chain service-{name} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}; }}\n\
                 chain external-{name} {{ {masquerade} goto service-{name}; }}\n"
            )
            .expect("a string");
            ips.push(format!("{ip} . {protocol} . {port} : goto service-{name}"));
            node_ports.push(format!("{protocol} . {node_port} : goto external-{name}"));
        }
    }
    let (ips, node_ports) = (ips.join(", "), node_ports.join(", "));
    format!(
        "table ip kube-proxy {{\n\
         chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n{chains}\
         map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {ips} }}; }}\n\
         map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}; }}\n\
         chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; \
         fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports; }}\n\
         chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; \
         masquerade fully-random; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n\
         chain filter-forward {{ type filter hook forward priority -110; ct state invalid drop; }}\n}}\n"
    )
}
