//! The product on the lab: a cloud, a controller with its API, node agents, and pods as a kubelet runs them.
//! All of them are the real programs; only the scheduler and the kubelet are played by the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cloud_server::{
    CloudConfig, CloudServer, Delays, InstanceConfig, PrimaryEni, Quotas, Serving, SubnetConfig,
};
use crate::lab::process::{LabProcess, binary};
use crate::lab::{Lab, netns};

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
/// How long anything in the lab may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    test: String,
    subnets: Vec<(String, String, String)>,
    nodes: Vec<(String, String)>,
    max_enis: u32,
    max_ips_per_eni: u32,
    cooldown: Duration,
    agent_args: Vec<String>,
}

impl ClusterBuilder {
    /// Adds a subnet that pods' ENIs come from.
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
            agent_args: Vec::new(),
        }
    }

    /// Two nodes of one zone on one subnet: what most tests need.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub async fn two_nodes(test: &str) -> anyhow::Result<Self> {
        Self::builder(test)
            .subnet("subnet-a", "zone-1", "10.0.1.0/24")
            .node("node-a", "zone-1")
            .node("node-b", "zone-1")
            .start()
            .await
    }

    async fn start(builder: ClusterBuilder) -> anyhow::Result<Self> {
        let mut lab = Lab::builder(&builder.test);
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
                    .map(|s| SubnetConfig { id: s.id.clone(), zone: s.zone.clone(), cidr: s.cidr })
                    .collect(),
            },
            lab.fabric().clone(),
        );
        let listener = lab.ctl().ns().listen(([127, 0, 0, 1], 0).into())?;
        let cloud_port = listener.local_addr()?.port();
        let serving = cloud.serve(listener)?;
        for ip in lab.taken() {
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
            builder,
            lab,
        };
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

    /// Starts the controller's process, with the embedded API in it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_controller(&mut self) -> anyhow::Result<()> {
        let ctl = self.lab.ctl();
        let kubeconfig = self.kubeconfig();
        let mut command = ctl.command(binary("ipam-agent")?);
        command
            .arg("controller")
            .arg("--embedded")
            .arg(ctl.dir().join("api.redb"))
            .args(["--api-listen", &format!("{}:{API_PORT}", ctl.ip()), "--api-allow-remote"])
            .arg("--api-kubeconfig")
            .arg(&kubeconfig)
            .args(["--provider", "tencent", "--tencent-region", "lab", "--tencent-vpc", "vpc-lab"])
            .args(["--tencent-endpoint", &format!("http://127.0.0.1:{}", self.cloud_port)])
            .args(["--tencent-settle", "100ms", "--tencent-poll", "10ms"])
            .args(["--cooldown", &format!("{}ms", self.builder.cooldown.as_millis())])
            .args(["--max-enis", &self.builder.max_enis.to_string()])
            .args(["--max-ips-per-eni", &self.builder.max_ips_per_eni.to_string()])
            .arg("--tencent-subnets")
            .arg(self.builder.subnets.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>().join(","))
            .env("TENCENTCLOUD_SECRET_ID", SECRET.0)
            .env("TENCENTCLOUD_SECRET_KEY", SECRET.1)
            .env("IPAM_LOG", "info,ipam_agent=debug");
        self.controller = Some(ctl.start("controller", command)?);
        Ok(())
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
        self.cloud.add_instance(&id, instance);
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
            "spec": { "providerID": format!("qcloud:///{zone}/{id}") },
        }))?;
        Api::<Node>::all(self.client.clone()).create(&PostParams::default(), &node).await?;
        let mut node = ClusterNode::new(machine, self.kubeconfig(), self.builder.agent_args.clone());
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
        let sandbox = self.sandbox(pod, node)?;
        sandbox.add().await?;
        Ok(sandbox)
    }

    /// A new sandbox of a pod, without an interface yet.
    ///
    /// # Errors
    /// The kernel refuses a namespace.
    pub fn sandbox(&self, pod: &Pod, node: &str) -> anyhow::Result<RunningPod> {
        let mut sandbox = self.node(node).machine().pod(&pod.name_any())?;
        sandbox.uid = pod.uid();
        let conf = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "ipam-cni",
            "socket": self.node(node).machine().socket(),
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
        self.pods().delete(name, &DeleteParams::default()).await?;
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
    while !holds().await {
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
