//! A node in a network namespace, with one ENI into another that plays the VPC, an embedded API, and the real plugin.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ipam_agent::{
    api::{
        ClaimRef, EniState, EniStatus, IpPhase, NodeENIConfig, NodeENIConfigSpec, NodeENIConfigStatus, VpcIP,
        VpcIPSpec, VpcIPStatus, VpcIPType,
    },
    dataplane::Dataplane,
    embedded::EmbeddedApi,
    health::Health,
    ipam::continuation::Limits,
    metrics::Metrics,
    node::{self, NodeConfig},
};
use ipam_cni::{
    agent_client::Agent as AgentClient,
    error::{CniError, code},
    plugin,
    protocol::{PROTOCOL_VERSION, Request},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const ENI_MAC: &str = "02:00:00:00:00:10";
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A network namespace without a name: it goes with its last descriptor.
pub struct Netns(OwnedFd);

impl Netns {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this very thread, which ends here.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        Self(made.join().unwrap())
    }

    /// Runs something in a thread of this namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs `ip` there; its output, or a panic with its error.
    pub fn ip(&self, args: &str) -> String {
        let output = self.run(|| Command::new("ip").args(args.split_whitespace()).output().unwrap());
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A path that opens it, in this process.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

pub struct World {
    pub node: Netns,
    pub fabric: Netns,
    pub api: EmbeddedApi,
    pub directory: TempDir,
    pub bpffs: PathBuf,
    /// UIDs of the Pod objects that were made, by name.
    pods: Mutex<HashMap<String, String>>,
}

/// A node agent in a thread of the node's namespace.
pub struct Agent {
    kill: CancellationToken,
    stop: CancellationToken,
    journal: PathBuf,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Agent {
    /// Ends it as `kill -9` would: whatever is under way stays as it is.
    pub fn kill(mut self) {
        self.kill.cancel();
        self.join().unwrap();
    }

    /// Ends it in an orderly way, and gives its result.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.join()
    }

    /// Waits until it ends by itself, and gives why.
    pub fn ended(mut self) -> anyhow::Error {
        wait_for("the agent to end", || self.thread.as_ref().unwrap().is_finished());
        let error = self.join().unwrap_err();
        let journal = File::open(&self.journal).unwrap();
        wait_for("the journal to be closed", || journal.try_lock().is_ok());
        error
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let result = self.thread.take().unwrap().join().unwrap();
        // The journal's own thread, which a process takes with it, closes the file moments later.
        if result.is_ok() {
            let journal = File::open(&self.journal).unwrap();
            wait_for("the journal to be closed", || journal.try_lock().is_ok());
        }
        result
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl World {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mounted = fs::read_to_string("/proc/mounts").unwrap().contains(" /sys/fs/bpf bpf ");
        if !mounted {
            let mount = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status().unwrap();
            assert!(mount.success());
        }
        let (node, fabric) = (Netns::new(), Netns::new());
        let fabric_path = fabric.path();
        node.ip("link set lo up");
        node.ip(&format!("link add eni0 address {ENI_MAC} type veth peer name gw0 netns {fabric_path}"));
        fabric.ip("addr add 10.0.0.1/24 dev gw0");
        fabric.ip("link set gw0 up");
        let directory = tempfile::tempdir().unwrap();
        let api = EmbeddedApi::open(&directory.path().join("api.redb")).unwrap();
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/ipam-test-{}-{number}", std::process::id()));
        Self { node, fabric, api, directory, bpffs, pods: Mutex::default() }
    }

    /// Closes the API's file, for another process to open.
    pub fn close_api(&self) {
        self.with_api(async |_| self.api.close().await);
    }

    /// Opens the API's file again.
    pub fn reopen_api(&mut self) {
        self.api = EmbeddedApi::open(&self.directory.path().join("api.redb")).unwrap();
    }

    pub fn config(&self) -> NodeConfig {
        config(self.directory.path(), &self.bpffs)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("run/cni.sock")
    }

    pub fn start(&self) -> Agent {
        self.start_with(self.config())
    }

    /// Starts an agent and waits until it listens, or has failed.
    pub fn start_with(&self, config: NodeConfig) -> Agent {
        let api = self.api.clone();
        self.start_on(move || api.client(), config)
    }

    /// The same, with a client of its own, which is made in the agent's runtime: it has a task there.
    pub fn start_on(
        &self,
        client: impl FnOnce() -> kube::Client + Send + 'static,
        config: NodeConfig,
    ) -> Agent {
        let (kill, stop) = (CancellationToken::new(), CancellationToken::new());
        let (killed, stopped) = (kill.clone(), stop.clone());
        let netns = Netns(self.node.0.try_clone().unwrap());
        let (socket, journal) = (config.socket.clone(), config.journal.clone());
        let thread = std::thread::spawn(move || {
            netns.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    result = node::run(client(), config, stopped) => result,
                    () = killed.cancelled() => Ok(()),
                }
            })
        });
        wait_for("the agent to answer", || thread.is_finished() || answers(&socket));
        Agent { kill, stop, journal, thread: Some(thread) }
    }

    /// Does something with the API.
    pub fn with_api<T>(&self, work: impl AsyncFnOnce(kube::Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(self.api.client()).await })
    }

    /// Says that the ENI is attached to the node.
    pub fn attach_eni(&self) {
        self.with_api(async |client| {
            let api: Api<NodeENIConfig> = Api::all(client);
            let spec = NodeENIConfigSpec {
                instance_id: "ins".into(),
                zone: "zone".into(),
                max_enis: 2,
                max_ips_per_eni: 9,
                warm: None,
            };
            api.create(&PostParams::default(), &NodeENIConfig::new("n1", spec)).await.unwrap();
            let eni = EniStatus {
                id: "eni-a".into(),
                mac: ENI_MAC.into(),
                subnet_id: "subnet".into(),
                subnet_cidr: "10.0.0.0/24".into(),
                gateway: GATEWAY.to_string(),
                primary_ip: "10.0.0.2".into(),
                subnet_cidr_v6: None,
                gateway_ipv6: None,
                state: EniState::Attached,
            };
            let status =
                NodeENIConfigStatus { eni_count: 1, enis: vec![eni], ..NodeENIConfigStatus::default() };
            let patch = Patch::Merge(json!({ "status": status }));
            api.patch_status("n1", &PatchParams::default(), &patch).await.unwrap();
        });
    }

    /// Creates pod `default/<pod>`, unless it is there.
    pub fn create_pod(&self, pod: &str) {
        if self.pods.lock().unwrap().contains_key(pod) {
            return;
        }
        let uid = self.with_api(async |client| {
            let object = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": pod },
                "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "none" }] },
            });
            let api: Api<Pod> = Api::namespaced(client, "default");
            let made = api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await;
            made.unwrap().metadata.uid.unwrap()
        });
        self.pods.lock().unwrap().insert(pod.to_owned(), uid);
    }

    /// Binds an address to pod `default/<pod>`, which is made if need be, as the controller would, and has the VPC
    /// deliver it to the ENI.
    pub fn bind(&self, ip: &str, pod: &str, epoch: i64) {
        self.create_pod(pod);
        self.bind_uid(ip, pod, &self.pod_uid(pod), epoch);
    }

    /// UID of a pod that was made here; of any other pod, one that no object has.
    pub fn pod_uid(&self, pod: &str) -> String {
        self.pods.lock().unwrap().get(pod).cloned().unwrap_or_else(|| format!("{pod}-uid"))
    }

    /// The same for a pod that is there, of this UID.
    pub fn bind_uid(&self, ip: &str, pod: &str, uid: &str, epoch: i64) {
        self.fabric.ip(&format!("neigh replace {ip} lladdr {ENI_MAC} dev gw0 nud permanent"));
        self.with_api(async |client| {
            let api: Api<VpcIP> = Api::all(client);
            let claim = ClaimRef { namespace: "default".into(), name: pod.into(), uid: "claim".into() };
            let spec = VpcIPSpec {
                type_: VpcIPType::Pod,
                ip: ip.into(),
                subnet_id: "subnet".into(),
                claim_ref: Some(claim),
            };
            api.create(&PostParams::default(), &VpcIP::new(ip, spec)).await.unwrap();
            let status = VpcIPStatus {
                phase: IpPhase::Bound,
                node_name: Some("n1".into()),
                eni_id: Some("eni-a".into()),
                pod_uid: Some(uid.to_owned()),
                epoch,
                ..Default::default()
            };
            let patch = Patch::Merge(json!({ "status": status }));
            api.patch_status(ip, &PatchParams::default(), &patch).await.unwrap();
        });
    }

    pub fn set_phase(&self, ip: &str, phase: IpPhase) {
        self.with_api(async |client| {
            let api: Api<VpcIP> = Api::all(client);
            let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
            api.patch_status(ip, &PatchParams::default(), &patch).await.unwrap();
        });
    }

    /// Epoch of the acknowledged detach of an address.
    pub fn acknowledged(&self, ip: &str) -> Option<i64> {
        self.with_api(async |client| {
            let api: Api<VpcIP> = Api::all(client);
            api.get(ip).await.unwrap().state().detached.map(|detached| detached.epoch)
        })
    }

    /// Runs the plugin as a runtime would, in a thread of the node's namespace.
    pub fn cni(
        &self,
        command: &str,
        container: &str,
        pod: &str,
        netns: Option<&Netns>,
        extra: Value,
    ) -> Result<Value, CniError> {
        let uid = self.pod_uid(pod);
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}");
        self.cni_with(command, container, &args, netns, extra)
    }

    /// Runs the plugin with these `CNI_ARGS`.
    pub fn cni_with(
        &self,
        command: &str,
        container: &str,
        args: &str,
        netns: Option<&Netns>,
        extra: Value,
    ) -> Result<Value, CniError> {
        let netns = netns.map(Netns::path);
        let mut conf =
            json!({ "cniVersion": "1.1.0", "name": "net", "type": "ipam-cni", "socket": self.socket() });
        conf.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        let env = |name: &str| -> Option<OsString> {
            match name {
                "CNI_COMMAND" => Some(command.into()),
                "CNI_CONTAINERID" => Some(container.into()),
                "CNI_IFNAME" => Some("eth0".into()),
                "CNI_PATH" => Some("/opt/cni/bin".into()),
                "CNI_NETNS" => netns.clone().map(Into::into),
                "CNI_ARGS" => Some(args.into()),
                _ => None,
            }
        };
        let (answer, failed) = self.node.run(|| plugin::answer(env, conf.to_string().as_bytes()));
        failed.map_or(Ok(answer), Err)
    }

    pub fn add(&self, container: &str, pod: &str, netns: &Netns) -> Result<Value, CniError> {
        self.cni("ADD", container, pod, Some(netns), Value::Null)
    }

    pub fn del(&self, container: &str) -> Result<Value, CniError> {
        self.cni("DEL", container, "any", None, Value::Null)
    }

    /// What of ours is on the node: names of links, and routes.
    pub fn wiring(&self) -> (Vec<String>, Vec<String>) {
        let links = self.node.ip("-o link show type veth");
        let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        let ours = names.filter(|name| name.starts_with("ipam")).map(str::to_owned).collect();
        let routes = self.node.ip("route show proto 69");
        (ours, routes.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Addresses in the route map and names of links with a program of `from_pod`. Only while no agent runs: this
    /// loads the dataplane.
    pub fn dataplane(&self) -> (Vec<IpAddr>, Vec<String>) {
        self.node.run(|| {
            let dataplane = Dataplane::open(&self.bpffs).unwrap();
            let routes = dataplane.routes().unwrap().into_iter().map(|(ip, _)| ip).collect();
            let pins = dataplane.links().unwrap().into_iter().map(|pin| pin.ifname);
            (routes, pins.filter(|name| name.starts_with("ipam")).collect())
        })
    }

    /// Whether the node's ENI is up and ADD can be served. Before the ENI is known STATUS is fine as well: it would
    /// come with the first pod.
    pub fn is_ready(&self) -> bool {
        // Its primary address is what the agent gives an ENI that it brings up.
        self.node.ip("-o -4 addr").contains(" 10.0.0.2/32 ")
            && self.cni("STATUS", "x", "x", None, Value::Null).is_ok()
    }

    /// Nothing of any pod is left on the node.
    pub fn assert_bare(&self) {
        wait_for("links and routes to go", || self.wiring() == (vec![], vec![]));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for directory in [self.bpffs.join("links"), self.bpffs.clone()] {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let _ = fs::remove_file(entry.path());
            }
            let _ = fs::remove_dir(&directory);
        }
    }
}

