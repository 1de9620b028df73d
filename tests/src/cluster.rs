//! The product on the lab: a cloud, a controller with its API, node agents, and pods as a kubelet runs them.
//! All of them are the real programs; only the scheduler and the kubelet are played by the test.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::caller::Door;
use crate::cloud_server::{
    CloudConfig, CloudServer, Delays, InstanceConfig, PrimaryEni, Quotas, Serving, SubnetConfig,
};
use crate::lab::patience::patient;
use crate::lab::process::{LabProcess, binary};
use crate::lab::{Lab, netns};
use crate::real_api::{OURS, RealApi};
use external::External;

pub mod external;
mod node;
mod pod;

pub use node::ClusterNode;
pub use pod::RunningPod;

/// Secret of the lab's cloud.
const SECRET: (&str, &str) = ("lab-secret-id", "lab-secret-key");
/// Name of the network in the configurations.
pub const NETWORK: &str = "eni-ipam";
/// Port of the embedded API on the controller's machine.
const API_PORT: u16 = 6443;
/// How long the plugin waits for the agent; what it does without a word, too.
const CNI_TIMEOUT: Duration = Duration::from_secs(60);
/// How long anything in the lab may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    test: String,
    subnets: Vec<(String, String, String)>,
    nodes: Vec<(String, String)>,
    max_enis: u32,
    max_ips_per_eni: u32,
    cooldown: Duration,
    controller_args: Vec<String>,
    agent_args: Vec<String>,
    mtu: u32,
    api: Option<&'static RealApi>,
    door: Door,
}

impl ClusterBuilder {
    /// Whose cloud it is; Tencent Cloud's unless told otherwise.
    #[must_use]
    pub fn cloud_of(mut self, door: Door) -> Self {
        self.door = door;
        self
    }

    /// A real kube-apiserver in place of the embedded API. `deploy/` must have been applied to it.
    #[must_use]
    pub fn api(mut self, api: &'static RealApi) -> Self {
        self.api = Some(api);
        self
    }

    /// MTU of every ENI, in bytes; 1500 unless told otherwise.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Adds a subnet that pods' ENIs come from: an IPv4 prefix, or that and an IPv6 one with a comma between.
    #[must_use]
    pub fn subnet(mut self, id: &str, zone: &str, cidr: &str) -> Self {
        self.subnets.push((id.into(), zone.into(), cidr.into()));
        self
    }

    /// Adds a node with an agent.
    #[must_use]
    pub fn node(mut self, name: &str, zone: &str) -> Self {
        self.nodes.push((name.into(), zone.into()));
        self
    }

    /// Secondary ENIs of a node, and secondary addresses of an ENI.
    #[must_use]
    pub fn limits(mut self, max_enis: u32, max_ips_per_eni: u32) -> Self {
        (self.max_enis, self.max_ips_per_eni) = (max_enis, max_ips_per_eni);
        self
    }

    /// How long a released address stays out of use.
    #[must_use]
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// More arguments of the controller.
    #[must_use]
    pub fn controller_args(mut self, args: &[&str]) -> Self {
        self.controller_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// More arguments of every node's agent.
    #[must_use]
    pub fn agent_args(mut self, args: &[&str]) -> Self {
        self.agent_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Builds the lab and starts everything; returns when every node's agent answers.
    ///
    /// # Errors
    /// Something did not come up.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        Cluster::start(self).await
    }
}

/// A cluster that runs.
pub struct Cluster {
    nodes: BTreeMap<String, ClusterNode>,
    controller: Option<LabProcess>,
    /// To the API, as an administrator.
    pub client: Client,
    /// The cloud.
    pub cloud: CloudServer,
    _serving: Serving,
    cloud_port: u16,
    external: Option<External>,
    controller_kubeconfig: Option<PathBuf>,
    builder: ClusterBuilder,
    /// Fabric, machines and namespaces.
    pub lab: Lab,
}

impl Cluster {
    /// Describes a cluster for a test.
    #[must_use]
    pub fn builder(test: &str) -> ClusterBuilder {
        ClusterBuilder {
            test: test.into(),
            subnets: Vec::new(),
            nodes: Vec::new(),
            max_enis: 3,
            max_ips_per_eni: 9,
            cooldown: Duration::from_millis(500),
            controller_args: Vec::new(),
            agent_args: Vec::new(),
            mtu: 1500,
            door: Door::Tencent,
            api: None,
        }
    }

