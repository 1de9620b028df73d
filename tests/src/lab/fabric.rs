//! The VPC fabric: a namespace that forwards between ENIs as a cloud's network does.
//!
//! It is a plain kernel router. An ENI is a veth pair with one end in its machine's namespace and the other here.
//! An address that belongs to an ENI is a /32 route to it and a permanent neighbour entry with its MAC; the
//! route is also what the source check asks, so moving an address is replacing one route. ARP for a gateway and
//! for every assigned address is answered with the fabric's MAC, unless the asker's address is not of the ENI it
//! asks by: the source check holds for ARP too. What goes to an address of no ENI vanishes
//! without an ICMP message, as in a VPC.
//!
//! IPv6, where a subnet has it, is the same with /128 routes: every ENI has the gateway's link-local address at this
//! end, which the kernel answers neighbour solicitations for, and a rule of nftables is the source check that the
//! kernel does not have.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State as OperState};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::{
    netns::Netns,
    patience::patient,
    rtnl::{blackhole_route, blackhole_route_v6, host_route},
    scope::Scope,
};
use crate::world::{World, WorldEni};

mod counters;

pub use counters::{Counter, EniCounters};

/// MAC of the fabric's end of every ENI: what gateways answer ARP with.
pub const FABRIC_MAC: [u8; 6] = [0xfe, 0xee, 0, 0, 0, 1];

/// The fabric of one lab.
#[derive(Debug)]
pub struct Fabric {
    ns: Netns,
    mtu: u32,
    accounting: bool,
    ipv6: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<String, Arc<File>>,
    enis: BTreeMap<String, Eni>,
    /// ENIs ever attached: numbers the ends of those whose name is no interface name.
    numbered: u32,
}

/// An attached ENI.
#[derive(Clone, Debug)]
struct Eni {
    instance_id: String,
    /// Its end here.
    ifname: String,
    ifindex: u32,
    /// Its end on the machine, as the machine found it.
    machine_ifname: String,
    mac: [u8; 6],
    ips: Vec<IpAddr>,
}