/// Configuration of an agent with its files in `directory`.
pub fn config(directory: &Path, bpffs: &Path) -> NodeConfig {
    NodeConfig {
        stack_affinity: true,
        node_name: "n1".into(),
        socket: directory.join("run/cni.sock"),
        journal: directory.join("node.redb"),
        bpffs_dir: bpffs.to_owned(),
        attachment: None,
        stack_cidrs: vec![],
        masquerade_file: None,
        create_pods: None,
        gc_period: Duration::from_millis(400),
        metrics: Metrics::default(),
        health: Health::default(),
        debug_socket: directory.join("run/agent.sock"),
        hold_repairs: None,
        self_fence: None,
        offline: Limits { strict: Duration::from_secs(600), optimistic: Duration::from_secs(30) },
    }
}

/// Whether an agent answers a call, be it with an error.
pub fn answers(socket: &Path) -> bool {
    let Ok(mut client) = AgentClient::connect(socket, Duration::from_secs(5), code::IO) else { return false };
    client.send(&Request::Status { protocol: PROTOCOL_VERSION }, None).is_ok()
        && client.expect_done().map_or_else(|error| error.code == code::NOT_AVAILABLE, |()| true)
}

/// Whether a ping from the namespace comes back.
pub fn pings(netns: &Netns, to: Ipv4Addr) -> bool {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "2", "-i", "0.05", "-W", "1", &to.to_string()]);
    netns.run(|| ping.output().unwrap().status.success())
}

pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(15), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