    /// Two nodes of one zone on one subnet: what most tests need.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub async fn two_nodes(test: &str) -> anyhow::Result<Self> {
        Self::two_nodes_of(Door::Tencent, test).await
    }

    /// Likewise, of whichever cloud.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub async fn two_nodes_of(door: Door, test: &str) -> anyhow::Result<Self> {
        Self::builder(test)
            .cloud_of(door)
            .subnet("subnet-a", "zone-1", "10.0.1.0/24")
            .node("node-a", "zone-1")
            .node("node-b", "zone-1")
            .start()
            .await
    }

    async fn start(builder: ClusterBuilder) -> anyhow::Result<Self> {
        let mut lab = Lab::builder(&builder.test).mtu(builder.mtu);
        for (id, zone, cidr) in &builder.subnets {
            lab = lab.subnet(id, zone, cidr);
        }
        let lab = lab.build()?;
        let cloud = CloudServer::new(
            CloudConfig {
                region: "lab".into(),
                vpc: "vpc-lab".into(),
                instances: BTreeMap::new(),
                quotas: Quotas::default(),
                delays: Delays::default(),
                secret: (SECRET.0.into(), SECRET.1.into()),
                subnets: lab
                    .subnets()
                    .iter()
                    .map(|s| SubnetConfig {
                        id: s.id.clone(),
                        zone: s.zone.clone(),
                        cidr: s.cidr,
                        cidr_v6: s.cidr_v6,
                    })
                    .collect(),
            },
            lab.fabric().clone(),
        );
        let listener = lab.ctl().ns().listen(([127, 0, 0, 1], 0).into())?;
        let cloud_port = listener.local_addr()?.port();
        let serving = builder.door.open(&cloud, listener)?;
        for ip in lab.taken().into_iter().chain(lab.kept_for_machines().map(IpAddr::from)) {
            cloud.take_address(ip);
        }

        let kubeconfig = lab.ctl().dir().join("kubeconfig");
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            controller: None,
            // Replaced below, when the API is there.
            client: offline(),
            cloud,
            _serving: serving,
            cloud_port,
            external: None,
            controller_kubeconfig: None,
            builder,
            lab,
        };
        if let Some(api) = cluster.builder.api {
            let external = External::open(api, &cluster.lab, &kubeconfig)?;
            cluster.client = netns::kube_client(cluster.lab.ctl().ns(), &kubeconfig).await?;
            cluster.controller_kubeconfig = Some(external.controller(&cluster.client).await?);
            cluster.external = Some(external);
        }
        cluster.start_controller()?;
        eventually("the API to be served", async || kubeconfig.is_file()).await?;
        cluster.client = netns::kube_client(cluster.lab.ctl().ns(), &kubeconfig).await?;
        for (name, zone) in cluster.builder.nodes.clone() {
            cluster.add_node(&name, &zone).await?;
        }
        for node in cluster.nodes.values() {
            node.wait_until_served().await?;
        }
        Ok(cluster)
    }

    /// Where the administrator's kubeconfig is.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab.ctl().dir().join("kubeconfig")
    }

    /// Starts the controller's process, with the embedded API in it unless there is a real one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_controller(&mut self) -> anyhow::Result<()> {
        let ctl = self.lab.ctl();
        let kubeconfig = self.kubeconfig();
        let mut command = ctl.command(binary("ipam-agent")?);
        command.arg("controller");
        match &self.controller_kubeconfig {
            Some(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
            None => command
                .arg("--embedded")
                .arg(ctl.dir().join("api.redb"))
                .args(["--api-listen", &format!("{}:{API_PORT}", ctl.ip()), "--api-allow-remote"])
                .arg("--api-kubeconfig")
                .arg(&kubeconfig),
        };
        command
            .args(["--cooldown", &format!("{}ms", self.builder.cooldown.as_millis())])
            .args(["--max-enis", &self.builder.max_enis.to_string()])
            .args(["--max-ips-per-eni", &self.builder.max_ips_per_eni.to_string()])
            .args(&self.builder.controller_args)
            .env("IPAM_LOG", "info,ipam_agent=debug");
        self.name_the_cloud(&mut command);
        self.controller = Some(ctl.start("controller", command)?);
        Ok(())
    }

    /// Stops the controller and starts it with more arguments.
    ///
    /// # Errors
    /// It does not end, or cannot be started.
    pub fn restart_controller(&mut self, more: &[&str]) -> anyhow::Result<()> {
        self.controller().terminate(PATIENCE)?;
        self.builder.controller_args.extend(more.iter().map(|arg| (*arg).to_owned()));
        self.start_controller()
    }

    /// Whose cloud it is, where, and with which keys.
    fn name_the_cloud(&self, command: &mut std::process::Command) {
        let name = self.builder.door.pick("tencent", "aws");
        let subnets: Vec<_> = self.builder.subnets.iter().map(|(id, ..)| id.as_str()).collect();
        command
            .args(["--provider", name])
            .args([format!("--{name}-region"), "lab".into()])
            .args([format!("--{name}-endpoint"), format!("http://127.0.0.1:{}", self.cloud_port)])
            .args([format!("--{name}-subnets"), subnets.join(",")])
            .args([format!("--{name}-settle"), "100ms".into(), format!("--{name}-poll"), "10ms".into()]);
        let (id, secret) = self.builder.door.pick(
            ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"),
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        );
        command.env(id, SECRET.0).env(secret, SECRET.1);
        if self.builder.door == Door::Tencent {
            command.args(["--tencent-vpc", "vpc-lab"]);
        }
    }

    /// The controller's process.
    ///
    /// # Panics
    /// There is none.
    pub fn controller(&mut self) -> &mut LabProcess {
        self.controller.as_mut().expect("the controller was started")
    }

    /// Adds a machine, its `Node` object and its agent.
    ///
    /// # Errors
    /// Something did not come up.
    pub async fn add_node(&mut self, name: &str, zone: &str) -> anyhow::Result<()> {
        let machine = self.lab.node(name, zone)?;
        let id = machine.instance_id();
        // The cloud counts the primary ENI and each ENI's primary address.
        let instance = InstanceConfig {
            zone: zone.into(),
            max_enis: self.builder.max_enis as usize + 1,
            max_ips_per_eni: self.builder.max_ips_per_eni as usize + 1,
            primary: Some(PrimaryEni {
                subnet: machine.subnet().id.clone(),
                ip: machine.ip(),
                mac: Some(machine.primary().mac.clone()),
            }),
        };
        self.cloud.free_address(machine.ip());
        self.cloud.add_instance(&id, instance);
        if let Some(ip) = machine.ip_v6() {
            // The machine has it by other means than its ENI's records.
            self.cloud.take_address(ip);
        }
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone, OURS: "" } },
            "spec": { "providerID": format!("{}:///{zone}/{id}", self.builder.door.pick("qcloud", "aws")) },
        }))?;
        Api::<Node>::all(self.client.clone()).create(&PostParams::default(), &node).await?;
        let kubeconfig = match &self.external {
            Some(external) => external.agent(&self.client, name).await?,
            None => self.kubeconfig(),
        };
        let mut node = ClusterNode::new(machine, kubeconfig, self.builder.agent_args.clone());
        node.start_agent(&[])?;
        self.nodes.insert(name.into(), node);
        Ok(())
    }

    /// A node.
    ///
    /// # Panics
    /// There is no such node.
    #[must_use]
    pub fn node(&self, name: &str) -> &ClusterNode {
        self.nodes.get(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// A node, to stop or start its agent.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node_mut(&mut self, name: &str) -> &mut ClusterNode {
        self.nodes.get_mut(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// All pods of the default namespace.
    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// Objects of a kind, those of the default namespace if it has namespaces.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod object that is scheduled to a node already.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn create_pod(
        &self,
        name: &str,
        node: &str,
        annotations: &[(&str, &str)],
    ) -> anyhow::Result<Pod> {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
        }))?;
        Ok(self.pods().create(&PostParams::default(), &pod).await?)
    }

    /// Creates a pod on a node and runs ADD for its sandbox, as scheduler and kubelet would.
    ///
    /// # Errors
    /// The API or the plugin refuses.
    pub async fn run_pod(
        &self,
        name: &str,
        node: &str,
        annotations: &[(&str, &str)],
    ) -> anyhow::Result<RunningPod> {
        let pod = self.create_pod(name, node, annotations).await?;
        self.add_sandbox(&pod, node).await
    }

    /// Runs ADD for a new sandbox of a pod.
    ///
    /// # Errors
    /// The plugin refuses.
    pub async fn add_sandbox(&self, pod: &Pod, node: &str) -> anyhow::Result<RunningPod> {
        let sandbox = self.sandbox(pod, node).await?;
        sandbox.add().await?;
        Ok(sandbox)
    }

    /// A new sandbox of a pod, without an interface yet. A namespace takes a busy kernel most of a second: it is made off
    /// the async threads, or what else the caller's task does (a TLS handshake) would be late.
    ///
    /// # Errors
    /// The kernel refuses a namespace.
    pub async fn sandbox(&self, pod: &Pod, node: &str) -> anyhow::Result<RunningPod> {
        let (machine, name) = (self.node(node).machine().clone(), pod.name_any());
        let mut sandbox = tokio::task::spawn_blocking(move || machine.pod(&name)).await??;
        sandbox.uid = pod.uid();
        let conf = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "ipam-cni",
            "socket": self.node(node).machine().socket(),
            // The plugin's own limit is for a machine of today; an emulated one loads programs for a minute.
            "timeoutSeconds": patient(CNI_TIMEOUT).as_secs(),
        });
        Ok(RunningPod { sandbox: Arc::new(sandbox), conf })
    }

    /// Ends a pod: DEL for its sandbox, then the object goes, as a kubelet does it.
    ///
    /// # Errors
    /// The API or the plugin refuses.
    pub async fn end_pod(&self, pod: RunningPod) -> anyhow::Result<()> {
        pod.del().await?;
        self.delete_pod_object(&pod.sandbox.name).await
    }

    /// Deletes only the pod's object.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn delete_pod_object(&self, name: &str) -> anyhow::Result<()> {
        // The last word of a kubelet: without it, a pod on a node stays for its grace period.
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Whether kubectl is installed on this machine.
    #[must_use]
    pub fn has_kubectl(&self) -> bool {
        std::process::Command::new("kubectl").arg("version").arg("--client").output().is_ok()
    }

    /// Runs kubectl on the controller's machine.
    ///
    /// # Errors
    /// It is not installed, or fails: with what it printed.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.on_ctl("kubectl".as_ref(), args)
    }

    /// Runs ipamctl on the controller's machine.
    ///
    /// # Errors
    /// It is not built, or fails: with what it printed.
    pub fn ipamctl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.on_ctl(&binary("ipamctl")?, args)
    }

    fn on_ctl(&self, program: &std::path::Path, args: &[&str]) -> anyhow::Result<String> {
        let name = program.display();
        let output = self
            .lab
            .ctl()
            .command(program)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.lab.ctl().dir())
            .args(args)
            .output()
            .with_context(|| format!("{name}: not installed? cargo xtask setup"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{name} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }
}

/// A client of no API.
fn offline() -> Client {
    Client::new(
        tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, tower::BoxError>("the API is not served yet".into())
        }),
        "default",
    )
}

/// Waits until a condition holds.
///
/// # Errors
/// It does not within [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    let limit = patient(PATIENCE);
    while !holds().await {
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
