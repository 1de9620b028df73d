//! A real container runtime on a machine with no cluster: `podman run --name web-0` twice gets the same address,
//! and its packets go by eBPF.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ipam_lab::cluster::eventually;
use ipam_lab::lab::Lab;
use ipam_lab::lab::node::LabNode;
use ipam_lab::lab::process::{LabProcess, binary};
use ipam_lab::world::{World, WorldEni};

const ENI: &str = "eni-second";
const MAC: &str = "02:00:0a:00:01:14";

/// A machine with one more ENI, `ipam-agent standalone`, and podman with folders of its own.
struct Host {
    lab: Lab,
    machine: LabNode,
    dir: PathBuf,
    agent: Option<LabProcess>,
}

impl Host {
    async fn new() -> anyhow::Result<Self> {
        let lab = Lab::builder("podman").subnet("lan", "", "10.0.1.0/24").build()?;
        let machine = lab.node("bare", "")?;
        let ips = (20..30).map(|last| Ipv4Addr::new(10, 0, 1, last).into()).collect();
        let gateway = Ipv4Addr::new(10, 0, 1, 1);
        let eni = WorldEni { id: ENI.into(), mac: MAC.into(), gateway, gateway_v6: None, ips };
        lab.fabric().attach(&machine.instance_id(), &eni)?;
        let dir = machine.dir();
        std::fs::write(
            dir.join("enis.toml"),
            format!(
                "[[subnet]]\nid = \"lan\"\ncidr = \"10.0.1.0/24\"\ngateway = \"10.0.1.1\"\n\n\
                 [[eni]]\nnode = \"bare\"\nmac = \"{MAC}\"\nsubnet = \"lan\"\nprimary_ip = \"10.0.1.20\"\n\
                 addresses = [\"10.0.1.21-10.0.1.29\"]\n"
            ),
        )?;
        let mut host = Self { lab, machine, dir, agent: None };
        host.install()?;
        host.start_agent()?;
        let socket = host.machine.socket();
        eventually("the agent to listen", async || std::os::unix::net::UnixStream::connect(&socket).is_ok())
            .await?;
        host.lab.fabric().wait_up(ENI)?;
        Ok(host)
    }

    /// Puts plugin and configuration where podman looks for them, with the command an operator would use.
    fn install(&self) -> anyhow::Result<()> {
        let output = self
            .machine
            .command(binary("ipam-agent")?)
            .arg("install")
            .arg("--cni-bin-dir")
            .arg(self.dir.join("cni-bin"))
            .arg("--cni-conf-dir")
            .arg(self.dir.join("cni-conf"))
            .arg("--socket")
            .arg(self.machine.socket())
            .output()?;
        ensure!(output.status.success(), "install: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let mut command = self.machine.command(binary("ipam-agent")?);
        command
            .args([
                "standalone",
                "--node-name",
                "bare",
                "--static-names",
                "web-*",
                "--cooldown",
                "1s",
                "--provider",
                "fixed",
            ])
            .arg("--eni-file")
            .arg(self.dir.join("enis.toml"))
            .arg("--api-file")
            .arg(self.dir.join("api.redb"))
            .arg("--socket")
            .arg(self.machine.socket())
            .arg("--journal")
            .arg(self.machine.journal())
            .arg("--bpffs-dir")
            .arg(self.machine.bpffs_dir());
        self.agent = Some(self.machine.start("agent", command)?);
        Ok(())
    }

    /// Runs a shell command in a container; gives what it printed.
    fn run(&self, name: &str, script: &str) -> anyhow::Result<String> {
        let dir = &self.dir;
        let rootfs = rootfs(&dir.join("rootfs"))?;
        let conf = dir.join("containers.conf");
        std::fs::write(
            &conf,
            format!(
                "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{0}/cni-conf\"\ncni_plugin_dirs = [\"{0}/cni-bin\"]\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
                dir.display()
            ),
        )?;
        let output = self
            .machine
            .command("podman")
            .env("CONTAINERS_CONF", &conf)
            .arg("--root")
            .arg(dir.join("podman"))
            .arg("--runroot")
            .arg(dir.join("podman-run"))
            .args(["--storage-driver", "vfs", "--runtime", "runc", "run", "--rm", "--name", name])
            .args(["--cgroups=no-conmon", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:1024"])
            .args(["--network", "eni-ipam", "--rootfs"])
            .arg(&rootfs)
            .args(["/bin/busybox", "sh", "-c", script])
            .output()
            .context("podman: not installed? cargo xtask setup")?;
        ensure!(
            output.status.success(),
            "podman run {name}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A root file system of one program.
fn rootfs(dir: &Path) -> anyhow::Result<PathBuf> {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "run", "var"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let busybox = dir.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).context("/bin/busybox: not installed? cargo xtask setup")?;
    std::fs::set_permissions(&busybox, std::fs::Permissions::from_mode(0o755))?;
    Ok(dir.to_owned())
}

fn address(printed: &str) -> Ipv4Addr {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("inet ")).expect("an inet line");
    line.split('/').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_the_same_name_keeps_its_address() {
    let host = Host::new().await.unwrap();
    let gateway = host.lab.ctl().ip();
    let script = format!("/bin/busybox ip -4 addr show dev eth0 && /bin/busybox ping -c 2 -W 2 {gateway}");
    let first = address(&host.run("web-0", &script).unwrap());
    let counted = host.lab.fabric().from_eni(ENI, first).unwrap();
    assert!(counted.packets >= 2, "the fabric saw {counted:?} from {first}");
    let other = address(&host.run("job-0", &script).unwrap());
    assert_ne!(other, first, "a retained address was given to another container");
    let second = address(&host.run("web-0", &script).unwrap());
    assert_eq!(second, first);
}
