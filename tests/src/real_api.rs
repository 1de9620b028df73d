//! A real kube-apiserver, for what only one can say. The environment names it, or there is none:
//!
//! * `KUBEBUILDER_ASSETS`: a folder with `etcd` and `kube-apiserver`. Both are started on loopback for this process,
//!   and end with it.
//! * `KUBECONFIG`: a server that runs. The tests write to it and clear it of our objects, so it must have no nodes but
//!   theirs.
//!
//! What needs one is `#[ignore]`d, so that it counts as "not run" without; `cargo xtask test` runs it when one is named.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use ipam_agent::api::{NodeENIConfig, VpcIP, VpcIPClaim};

use crate::lab::patience::patient;

mod access;
mod relay;
mod servers;

pub use access::with_token;
pub use relay::{Relay, through};

/// Folder of the binaries.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Kubeconfig of a server that runs.
pub const KUBECONFIG: &str = "KUBECONFIG";
/// Label of the nodes and namespaces that the tests make.
pub const OURS: &str = "eni-ipam.dev/test";
/// How long a server may take to be ready.
const STARTUP: Duration = Duration::from_secs(60);

/// A server that is ready and has our custom resources.
#[derive(Debug)]
pub struct RealApi {
    file: PathBuf,
    kubeconfig: Kubeconfig,
    version: String,
}

impl RealApi {
    /// The server of this process, the same for all of its tests.
    ///
    /// # Errors
    /// The environment names none, or it does not come up.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<RealApi> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::open).await
    }

    async fn open() -> Result<Self> {
        let file = match (named(ASSETS), named(KUBECONFIG)) {
            (Some(assets), _) => tokio::task::spawn_blocking(move || servers::start(&assets)).await??,
            (None, Some(file)) => file,
            (None, None) => bail!(
                "no kube-apiserver is named: set {ASSETS} to a folder with etcd and kube-apiserver, or {KUBECONFIG}"
            ),
        };
        let kubeconfig = Kubeconfig::read_from(&file).with_context(|| file.display().to_string())?;
        let client = client_of(&kubeconfig).await?;
        let version = wait_ready(&client).await?;
        let api = Self { file, kubeconfig, version };
        api.refuse_foreign_nodes(&client).await?;
        api.define(&ipam_agent::crds::definitions()).await?;
        println!("kube-apiserver {}", api.version);
        Ok(api)
    }

    /// The server's version, such as `v1.33.1`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What an administrator gets in with.
    #[must_use]
    pub fn kubeconfig(&self) -> &Kubeconfig {
        &self.kubeconfig
    }

    /// Runs kubectl as the administrator, and answers what it prints.
    ///
    /// # Errors
    /// It is not installed, or fails: with what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = Command::new("kubectl").env(KUBECONFIG, &self.file).args(args).output();
        let output = output.context("kubectl: not installed? cargo xtask setup")?;
        let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        ensure!(output.status.success(), "kubectl {args:?}: {text}{errors}");
        Ok(format!("{text}{errors}"))
    }

    /// A client of the administrator. It belongs to the tokio runtime of the caller.
    ///
    /// # Errors
    /// The kubeconfig makes no client.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig).await
    }

    /// Applies custom resource definitions and waits until they are served.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn define(&self, definitions: &[CustomResourceDefinition]) -> Result<()> {
        let client = self.client().await?;
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        for definition in definitions {
            let name = definition.name_any();
            let apply = PatchParams::apply("ipam-test").force();
            api.patch(&name, &apply, &Patch::Apply(definition))
                .await
                .with_context(|| format!("CRD {name}"))?;
            let wait = await_condition(api.clone(), &name, conditions::is_crd_established());
            timeout(patient(STARTUP), wait).await.with_context(|| format!("CRD {name}"))??;
            // Established is said a moment before the paths are there.
            let spec = &definition.spec;
            let path =
                format!("/apis/{}/{}/{}?limit=1", spec.group, spec.versions[0].name, spec.names.plural);
            let start = Instant::now();
            while let Err(error) = client.request_text(http::Request::get(&path).body(Vec::new())?).await {
                ensure!(start.elapsed() < patient(STARTUP), "{name} is not served: {error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Takes away what tests have left: our objects, nodes and pods of ours.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn clear(&self) -> Result<()> {
        let client = self.client().await?;
        let now = DeleteParams::default().grace_period(0);
        let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
        for pod in pods {
            let namespace = pod.namespace().unwrap_or_default();
            let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
            gone(pods.delete(&pod.name_any(), &now).await)?;
        }
        for claim in Api::<VpcIPClaim>::all(client.clone()).list(&ListParams::default()).await? {
            let claims =
                Api::<VpcIPClaim>::namespaced(client.clone(), &claim.namespace().unwrap_or_default());
            release(&claims, &claim.name_any()).await?;
        }
        for ip in Api::<VpcIP>::all(client.clone()).list(&ListParams::default()).await? {
            release(&Api::<VpcIP>::all(client.clone()), &ip.name_any()).await?;
        }
        for config in Api::<NodeENIConfig>::all(client.clone()).list(&ListParams::default()).await? {
            release(&Api::<NodeENIConfig>::all(client.clone()), &config.name_any()).await?;
        }
        let ours = ListParams::default().labels(OURS);
        Api::<Node>::all(client.clone()).delete_collection(&now, &ours).await?;
        for namespace in Api::<Namespace>::all(client.clone()).list(&ours).await? {
            gone(Api::<Namespace>::all(client.clone()).delete(&namespace.name_any(), &now).await)?;
        }
        Ok(())
    }

    async fn refuse_foreign_nodes(&self, client: &Client) -> Result<()> {
        let foreign = ListParams::default().labels(&format!("!{OURS}")).limit(1);
        let nodes = Api::<Node>::all(client.clone()).list(&foreign).await?;
        ensure!(
            nodes.items.is_empty(),
            "{KUBECONFIG} names a cluster in use, it has the node {}: the tests delete pods and addresses, so give \
             them a kube-apiserver of their own",
            nodes.items[0].name_any()
        );
        Ok(())
    }
}

/// Writes a kubeconfig to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_kubeconfig(kubeconfig: &Kubeconfig, file: &Path) -> Result<()> {
    std::fs::write(file, serde_json::to_vec_pretty(kubeconfig)?).with_context(|| file.display().to_string())
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

async fn client_of(kubeconfig: &Kubeconfig) -> Result<Client> {
    let options = KubeConfigOptions::default();
    Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await?)?)
}

/// Waits until the server says that it is ready; answers its version.
async fn wait_ready(client: &Client) -> Result<String> {
    let limit = patient(STARTUP);
    let start = Instant::now();
    loop {
        let ready = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await;
        match ready {
            Ok(_) => return Ok(client.apiserver_version().await?.git_version),
            Err(error) if start.elapsed() > limit => {
                return Err(error).context(format!("kube-apiserver is not ready after {limit:?}"));
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Deletes an object that nothing may hold any more.
async fn release<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    gone(api.patch(name, &PatchParams::default(), &free).await)?;
    gone(api.delete(name, &DeleteParams::default()).await)
}

/// What is not there any more need not be taken away.
fn gone<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}
