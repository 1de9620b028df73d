//! The webhook's certificates: made by whichever replica is first, kept in one Secret, rotated before they expire, taken
//! over without a restart. And the `caBundle` by which kube-apiserver trusts them, put back when it is not there.
//!
//! Every replica does all of this. Each write carries the resourceVersion that it was decided on, so of two that race one
//! starts again and finds the work done.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::select;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{info, warn};

mod bundle;
mod rotation;

use bundle::Bundle;
pub use rotation::{AUTHORITY_LIFE, OVERLAP, SERVING_LIFE};
use rotation::{Step, next_step};

/// Pause after an attempt that failed.
const RETRY: Duration = Duration::from_secs(2);

/// The time, as certificates know it. Tests move it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the certificates are for, and where they are kept.
#[derive(Clone)]
pub struct CertificateConfig {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret; it has to be there, its data need not.
    pub secret: String,
    /// Name of the `MutatingWebhookConfiguration` whose `caBundle`s are kept.
    pub configuration: String,
    /// Names and addresses by which kube-apiserver calls the webhook.
    pub hosts: BTreeSet<String>,
    /// The time.
    pub clock: Clock,
    /// The longest time between two looks at the clock.
    pub look: Duration,
}

/// The serving certificate of this moment: what a TLS server asks at each handshake.
#[derive(Default)]
pub struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl Serving {
    fn set(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(key);
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Keeps certificates and `caBundle` for as long as it runs, and tells `serving` of each new certificate.
pub async fn keep(client: Client, config: CertificateConfig, serving: Arc<Serving>) {
    let keeper = Keeper {
        secrets: Api::namespaced(client.clone(), &config.namespace),
        configurations: Api::all(client),
        config,
        serving,
    };
    let changes = select(
        changes(keeper.secrets.clone(), &keeper.config.secret),
        changes(keeper.configurations.clone(), &keeper.config.configuration),
    );
    let mut changes = std::pin::pin!(changes);
    let (mut wait, mut told) = (Duration::ZERO, String::new());
    loop {
        tokio::select! {
            _ = changes.next() => {}
            () = tokio::time::sleep(wait) => {}
        }
        wait = match keeper.tend().await {
            Ok(rest) => {
                told.clear();
                rest.min(keeper.config.look)
            }
            Err(error) if is_conflict(&error) => Duration::ZERO,
            Err(error) => {
                let problem = format!("{error:#}");
                if problem != told {
                    warn!("webhook certificates: {problem}; trying on");
                    told = problem;
                }
                RETRY
            }
        };
    }
}

/// That something has happened to the object of this name.
fn changes<K>(api: Api<K>, name: &str) -> impl Stream<Item = ()> + use<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, config).default_backoff().map(|_| ())
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}

struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    config: CertificateConfig,
    serving: Arc<Serving>,
}

impl Keeper {
    /// Brings everything in order, and says how long it is so.
    async fn tend(&self) -> Result<Duration> {
        let (bundle, until) = loop {
            let secret = self.secret().await?;
            let now = (self.config.clock)();
            let (bundle, step) = self.next(&secret, now)?;
            match (bundle, step) {
                (Some(bundle), Step::Rest(until)) => {
                    break (bundle, Duration::try_from(until.duration_since(now)).unwrap_or_default());
                }
                (bundle, step) => self.take(step, bundle, secret, now).await?,
            }
        };
        // Trusted before it is served.
        self.trust(&bundle).await?;
        self.serving.set(bundle.tls()?);
        Ok(until)
    }

    async fn secret(&self) -> Result<Secret> {
        let CertificateConfig { namespace, secret, .. } = &self.config;
        self.secrets.get_opt(secret).await?.with_context(|| {
            format!("there is no Secret {namespace}/{secret}; apply the manifests again, where it stands without data")
        })
    }

    /// What the Secret holds, and what to do. What does not parse is replaced.
    fn next(&self, secret: &Secret, now: Timestamp) -> Result<(Option<Bundle>, Step)> {
        let data = secret.data.clone().unwrap_or_default();
        let bundle = Bundle::read(&data).unwrap_or_else(|error| {
            warn!("webhook certificates: Secret {}: {error:#}; making new ones", secret.name_any());
            None
        });
        let step = match &bundle {
            Some(bundle) => next_step(&bundle.held(&self.config.hosts)?, now),
            None => Step::Begin,
        };
        Ok((bundle, step))
    }

    async fn take(
        &self,
        step: Step,
        bundle: Option<Bundle>,
        mut secret: Secret,
        now: Timestamp,
    ) -> Result<()> {
        // Replicas of two versions may be called by different names: the certificate is for those of both.
        let mut hosts = self.config.hosts.clone();
        hosts.extend(bundle.as_ref().and_then(|bundle| bundle.hosts().ok()).unwrap_or_default());
        let bundle = match (step, bundle) {
            (Step::AddAuthority, Some(bundle)) => bundle.add_authority(now)?,
            (Step::Reissue, Some(bundle)) => bundle.reissue(&hosts, now)?,
            (Step::ForgetOld, Some(bundle)) => bundle.forget_old(),
            _ => Bundle::begin(&hosts, now)?,
        };
        secret.data = Some(bundle.data());
        self.secrets.replace(&secret.name_any(), &PostParams::default(), &secret).await?;
        info!(?step, "webhook certificates");
        Ok(())
    }

    /// Puts the authorities into every `caBundle` that has others.
    async fn trust(&self, bundle: &Bundle) -> Result<()> {
        let name = &self.config.configuration;
        let Some(found) = self.configurations.get_opt(name).await? else {
            bail!("there is no MutatingWebhookConfiguration {name}; apply the manifests again");
        };
        let wanted = ByteString(bundle.trusted().into_bytes());
        let mut operations = vec![json!({
            "op": "test", "path": "/metadata/resourceVersion", "value": found.resource_version(),
        })];
        for (at, webhook) in found.webhooks.iter().flatten().enumerate() {
            if webhook.client_config.ca_bundle.as_ref() != Some(&wanted) {
                let path = format!("/webhooks/{at}/clientConfig/caBundle");
                operations.push(json!({ "op": "add", "path": path, "value": wanted }));
            }
        }
        if operations.len() > 1 {
            let patch = serde_json::from_value(json!(operations))?;
            self.configurations.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
            info!(configuration = name, "caBundle written");
        }
        Ok(())
    }
}
