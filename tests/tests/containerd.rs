//! A real containerd with the real plugin: sandboxes are made, doubled, taken down again and again, and outlive containerd
//! and the agent. It is asked over its socket as a kubelet asks it, in gRPC with curl as the carrier.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use ipam_agent::api::{IpPhase, VpcIP};
use ipam_lab::cluster::{Cluster, eventually};
use ipam_lab::lab::process::{LabProcess, binary};
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use sha2::{Digest as _, Sha256};

const PING: Duration = Duration::from_secs(2);
const IMAGE: &str = "docker.io/lab/pause:1";

/// A containerd on a node, with folders and a socket of its own.
struct Containerd {
    process: LabProcess,
    dir: PathBuf,
    sandboxes: Vec<String>,
}

impl Containerd {
    async fn start(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        let machine = cluster.node(node).machine();
        let dir = machine.dir().join("containerd");
        std::fs::create_dir_all(&dir)?;
        // What an operator would run, and the plugin that containerd itself wants for `lo`.
        let mut install = machine.command(binary("ipam-agent")?);
        install.arg("install").arg("--cni-bin-dir").arg(dir.join("bin"));
        install.arg("--cni-conf-dir").arg(dir.join("net.d")).arg("--socket").arg(machine.socket());
        run(&mut install)?;
        let folders = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].map(Path::new);
        let loopback = folders.into_iter().map(|folder| folder.join("loopback")).find(|file| file.is_file());
        let loopback = loopback.context("CNI plugins: not installed? cargo xtask setup")?;
        std::os::unix::fs::symlink(loopback, dir.join("bin/loopback"))?;
        std::fs::write(dir.join("config.toml"), configuration(&dir))?;
        let process = Self::spawn(cluster, node, &dir)?;
        let containerd = Self { process, dir, sandboxes: Vec::new() };
        containerd.wait_until_served().await?;
        containerd.import_image()?;
        Ok(containerd)
    }

    fn spawn(cluster: &Cluster, node: &str, dir: &Path) -> anyhow::Result<LabProcess> {
        let machine = cluster.node(node).machine();
        let mut command = machine.command("containerd");
        command.arg("--config").arg(dir.join("config.toml"));
        machine.start("containerd", command).context("containerd: not installed? cargo xtask setup")
    }

    async fn wait_until_served(&self) -> anyhow::Result<()> {
        let socket = self.dir.join("containerd.sock");
        let version = message(&[(1, b"v1")]);
        eventually("containerd to answer", async || socket.exists() && self.call("Version", &version).is_ok())
            .await
    }

    /// Kills it; its sandboxes go on.
    async fn restart(&mut self, cluster: &Cluster, node: &str) -> anyhow::Result<()> {
        self.process.kill9()?;
        self.process = Self::spawn(cluster, node, &self.dir)?;
        self.wait_until_served().await
    }

    /// Makes an image of one program, which sleeps.
    fn import_image(&self) -> anyhow::Result<()> {
        let image = self.dir.join("image");
        std::fs::create_dir_all(image.join("root"))?;
        std::fs::copy("/bin/busybox", image.join("root/busybox")).context("busybox: cargo xtask setup")?;
        let tar = |file: &str, folder: &Path, content: &[&str]| {
            run(Command::new("tar").arg("-cf").arg(image.join(file)).arg("-C").arg(folder).args(content))
        };
        tar("layer.tar", &image.join("root"), &["busybox"])?;
        let layer = hex::encode(Sha256::digest(std::fs::read(image.join("layer.tar"))?));
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Entrypoint": ["/busybox", "sleep", "86400"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        });
        std::fs::write(image.join("config.json"), config.to_string())?;
        let manifest =
            serde_json::json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
        std::fs::write(image.join("manifest.json"), manifest.to_string())?;
        tar("image.tar", &image, &["manifest.json", "config.json", "layer.tar"])?;
        let mut import = Command::new("ctr");
        import.arg("--address").arg(self.dir.join("containerd.sock"));
        run(import.args(["--namespace", "k8s.io", "images", "import"]).arg(image.join("image.tar")))
    }

    /// Calls containerd's runtime service; gives the answer.
    fn call(&self, method: &str, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (asked, answer) = (self.dir.join("asked"), self.dir.join("answer"));
        // gRPC over HTTP/2: a message is framed by a flag and its length, and the trailer says how it went.
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len())?.to_be_bytes());
        frame.extend(message);
        std::fs::write(&asked, frame)?;
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--http2-prior-knowledge", "--dump-header", "-"])
            .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
            .arg("--unix-socket")
            .arg(self.dir.join("containerd.sock"))
            .arg("--data-binary")
            .arg(format!("@{}", asked.display()))
            .arg("--output")
            .arg(&answer)
            .arg(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .output()
            .context("curl: not installed? cargo xtask setup")?;
        let headers = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
        let went_well = headers.lines().any(|line| line.trim() == "grpc-status: 0");
        ensure!(went_well, "{method}: {headers}{}", String::from_utf8_lossy(&output.stderr));
        Ok(std::fs::read(&answer)?.split_off(5))
    }

    /// Makes the pod's sandbox number `attempt`.
    fn run_sandbox(&mut self, pod: &Pod, attempt: u8) -> anyhow::Result<String> {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let mut metadata = message(&[(1, name.as_bytes()), (2, uid.as_bytes()), (3, b"default")]);
        if attempt > 0 {
            metadata.extend([4 << 3, attempt]);
        }
        let logs = self.dir.join("logs");
        let logs = logs.to_str().context("a path in UTF-8")?;
        let config = message(&[(1, &metadata), (2, name.as_bytes()), (3, logs.as_bytes())]);
        let answer = self.call("RunPodSandbox", &message(&[(1, &config)]))?;
        let id = String::from_utf8(answer[2..].to_vec())?;
        self.sandboxes.push(id.clone());
        Ok(id)
    }

    fn stop_sandbox(&self, id: &str) -> anyhow::Result<()> {
        self.call("StopPodSandbox", &message(&[(1, id.as_bytes())])).map(drop)
    }

    fn remove_sandbox(&self, id: &str) -> anyhow::Result<()> {
        self.call("RemovePodSandbox", &message(&[(1, id.as_bytes())])).map(drop)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Their processes are not this one's children.
        for id in &self.sandboxes {
            let _ = self.stop_sandbox(id);
            let _ = self.remove_sandbox(id);
        }
    }
}

