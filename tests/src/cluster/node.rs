//! A node with its agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use ipam_agent::dataplane::Hook;
use netlink_packet_route::link::LinkAttribute;
use serde_json::Value;

use super::eventually;
use crate::lab::node::LabNode;
use crate::lab::process::{LabProcess, binary};

/// A machine, and the agent on it.
pub struct ClusterNode {
    agent: Option<LabProcess>,
    kubeconfig: PathBuf,
    args: Vec<String>,
    machine: Arc<LabNode>,
}

impl ClusterNode {
    pub(super) fn new(machine: LabNode, kubeconfig: PathBuf, args: Vec<String>) -> Self {
        Self { agent: None, kubeconfig, args, machine: Arc::new(machine) }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Arc<LabNode> {
        &self.machine
    }

    /// The agent's process.
    ///
    /// # Panics
    /// There is none.
    pub fn agent(&mut self) -> &mut LabProcess {
        self.agent.as_mut().expect("the agent was started")
    }

    /// More arguments of the agents that are started from now on.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// Starts the agent, with more variables in its environment.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&mut self, env: &[(&str, &str)]) -> anyhow::Result<()> {
        self.start_build("ipam-agent", env)
    }

    /// As [`Self::start_agent`], another build of it: `ipam-agent-next` has maps of the next ABI version.
    ///
    /// # Errors
    /// It is not built, or cannot be started.
    pub fn start_build(&mut self, build: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
        self.start(self.machine.command(binary(build)?), env)
    }

    /// Starts the agent with mounts of its own, after a shell script that changes them.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent_with_mounts(&mut self, script: &str) -> anyhow::Result<()> {
        let mut command = self.machine.command("unshare");
        command.args(["--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
        command.arg(binary("ipam-agent")?);
        self.start(command, &[])
    }

    fn start(&mut self, mut command: Command, env: &[(&str, &str)]) -> anyhow::Result<()> {
        command
            .args(["node", "--node-name", self.machine.name(), "--kubeconfig"])
            .arg(&self.kubeconfig)
            .arg("--socket")
            .arg(self.machine.socket())
            .arg("--journal")
            .arg(self.machine.journal())
            .arg("--bpffs-dir")
            .arg(self.machine.bpffs_dir())
            .args(&self.args)
            .env("IPAM_LOG", "info,ipam_agent=debug")
            .envs(env.iter().copied());
        self.agent = Some(self.machine.start("agent", command)?);
        Ok(())
    }

    /// Waits until the agent listens.
    ///
    /// # Errors
    /// It does not.
    pub async fn wait_until_served(&self) -> anyhow::Result<()> {
        let socket = self.machine.socket();
        eventually("the agent to listen", async || std::os::unix::net::UnixStream::connect(&socket).is_ok())
            .await
    }

    /// What pods have left on the node: interfaces, map entries, pinned links, routes. Empty when there is no
    /// pod.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn leftovers(&self) -> anyhow::Result<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        for link in self.machine.ns().rtnl().links()? {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            found
                .extend(name.filter(|name| name.starts_with("ipam")).map(|name| format!("interface {name}")));
        }
        let pins = std::fs::read_dir(self.machine.bpffs_dir().join("links")).into_iter().flatten().flatten();
        found.extend(
            pins.map(|pin| pin.file_name().to_string_lossy().into_owned())
                .filter(|pin| pin.starts_with("ipam"))
                .map(|pin| format!("pin {pin}")),
        );
        for map in ["POD_ROUTES_V4", "POD_STATS", "POD_ROUTES_V6", "POD_STATS_V6"] {
            found.extend(self.dump(map)?.iter().map(|entry| format!("{map} {}", entry["formatted"]["key"])));
        }
        for family in ["-4", "-6"] {
            let routes = self.machine.ns().command("ip").args([family, "route"]).output()?;
            found.extend(
                String::from_utf8_lossy(&routes.stdout)
                    .lines()
                    .filter(|route| route.contains("dev ipam"))
                    .map(|route| format!("route {route}")),
            );
        }
        Ok(found)
    }

    /// Waits until nothing of any pod is left on the node: interfaces go after the answer to DEL.
    ///
    /// # Errors
    /// What is left.
    pub async fn wait_until_clean(&self) -> anyhow::Result<()> {
        let mut left = Vec::new();
        eventually("the node to be clean", async || {
            left = self.leftovers().unwrap_or_else(|error| vec![format!("{error:#}")]);
            left.is_empty()
        })
        .await
        .with_context(|| format!("left: {left:?}"))
    }

    /// Has the agent repair nothing while this file is there, which its argument `--hold-repairs-while` names. Returns when no
    /// repair is under way any more.
    ///
    /// # Errors
    /// The file cannot be written, or the agent does not heed it.
    pub async fn hold_repairs(&self, file: &Path) -> anyhow::Result<()> {
        let log = self.machine.dir().join("agent.log");
        let read = || std::fs::read(&log).unwrap_or_default();
        let held = || String::from_utf8_lossy(&read()).matches("repairs are held").count();
        let before = held();
        std::fs::write(file, "")?;
        eventually("the agent to leave a look out", async || held() > before).await
    }

    /// The programs on a hook of each interface that has any there, by the interface's index.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hook_programs(&self, hook: Hook) -> anyhow::Result<BTreeMap<u32, Vec<String>>> {
        let ns = self.machine.ns();
        let links: Vec<u32> = ns.rtnl().links()?.iter().map(|link| link.header.index).collect();
        ns.run(|| {
            let mut hooks = BTreeMap::new();
            for ifindex in links {
                let programs = ipam_agent::dataplane::hook_programs(ifindex, hook)?;
                if !programs.is_empty() {
                    hooks.insert(ifindex, programs);
                }
            }
            Ok(hooks)
        })
    }

    /// The entries of one of the node's maps, as bpftool prints them in JSON.
    ///
    /// # Errors
    /// bpftool is not installed, or there is no such map.
    pub fn dump(&self, map: &str) -> anyhow::Result<Vec<Value>> {
        let output = Command::new("bpftool")
            .args(["-j", "map", "dump", "pinned"])
            .arg(self.machine.bpffs_dir().join(map))
            .output()
            .context("bpftool: not installed? cargo xtask setup")?;
        ensure!(
            output.status.success(),
            "bpftool map dump {map}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Packets dropped on the node, by the number of the reason.
    ///
    /// # Errors
    /// As [`Self::dump`].
    pub fn drops(&self) -> anyhow::Result<BTreeMap<u32, u64>> {
        let mut counts = BTreeMap::new();
        for entry in self.dump("DROPS")? {
            let formatted = &entry["formatted"];
            let reason = formatted["key"].as_u64().context("no key")?;
            let cpus = formatted["values"].as_array().context("no values")?;
            let packets = cpus.iter().filter_map(|cpu| cpu["value"]["packets"].as_u64()).sum();
            counts.insert(u32::try_from(reason)?, packets);
        }
        Ok(counts)
    }

    /// Kills the agent with SIGKILL and starts it anew.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn restart_agent(&mut self) -> anyhow::Result<()> {
        self.agent().kill9()?;
        self.start_agent(&[])?;
        self.wait_until_served().await
    }
}
