//! A controller in a process of its own, one of several: the real program, with a door of its own to the API and to
//! the cloud, so that what it asks for can be told from what the others do.

use std::convert::Infallible;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipam_agent::embedded::EmbeddedApi;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::Service;

use super::{ControlPlane, SECRET};
use crate::cloud_server::{Call, CloudServer, Serving};
use crate::cluster::{PATIENCE, eventually};
use crate::lab::patience::patient;
use crate::lab::permissions;
use crate::lab::process::binary;
use crate::scrape;

/// A request that came to a door.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
}

/// What a door answers by itself, where it does: status code and body.
pub type Script = Arc<dyn Fn(&Method, &Uri) -> Option<(StatusCode, Value)> + Send + Sync>;

/// How a replica differs from the usual one.
#[derive(Clone, Default)]
pub struct Difference {
    /// More arguments.
    pub args: Vec<String>,
    /// Variables of its environment.
    pub env: Vec<(&'static str, &'static str)>,
    /// What its door answers in place of the API.
    pub script: Option<Script>,
}

/// A way to the API for one process.
struct Door {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Door {
    async fn to(api: &EmbeddedApi, script: Option<Script>) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (asked, open) = (Arc::<Mutex<Vec<Asked>>>::default(), watch::Sender::new(true));
        let (api, recorded, opened) = (api.clone(), asked.clone(), open.subscribe());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (api, recorded, opened) = (api.clone(), recorded.clone(), opened.clone());
                let script = script.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (mut api, recorded, mut opened) = (api.clone(), recorded.clone(), opened.clone());
                        let scripted =
                            script.as_ref().and_then(|script| script(request.method(), request.uri()));
                        async move {
                            let (method, path) = (request.method().clone(), request.uri().to_string());
                            let asked = Asked { at: Instant::now(), method, path };
                            recorded.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
                            let _ = opened.wait_for(|open| *open).await;
                            if let Some((code, body)) = scripted {
                                let mut answer = Response::new(Either::Right(Full::from(body.to_string())));
                                *answer.status_mut() = code;
                                return Ok::<_, Infallible>(answer);
                            }
                            Ok(api.call(request).await?.map(Either::Left))
                        }
                    });
                    // An error here is a process that went.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { port, asked, open, accepting })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A controller that runs beside others.
pub struct Replica {
    name: String,
    child: Child,
    log: PathBuf,
    door: Door,
    cloud: CloudServer,
    cloud_port: u16,
    told_at: SocketAddr,
    _serving: Serving,
}

impl ControlPlane {
    /// Starts a controller that takes part in the election. Its files are in `dir`.
    ///
    /// # Errors
    /// It is not built, or cannot be started.
    pub async fn replica(&self, dir: &Path, name: &str, different: Difference) -> anyhow::Result<Replica> {
        let door = Door::to(&self.api, different.script).await?;
        let kubeconfig = dir.join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://127.0.0.1:{}", door.port) } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let cloud_port = listener.local_addr()?.port();
        // Given back at once: the port is this controller's then, if nobody else comes first.
        let told_at = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = Command::new(binary("ipam-agent")?)
            .args(["controller", "--leader-elect"])
            .arg(format!("--metrics-address={told_at}"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--provider=tencent", "--tencent-region=lab", "--tencent-vpc=vpc-lab"])
            .args(["--tencent-subnets=subnet-a", "--tencent-settle=50ms", "--tencent-poll=10ms"])
            .arg(format!("--tencent-endpoint=http://127.0.0.1:{cloud_port}"))
            .arg("--cooldown=200ms")
            .args(different.args)
            .envs(different.env)
            // What is logged by default, and the permissions that are used.
            .env("IPAM_LOG", "info,kube_runtime::watcher=off,ipam_agent::client=debug")
            .env("TENCENTCLOUD_SECRET_ID", SECRET.0)
            .env("TENCENTCLOUD_SECRET_KEY", SECRET.1)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        let serving = self.cloud.serve(listener)?;
        let (name, cloud) = (name.to_owned(), self.cloud.clone());
        Ok(Replica { name, child, log, door, cloud, cloud_port, told_at, _serving: serving })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        permissions::keep(&self.log());
    }
}

impl Replica {
    /// Waits until it leads.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn wait_until_leading(&self) -> anyhow::Result<()> {
        let leads = eventually(&format!("{} to lead", self.name), async || self.leads()).await;
        leads.with_context(|| self.log())
    }

    /// Whether it has ever led.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.log().contains("this controller leads")
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its writes to the API in order, those of the lease left out.
    #[must_use]
    pub fn writes(&self) -> Vec<Asked> {
        self.asked(|asked| asked.method != Method::GET && !asked.path.contains("/leases"))
    }

    /// Its writes of the lease.
    #[must_use]
    pub fn lease_writes(&self) -> Vec<Asked> {
        self.asked(|asked| asked.method != Method::GET && asked.path.contains("/leases"))
    }

    fn asked(&self, wanted: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let asked = self.door.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|asked| wanted(asked)).cloned().collect()
    }

    /// Its calls of the cloud in order.
    #[must_use]
    pub fn cloud_calls(&self) -> Vec<Call> {
        self.cloud.calls().into_iter().filter(|call| call.port == self.cloud_port).collect()
    }

    /// Its answer to a request such as `/healthz`: status code and body. `None`: it does not listen.
    pub async fn tells(&self, path: &str) -> Option<(u16, String)> {
        let (address, path) = (self.told_at, path.to_owned());
        let asked = tokio::task::spawn_blocking(move || scrape::get(TcpStream::connect(address)?, &path));
        let (code, _, body) = asked.await.ok()?.ok()?;
        Some((code, body))
    }

    /// Nothing of the API gets through to it any more, and nothing of it to the API; the cloud stays in reach.
    pub fn cut_off(&self) {
        self.door.open.send_replace(false);
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        Ok(kill_process(pid.context("the controller has ended")?, signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after the [`PATIENCE`].
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let limit: Duration = patient(PATIENCE);
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} still runs after {limit:?}\n{}", self.name, self.log()))??)
    }
}