impl Fabric {
    /// A fabric without subnets and machines. `mtu` is that of every ENI, in bytes. With `accounting`, it counts
    /// per ENI and address, which costs some 100 ns a packet; without, only the interfaces count. Without `ipv6` it
    /// knows nothing of that.
    ///
    /// # Errors
    /// No root, or the kernel lacks nf_tables.
    pub(super) fn new(scope: &Arc<Scope>, mtu: u32, accounting: bool, ipv6: bool) -> anyhow::Result<Self> {
        let ns = Netns::create(scope, "fabric")?;
        ns.sysctls(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/all/proxy_arp", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])?;
        ns.rtnl().replace_route(blackhole_route())?;
        if ipv6 {
            ns.sysctls(&[
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/forwarding", "1"),
                ("ipv6/conf/default/accept_dad", "0"),
                // No address but the gateway's.
                ("ipv6/conf/default/addr_gen_mode", "1"),
            ])?;
            ns.rtnl().replace_route(blackhole_route_v6())?;
            counters::install_v6(&ns)?;
        } else {
            ns.sysctls(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        if accounting {
            counters::install(&ns)?;
        }
        Ok(Self { ns, mtu, accounting, ipv6, state: Mutex::default() })
    }

    /// The fabric's namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// MTU of the ENIs, in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Makes the fabric a subnet's gateway.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_gateway(&self, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let rtnl = self.ns.rtnl();
        rtnl.add_address(rtnl.index("lo")?, gateway, 32).with_context(|| format!("gateway {gateway}"))
    }

    /// Makes a machine known, so that ENIs can be attached to it.
    pub fn add_machine(&self, instance_id: &str, ns: &Netns) {
        self.lock().machines.insert(instance_id.to_owned(), ns.handle());
    }

    /// Forgets a machine and takes its ENIs out of the fabric, as when it loses power.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_machine(&self, instance_id: &str) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.machines.remove(instance_id);
        let gone: Vec<Eni> = state.enis.values().filter(|e| e.instance_id == instance_id).cloned().collect();
        state.enis.retain(|_, eni| eni.instance_id != instance_id);
        for eni in gone {
            self.ns.rtnl().del_link(&eni.ifname).with_context(|| format!("detach {}", eni.ifname))?;
        }
        Ok(())
    }

    /// Where an ENI is: the instance, and the interface's name there when it was attached.
    pub fn location(&self, eni_id: &str) -> Option<(String, String)> {
        let state = self.lock();
        state.enis.get(eni_id).map(|eni| (eni.instance_id.clone(), eni.machine_ifname.clone()))
    }

    /// The ENI that an address belongs to.
    pub fn owner(&self, ip: impl Into<IpAddr>) -> Option<String> {
        let ip = ip.into();
        let state = self.lock();
        state.enis.iter().find(|(_, eni)| eni.ips.contains(&ip)).map(|(id, _)| id.clone())
    }

    /// Waits until the fabric can send to an ENI whose machine brought it up. The kernel enables the far end of a
    /// veth pair from a work queue; what the fabric sends before is lost.
    ///
    /// # Errors
    /// The ENI is not attached, or its machine does not bring it up within 5 s.
    pub fn wait_up(&self, eni_id: &str) -> anyhow::Result<()> {
        let ifname = self.ifname_of(eni_id)?;
        let deadline = Instant::now() + patient(Duration::from_secs(5));
        loop {
            let link = self.ns.rtnl().link(&ifname)?.with_context(|| format!("{eni_id} has no interface"))?;
            if link.attributes.contains(&LinkAttribute::OperState(OperState::Up)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{eni_id} is still down on its machine after 5 s");
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// The fabric's end of an ENI.
    ///
    /// # Errors
    /// The ENI is not attached.
    pub fn ifname_of(&self, eni_id: &str) -> anyhow::Result<String> {
        let state = self.lock();
        let eni = state.enis.get(eni_id).with_context(|| format!("{eni_id} is not attached"))?;
        Ok(eni.ifname.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fabric's name for its end of an ENI: the ENI's own when that can be an interface's name.
    fn ifname(state: &mut State, eni_id: &str) -> String {
        let fits = !eni_id.is_empty() && eni_id.len() <= 15 && !eni_id.contains(['/', ':', ' ']);
        state.numbered += 1;
        if fits { eni_id.to_owned() } else { format!("eni.{}", state.numbered) }
    }

    /// Creates the pair; the machine's end takes the first free `ethN`. Returns that name.
    fn add_pair(&self, ifname: &str, machine: RawFd, mac: [u8; 6]) -> anyhow::Result<String> {
        for n in 0..256 {
            let machine_ifname = format!("eth{n}");
            match self.ns.rtnl().add_link(pair(ifname, &machine_ifname, machine, mac, self.mtu)) {
                Ok(()) => return Ok(machine_ifname),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    ensure!(
                        self.ns.rtnl().link(ifname)?.is_none(),
                        "the fabric has an interface {ifname} already"
                    );
                }
                Err(e) => return Err(e.into()),
            }
        }
        bail!("no free name among eth0 to eth255")
    }

    /// Routes an address to an ENI, away from whichever had it.
    fn give(&self, state: &mut State, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        let rtnl = self.ns.rtnl();
        let eni = state.enis.get(eni_id).with_context(|| format!("{eni_id} is not attached"))?;
        // The neighbour first: once the route is there, a packet may come.
        rtnl.replace_neighbour(eni.ifindex, ip, &eni.mac)?;
        rtnl.replace_route(host_route(ip, eni.ifindex))?;
        for (id, eni) in &mut state.enis {
            let had = eni.ips.contains(&ip);
            if id == eni_id && !had {
                eni.ips.push(ip);
            } else if id != eni_id && had {
                eni.ips.retain(|other| *other != ip);
                rtnl.del_neighbour(eni.ifindex, ip)?;
            }
        }
        Ok(())
    }
}

impl World for Fabric {
    fn attach(&self, instance_id: &str, eni: &WorldEni) -> anyhow::Result<()> {
        let what = || format!("attach {} to {instance_id}", eni.id);
        let mac = parse_mac(&eni.mac).with_context(what)?;
        let mut state = self.lock();
        let machine = state.machines.get(instance_id).cloned();
        let machine = machine.ok_or_else(|| anyhow!("no such instance")).with_context(what)?;
        if let Some(there) = state.enis.get(&eni.id) {
            ensure!(there.instance_id == instance_id, "{}: it is on {}", what(), there.instance_id);
        } else {
            let ifname = Self::ifname(&mut state, &eni.id);
            let machine_ifname = self.add_pair(&ifname, machine.as_raw_fd(), mac).with_context(what)?;
            let ifindex = self.ns.rtnl().index(&ifname)?;
            // The kernel delays proxied answers by up to 0.8 s unless told otherwise, interface by interface.
            self.ns.sysctl(&format!("ipv4/neigh/{ifname}/proxy_delay"), "0")?;
            if let Some(gateway) = eni.gateway_v6.filter(|_| self.ipv6) {
                self.ns.rtnl().add_address(ifindex, gateway, 64).with_context(what)?;
            }
            let instance_id = instance_id.to_owned();
            let entry = Eni { instance_id, ifname, ifindex, machine_ifname, mac, ips: Vec::new() };
            state.enis.insert(eni.id.clone(), entry);
        }
        let given = eni.ips.iter().try_for_each(|ip| self.give(&mut state, &eni.id, *ip));
        if given.is_err() {
            drop(state);
            self.detach(&eni.id)?;
        }
        given.with_context(what)
    }

    fn detach(&self, eni_id: &str) -> anyhow::Result<()> {
        let mut state = self.lock();
        if let Some(eni) = state.enis.get(eni_id) {
            self.ns.rtnl().del_link(&eni.ifname).with_context(|| format!("detach {eni_id}"))?;
            state.enis.remove(eni_id);
        }
        Ok(())
    }

    fn assign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        self.give(&mut self.lock(), eni_id, ip).with_context(|| format!("assign {ip} to {eni_id}"))
    }

    /// An address that has moved on stays where it is.
    fn unassign(&self, eni_id: &str, ip: IpAddr) -> anyhow::Result<()> {
        let mut state = self.lock();
        let Some(eni) = state.enis.get_mut(eni_id).filter(|eni| eni.ips.contains(&ip)) else { return Ok(()) };
        let what = || format!("unassign {ip} from {eni_id}");
        self.ns.rtnl().del_route(host_route(ip, eni.ifindex)).with_context(what)?;
        self.ns.rtnl().del_neighbour(eni.ifindex, ip).with_context(what)?;
        eni.ips.retain(|other| *other != ip);
        Ok(())
    }
}

/// A veth pair: the fabric's end up, the machine's down and in the machine's namespace from the start.
fn pair(ifname: &str, machine_ifname: &str, machine: RawFd, mac: [u8; 6], mtu: u32) -> LinkMessage {
    let peer = LinkUnspec::new_with_name(machine_ifname).address(mac.to_vec()).mtu(mtu).setns_by_fd(machine);
    LinkVeth::new(ifname, machine_ifname)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .address(FABRIC_MAC.to_vec())
        .append_extra_attribute(LinkAttribute::Mtu(mtu))
        .up()
        .build()
}

/// A MAC from its usual notation.
fn parse_mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let octet = |part: &str| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None };
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    let mac = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok());
    mac.with_context(|| format!("MAC {text:?}: not six pairs of hexadecimal digits with colons"))
}
