//! The controller alone, in this process: a real embedded API on a file, the real cloud client against the
//! cloud server, and no nodes. The node agents' part, to acknowledge a detach, is played here. What it is for:
//! killing the controller at exact places.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use ipam_agent::api::pod::runtime_uid;
use ipam_agent::api::{ClaimPhase, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPType};
use ipam_agent::cloud::Pace;
use ipam_agent::cloud::tencent::{Credentials, Tencent, TencentConfig};
use ipam_agent::controller::{self, ControllerConfig};
use ipam_agent::embedded::EmbeddedApi;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;
use tower::{BoxError, Service};

use crate::cloud_server::{
    CloudConfig, CloudServer, Delays, GATEWAY_V6, InstanceConfig, Quotas, Serving, SubnetConfig,
};
use crate::cluster::eventually;
use crate::world::NoWorld;

mod replica;

pub use replica::{Asked, Difference, Replica, Script};

const SECRET: (&str, &str) = ("id", "key");
/// A subnet that carries this tag is used beside `subnet-a`.
pub const SUBNET_TAG: (&str, &str) = ("use", "pods");

/// A controller's surroundings.
pub struct ControlPlane {
    /// To the API, with no faults.
    pub client: Client,
    /// The cloud.
    pub cloud: CloudServer,
    _serving: Serving,
    api: EmbeddedApi,
    /// How the API differs for controllers.
    pub quirks: ApiQuirks,
    endpoint: String,
    acknowledger: JoinHandle<()>,
    controllers: Mutex<Vec<JoinHandle<()>>>,
}

