//! An API, the objects of `deploy/base/webhook.yaml` in it, a clock to move, and replicas of the webhook.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context;
use ipam_agent::cloud::fixed::Fixed;
use ipam_agent::embedded::EmbeddedApi;
use ipam_agent::ipam::family::Families;
use ipam_agent::webhook::certificates::CertificateConfig;
use ipam_agent::webhook::{self, WebhookConfig};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::caller::{self, HOST};

/// Name of Secret and configuration.
pub const NAME: &str = "eni-ipam-webhook";

/// Two zones.
const ENIS: &str = include_str!("enis.toml");

pub struct Site {
    pub client: Client,
    /// Unix seconds.
    clock: Arc<AtomicI64>,
    stop: CancellationToken,
    _dir: TempDir,
}

impl Site {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = EmbeddedApi::open(&dir.path().join("api.redb")).unwrap().client();
        let clock = Arc::new(AtomicI64::new(Timestamp::now().as_second()));
        let site = Self { client, clock, stop: CancellationToken::new(), _dir: dir };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/webhook.yaml");
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&std::fs::read_to_string(file).unwrap()).unwrap();
        for object in objects {
            let created = PostParams::default();
            match object["kind"].as_str().unwrap() {
                "Secret" => {
                    let secret = serde_json::from_value(object).unwrap();
                    drop(site.secrets().create(&created, &secret).await.unwrap());
                }
                "MutatingWebhookConfiguration" => {
                    let configuration = serde_json::from_value(object).unwrap();
                    drop(site.configurations().create(&created, &configuration).await.unwrap());
                }
                _ => {}
            }
        }
        site
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), "kube-system")
    }

    pub fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    /// The time of all replicas and callers.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock.load(Ordering::SeqCst)).unwrap()
    }

    pub fn wait(&self, time: Duration) {
        self.clock.fetch_add(i64::try_from(time.as_secs()).unwrap(), Ordering::SeqCst);
    }

    /// Starts another replica.
    pub async fn replica(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let clock = self.clock.clone();
        let config = WebhookConfig {
            listen,
            certificates: CertificateConfig {
                namespace: "kube-system".into(),
                secret: NAME.into(),
                configuration: NAME.into(),
                hosts: [HOST.to_owned()].into(),
                clock: Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap()),
                look: Duration::from_millis(20),
            },
            families: Families::ipv4(),
        };
        let provider = Arc::new(Fixed::parse("enis.toml", ENIS).unwrap());
        tokio::spawn(webhook::serve(self.client.clone(), provider, config, listener, self.stop.clone()));
        listen
    }

    /// What kube-apiserver trusts for the first webhook; it has to be the same for all.
    pub async fn bundle(&self) -> Option<Vec<u8>> {
        let configuration = self.configurations().get(NAME).await.unwrap();
        let mut bundles = configuration.webhooks.unwrap().into_iter().map(|it| it.client_config.ca_bundle);
        let first = bundles.next().unwrap();
        bundles.all(|other| other == first).then(|| Some(first?.0))?
    }

    /// Asks one replica, trusting what the configuration says.
    pub async fn ask(&self, replica: SocketAddr, review: &Value) -> anyhow::Result<Value> {
        let bundle = self.bundle().await.context("no caBundle")?;
        caller::post(replica, &bundle, self.now(), webhook::PATH, review.to_string()).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits for something that comes soon.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(error) if start.elapsed() > Duration::from_secs(60) => panic!("{what}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