/// Of everything that a cluster's containerd has, what the lab's machine may not have is left out: cgroups, AppArmor.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/bin"
    conf_dir = "{dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// A message of Protocol Buffers whose fields are texts or messages.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (number, content) in fields {
        encoded.push(number << 3 | 2);
        let mut length = content.len();
        while length > 127 {
            encoded.push((length & 127 | 128) as u8);
            length >>= 7;
        }
        encoded.push(length as u8);
        encoded.extend(*content);
    }
    encoded
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output =
        command.output().with_context(|| format!("{command:?}: not installed? cargo xtask setup"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_sandboxes_keep_the_pods_address_whatever_is_restarted() {
    let mut cluster = Cluster::two_nodes("containerd").await.unwrap();
    let mut containerd = Containerd::start(&cluster, "node-a").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let first = containerd.run_sandbox(&pod, 0).unwrap();
    let claims = cluster.api::<ipam_agent::api::VpcIPClaim>();
    let ip = claims.get("web-0").await.unwrap().status.unwrap().address.unwrap();
    let reaches = |cluster: &Cluster, what: &str| {
        let answered = ping(cluster.lab.ctl().ns(), ip.parse::<Ipv4Addr>().unwrap(), PING);
        answered.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    };
    reaches(&cluster, "the first sandbox");

    // A kubelet that thinks the first is dead makes another, and takes the first one down after that.
    let second = containerd.run_sandbox(&pod, 1).unwrap();
    for _ in 0..3 {
        containerd.stop_sandbox(&first).unwrap();
        reaches(&cluster, "after the end of the first sandbox");
    }
    containerd.remove_sandbox(&first).unwrap();
    containerd.restart(&cluster, "node-a").await.unwrap();
    reaches(&cluster, "after a restart of containerd");
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    reaches(&cluster, "after a restart of the agent");

    // The API goes; the sandbox goes, and is made anew.
    cluster.controller().kill9().unwrap();
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    containerd.stop_sandbox(&second).unwrap();
    let third = containerd.run_sandbox(&pod, 2).unwrap();
    reaches(&cluster, "a sandbox made without the API");
    cluster.start_controller().unwrap();

    // StopPodSandbox while the agent is away fails and is tried again, as a kubelet does.
    cluster.node_mut("node-a").agent().kill9().unwrap();
    let error = containerd.stop_sandbox(&third).unwrap_err().to_string();
    assert!(error.contains("ipam-cni") && error.contains("is not there"), "{error}");
    cluster.node_mut("node-a").start_agent(&[]).unwrap();
    cluster.node("node-a").wait_until_served().await.unwrap();
    for id in [&second, &third] {
        containerd.stop_sandbox(id).unwrap();
        containerd.remove_sandbox(id).unwrap();
    }
    cluster.node("node-a").wait_until_clean().await.unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    eventually("the address to be retained", async || {
        ips.get(&ip).await.is_ok_and(|ip| ip.state().phase == IpPhase::Retained)
    })
    .await
    .unwrap();
}
