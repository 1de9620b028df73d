//! Machines of the VPC.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    GATEWAY_V6, Subnet,
    fabric::Fabric,
    netns::Netns,
    patience::patient,
    process::LabProcess,
    rtnl::{default_route, default_route_v6},
    scope::Scope,
};
use crate::world::{World, WorldEni};

/// A plain machine of the VPC as a cloud hands it out: `eth0` is its primary ENI, up, with the primary address in
/// the subnet's prefix and the default route by the gateway. Dropping it cuts the power: its ENIs and, once
/// nothing else holds it, its namespace are gone.
#[derive(Debug)]
pub struct VpcHost {
    name: String,
    subnet: Subnet,
    ip: Ipv4Addr,
    primary: WorldEni,
    ns: Arc<Netns>,
    fabric: Arc<Fabric>,
    scope: Arc<Scope>,
}

impl VpcHost {
    /// Puts a machine with a primary ENI on the fabric.
    pub(super) fn new(
        scope: &Arc<Scope>,
        fabric: &Arc<Fabric>,
        subnet: Subnet,
        name: &str,
        ip: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let ns = Arc::new(Netns::create(scope, name)?);
        let [a, b, c, d] = ip.octets();
        let primary = WorldEni {
            id: format!("eni-{name}"),
            // Locally administered, with the address in it; ENIs of the cloud server have its own MACs.
            mac: format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            gateway: subnet.gateway,
            gateway_v6: subnet.cidr_v6.map(|_| GATEWAY_V6),
            ips: [IpAddr::from(ip)].into_iter().chain(subnet.host_v6(ip).map(IpAddr::from)).collect(),
        };
        let host = Self {
            name: name.to_owned(),
            subnet,
            ip,
            primary,
            ns,
            fabric: fabric.clone(),
            scope: scope.clone(),
        };
        host.power_on().with_context(|| format!("machine {name}"))?;
        Ok(host)
    }

    fn power_on(&self) -> anyhow::Result<()> {
        fs::create_dir_all(self.dir())?;
        // What systemd sets on most distributions; without a word, the kernel inherits the lab machine's.
        self.ns.sysctls(&[("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/default/rp_filter", "2")])?;
        if self.subnet.cidr_v6.is_some() {
            self.ns
                .sysctls(&[("ipv6/conf/all/disable_ipv6", "0"), ("ipv6/conf/default/disable_ipv6", "0")])?;
        }
        self.fabric.add_machine(&self.instance_id(), &self.ns);
        self.fabric.attach(&self.instance_id(), &self.primary)?;
        let rtnl = self.ns.rtnl();
        rtnl.add_address(rtnl.index("eth0")?, self.ip(), self.subnet.cidr.prefix_len())?;
        rtnl.up("eth0")?;
        rtnl.replace_route(default_route(self.subnet.gateway))?;
        if let Some(ip) = self.ip_v6() {
            let eth0 = rtnl.index("eth0")?;
            rtnl.add_address(eth0, ip, 128)?;
            rtnl.replace_route(default_route_v6(GATEWAY_V6, eth0))?;
            self.wait_usable(ip)?;
        }
        self.fabric.wait_up(&self.primary.id)
    }

    /// Waits until the kernel takes packets to an IPv6 address: it writes the local route from a work queue, even without
    /// duplicate address detection, and what comes before is lost.
    fn wait_usable(&self, ip: Ipv6Addr) -> anyhow::Result<()> {
        /// `RTF_LOCAL` of `linux/ipv6_route.h`.
        const LOCAL: u32 = 0x8000_0000;
        let digits = format!("{:032x}", ip.to_bits());
        let is_local_route = |line: &str| {
            let flags = line.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
            line.starts_with(&digits) && flags.is_some_and(|flags| flags & LOCAL != 0)
        };
        let deadline = Instant::now() + patient(Duration::from_secs(5));
        while !self
            .ns
            .run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"))?
            .lines()
            .any(is_local_route)
        {
            ensure!(Instant::now() < deadline, "{ip} is still of no use after 5 s");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cloud's name of it.
    pub fn instance_id(&self) -> String {
        format!("ins-{}", self.name)
    }

    /// The availability zone.
    pub fn zone(&self) -> &str {
        &self.subnet.zone
    }

    /// The subnet of the primary ENI.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The primary ENI, for the cloud server's records.
    pub fn primary(&self) -> &WorldEni {
        &self.primary
    }

    /// The primary address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The IPv6 address, where the subnet has IPv6.
    pub fn ip_v6(&self) -> Option<Ipv6Addr> {
        self.subnet.host_v6(self.ip)
    }

    /// The machine's namespace.
    pub fn ns(&self) -> &Arc<Netns> {
        &self.ns
    }

    /// The machine's directory: state and logs.
    pub fn dir(&self) -> PathBuf {
        self.scope.dir().join(&self.name)
    }

    /// The life of the lab the machine is in.
    pub(super) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// A command that will run on this machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.ns.command(program.as_ref())
    }

    /// Starts a command of [`Self::command`], logging to `NAME.log` in [`Self::dir`].
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, name: &str, command: Command) -> anyhow::Result<LabProcess> {
        LabProcess::start(&self.scope, &self.dir(), name, command)
    }
}

impl Drop for VpcHost {
    fn drop(&mut self) {
        if !self.scope.kept()
            && let Err(e) = self.fabric.remove_machine(&self.instance_id())
        {
            eprintln!("lab: {}: {e:#}", self.name);
        }
    }
}