impl ControlPlane {
    /// An API on a file in `dir`, a cloud with one subnet, and two nodes of one zone.
    ///
    /// # Errors
    /// Something could not be made.
    pub async fn new(dir: &Path) -> anyhow::Result<Self> {
        let api = EmbeddedApi::open(&dir.join("api.redb"))?;
        let client = api.client();
        let cloud = CloudServer::new(
            CloudConfig {
                region: "lab".into(),
                vpc: "vpc-lab".into(),
                subnets: vec![SubnetConfig {
                    id: "subnet-a".into(),
                    zone: "zone-1".into(),
                    cidr: "10.0.1.0/24".parse()?,
                    cidr_v6: Some("fd00:0:0:1::/64".parse()?),
                }],
                instances: BTreeMap::new(),
                quotas: Quotas::default(),
                delays: Delays::default(),
                secret: (SECRET.0.into(), SECRET.1.into()),
            },
            Arc::new(NoWorld),
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let serving = cloud.serve(listener)?;
        let acknowledger = tokio::spawn(acknowledge(client.clone()));
        let plane = Self {
            client,
            cloud,
            _serving: serving,
            api,
            quirks: ApiQuirks::default(),
            endpoint,
            acknowledger,
            controllers: Mutex::default(),
        };
        for name in ["node-a", "node-b"] {
            plane.add_node(name, "zone-1", (4, 10), 110).await?;
        }
        Ok(plane)
    }

    /// Adds a machine that takes so many ENIs of so many addresses, what is primary included, and its `Node` object, on
    /// which so many pods can be.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn add_node(
        &self,
        name: &str,
        zone: &str,
        (max_enis, max_ips_per_eni): (usize, usize),
        pods: u32,
    ) -> anyhow::Result<()> {
        let id = format!("ins-{name}");
        let instance = InstanceConfig { zone: zone.into(), max_enis, max_ips_per_eni, primary: None };
        self.cloud.add_instance(&id, instance);
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
            "spec": { "providerID": format!("qcloud:///{zone}/{id}") },
            "status": { "allocatable": { "pods": pods.to_string() } },
        }))?;
        let api = Api::<Node>::all(self.client.clone());
        api.create(&PostParams::default(), &node).await?;
        let status = json!({ "status": node.status });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Starts the controller. With `writes`, it is cut off from the API for ever after that many writes, the
    /// last of which has happened but was not answered: a controller killed there.
    ///
    /// # Errors
    /// The provider's configuration is wrong.
    pub fn start_controller(&self, writes: Option<i64>) -> anyhow::Result<Arc<AtomicI64>> {
        self.start_controller_with(Self::config(), writes)
    }

    /// From now on no agent acknowledges anything.
    pub fn silence_agents(&self) {
        self.acknowledger.abort();
    }

    /// A controller's configuration with the times of a test.
    #[must_use]
    pub fn config() -> ControllerConfig {
        ControllerConfig {
            cooldown: Duration::from_millis(100),
            orphan_period: Duration::from_millis(300),
            retry: Duration::from_millis(100),
            // No agent says anything unasked here.
            patience: Duration::ZERO,
            retry_max: Duration::from_secs(1),
            // ENIs come with the pods: tests count addresses.
            min_enis: 0,
            // Only the first look: tests count calls.
            eni_period: Duration::from_secs(3600),
            gather: Duration::from_millis(5),
            ..ControllerConfig::default()
        }
    }

    /// Likewise, with a configuration. One that runs already goes on: there are two then.
    ///
    /// # Errors
    /// The provider's configuration is wrong.
    pub fn start_controller_with(
        &self,
        config: ControllerConfig,
        writes: Option<i64>,
    ) -> anyhow::Result<Arc<AtomicI64>> {
        Ok(self.start_controller_over(self.provider()?, config, writes))
    }

    /// Likewise, with a way to the cloud of its own.
    pub fn start_controller_over(
        &self,
        provider: Tencent,
        config: ControllerConfig,
        writes: Option<i64>,
    ) -> Arc<AtomicI64> {
        let left = Arc::new(AtomicI64::new(writes.unwrap_or(i64::MAX)));
        let client = Client::new(
            CutOff { api: self.api.clone(), left: left.clone(), quirks: self.quirks.clone() },
            "default",
        );
        let running = tokio::spawn(async move {
            let _ = controller::run(client, Arc::new(provider), config, std::future::pending()).await;
        });
        self.controllers().push(running);
        left
    }

    /// A way to the cloud, as the controller has it.
    ///
    /// # Errors
    /// Its configuration is wrong.
    pub fn provider(&self) -> anyhow::Result<Tencent> {
        self.provider_settling(Duration::from_millis(50))
    }

    /// Likewise, with another opinion of how long a Describe lags at most.
    ///
    /// # Errors
    /// Its configuration is wrong.
    pub fn provider_settling(&self, settle: Duration) -> anyhow::Result<Tencent> {
        Ok(Tencent::new(TencentConfig {
            endpoint: self.endpoint.clone(),
            region: "lab".into(),
            vpc_id: "vpc-lab".into(),
            subnet_ids: vec!["subnet-a".into()],
            subnet_tag: Some((SUBNET_TAG.0.into(), SUBNET_TAG.1.into())),
            security_groups: Vec::new(),
            gateway_v6: GATEWAY_V6,
            credentials: Credentials { secret_id: SECRET.0.into(), secret_key: SECRET.1.into() },
            pace: Pace {
                poll: Duration::from_millis(5),
                settle,
                backoff: (Duration::from_millis(5), Duration::from_millis(50)),
                // What gets stuck is given up soon.
                deadline: Duration::from_secs(3),
                ..Pace::default()
            },
        })?)
    }

    /// Ends the controller, or all of several, where it stands.
    pub async fn kill_controller(&self) {
        let running = std::mem::take(&mut *self.controllers());
        for controller in running {
            controller.abort();
            let _ = controller.await;
        }
    }

    fn controllers(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Schedules a pod and waits until its claim is bound to it. Gives the address; those of all families, with commas
    /// between.
    ///
    /// # Errors
    /// It is not bound in time.
    pub async fn pod(&self, name: &str, node: &str, is_static: bool) -> anyhow::Result<String> {
        let policy = if is_static { "Never" } else { "Immediate" };
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": { "eni-ipam.dev/vpc-ip-claim-delete-policy": policy } },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
        }))?;
        let pod =
            Api::<Pod>::default_namespaced(self.client.clone()).create(&PostParams::default(), &pod).await?;
        self.bound(&pod).await.with_context(|| format!("on {node}"))
    }

    /// Waits until a pod's claim is bound to it. Gives the address; those of all families, with commas between.
    ///
    /// # Errors
    /// It is not bound in time.
    pub async fn bound(&self, pod: &Pod) -> anyhow::Result<String> {
        let mut address = None;
        eventually(&format!("{} to be bound", pod.name_any()), async || {
            address = self.bound_address(&pod.name_any(), runtime_uid(pod)).await;
            address.is_some()
        })
        .await?;
        address.context("just seen")
    }

    async fn bound_address(&self, claim: &str, pod_uid: Option<String>) -> Option<String> {
        let claim =
            Api::<VpcIPClaim>::default_namespaced(self.client.clone()).get_opt(claim).await.ok()??;
        let status = claim.status.filter(|status| status.phase == ClaimPhase::Bound)?;
        let addresses: Vec<&str> = status.all_addresses().collect();
        for address in &addresses {
            let status = self.ip(address).await.ok()??.state();
            if status.phase != IpPhase::Bound
                || status.pod_uid != pod_uid
                || status.together.len().max(1) != addresses.len()
            {
                return None;
            }
        }
        (!addresses.is_empty()).then(|| addresses.join(","))
    }

    /// Whether a claim says that it keeps its addresses, or has none any more.
    async fn is_retained(&self, claim: &str) -> bool {
        match Api::<VpcIPClaim>::default_namespaced(self.client.clone()).get_opt(claim).await {
            Ok(claim) => claim
                .is_none_or(|claim| claim.status.is_some_and(|status| status.phase == ClaimPhase::Retained)),
            Err(_) => false,
        }
    }

    /// The object of an address.
    async fn ip(&self, address: &str) -> anyhow::Result<Option<VpcIP>> {
        let name = VpcIP::name_of(address.parse()?);
        Ok(Api::<VpcIP>::all(self.client.clone()).get_opt(&name).await?)
    }

    /// Deletes a pod and waits until its address has left the node: retained, or gone.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn end_pod(&self, name: &str, address: &str) -> anyhow::Result<()> {
        Api::<Pod>::default_namespaced(self.client.clone()).delete(name, &DeleteParams::default()).await?;
        for address in address.split(',') {
            eventually(&format!("{address} of {name} to be let go"), async || match self.ip(address).await {
                Ok(None) => true,
                Ok(Some(ip)) => ip.state().phase == IpPhase::Retained && self.is_retained(name).await,
                Err(_) => false,
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until API and cloud agree and nothing is on its way; then checks that no address is on two ENIs,
    /// none is lost and none has leaked.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let mut last = String::new();
        let outcome = eventually("API and cloud to agree", async || match self.difference().await {
            Ok(()) => true,
            Err(error) => {
                last = format!("{error:#}");
                false
            }
        })
        .await;
        outcome.context(last)
    }

    async fn difference(&self) -> anyhow::Result<()> {
        let cloud = self.cloud.snapshot();
        ensure!(cloud.violations.is_empty(), "{:?}", cloud.violations);
        ensure!(
            cloud.enis.iter().all(|eni| eni.attachment.is_some()),
            "an ENI on no machine: {:?}",
            cloud.enis
        );
        let mut in_cloud: Vec<(String, String)> = cloud
            .enis
            .iter()
            .flat_map(|eni| {
                eni.addresses.iter().skip(1).map(|address| (address.ip.to_string(), eni.id.clone()))
            })
            .collect();
        in_cloud.sort();
        let mut in_api = Vec::new();
        for ip in Api::<VpcIP>::all(self.client.clone()).list(&Default::default()).await? {
            if ip.spec.type_ == VpcIPType::Eni {
                continue;
            }
            let status = ip.state();
            ensure!(
                matches!(status.phase, IpPhase::Bound | IpPhase::Retained),
                "{} is {:?}",
                ip.name_any(),
                status.phase
            );
            let claim = ip.spec.claim_ref.clone().context("no claim")?;
            let held =
                Api::<VpcIPClaim>::namespaced(self.client.clone(), &claim.namespace).get(&claim.name).await?;
            ensure!(
                held.status.iter().flat_map(VpcIPClaimStatus::all_addresses).any(|held| held == ip.spec.ip),
                "{} is not the address of {}",
                ip.name_any(),
                claim.name
            );
            in_api.push((ip.spec.ip.clone(), status.eni_id.context("on no ENI")?));
        }
        in_api.sort();
        ensure!(in_api == in_cloud, "API {in_api:?}, cloud {in_cloud:?}");
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.acknowledger.abort();
        for controller in self.controllers().drain(..) {
            controller.abort();
        }
    }
}

/// What node agents do when nothing of theirs uses an address.
async fn acknowledge(client: Client) {
    let ips = Api::<VpcIP>::all(client);
    let mut changes =
        std::pin::pin!(watcher(ips.clone(), watcher::Config::default()).default_backoff().applied_objects());
    while let Some(change) = changes.next().await {
        let Ok(ip) = change else { continue };
        let status = ip.state();
        if status.phase == IpPhase::Detaching
            && status.detached.is_none_or(|detached| detached.epoch < status.epoch)
        {
            let patch = json!({
                "metadata": { "resourceVersion": ip.resource_version(), "uid": ip.uid() },
                "status": {
                    "phase": IpPhase::Retained,
                    "detached": { "epoch": status.epoch, "at": jiff::Timestamp::now() },
                },
            });
            // A conflict means a newer object, which the watch brings.
            let _ = ips.patch_status(&ip.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        }
    }
}

type Answer = <EmbeddedApi as Service<http::Request<Body>>>::Response;

/// What a cluster's API has and the embedded one does not. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ApiQuirks(Arc<Mutex<Quirks>>);

#[derive(Debug, Default)]
struct Quirks {
    date_behind: Option<Duration>,
    /// Part of a path, and how its requests are answered.
    refused: Option<(String, Refusal)>,
}

#[derive(Clone, Copy, Debug)]
enum Refusal {
    Forbidden,
    Unavailable,
}

impl ApiQuirks {
    /// Answers have a `Date` that is so far behind.
    pub fn date_behind(&self, behind: Duration) {
        self.lock().date_behind = Some(behind);
    }

    /// Requests whose path has this in it are forbidden; `None`: none are.
    pub fn forbid(&self, part: Option<&str>) {
        self.lock().refused = part.map(|part| (part.to_owned(), Refusal::Forbidden));
    }

    /// Requests whose path has this in it are answered 503, as those of an aggregated API whose server is away.
    pub fn break_down(&self, part: Option<&str>) {
        self.lock().refused = part.map(|part| (part.to_owned(), Refusal::Unavailable));
    }

    fn date(&self) -> Option<String> {
        let date = jiff::Timestamp::now() - self.lock().date_behind?;
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()
    }

    fn refusal(&self, path: &str) -> Option<Answer> {
        let refusal = self.lock().refused.as_ref().filter(|(part, _)| path.contains(part.as_str()))?.1;
        let (code, reason) = match refusal {
            Refusal::Forbidden => (403, "Forbidden"),
            Refusal::Unavailable => (503, "ServiceUnavailable"),
        };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": "refused by the test",
        });
        let body = Full::from(status.to_string()).boxed_unsync();
        http::Response::builder().status(code).header("content-type", "application/json").body(body).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Quirks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The API as a controller sees it that is killed after so many writes.
#[derive(Clone)]
struct CutOff {
    api: EmbeddedApi,
    left: Arc<AtomicI64>,
    quirks: ApiQuirks,
}

impl Service<http::Request<Body>> for CutOff {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Cx<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Events tell people; killing the controller there shows nothing more.
        let is_write = request.method() != http::Method::GET && !request.uri().path().contains("/events");
        let left = self.left.clone();
        let (mut api, quirks) = (self.api.clone(), self.quirks.clone());
        Box::pin(async move {
            if let Some(refusal) = quirks.refusal(request.uri().path()) {
                return Ok(refusal);
            }
            if left.load(Ordering::SeqCst) <= 0 {
                return Err("cut off".into());
            }
            if is_write && left.fetch_sub(1, Ordering::SeqCst) == 1 {
                let _ = api.call(request).await;
                return Err("cut off after this write".into());
            }
            let mut answer = api.call(request).await?;
            if let Some(date) = quirks.date() {
                answer.headers_mut().insert(http::header::DATE, date.parse()?);
            }
            Ok(answer)
        })
    }
}
