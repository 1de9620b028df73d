//! The server with `deploy/` on it, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipam_lab::real_api::RealApi;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

/// The overlay whose cloud the lab has.
pub const OVERLAY: &str = "tencent";
/// Name of the webhook's configuration, and of the Secret with its certificates.
pub const WEBHOOK: &str = "eni-ipam-webhook";

/// The server, for one test.
pub struct Site {
    pub api: &'static RealApi,
    _alone: MutexGuard<'static, ()>,
}

impl Site {
    /// The server without objects of other tests.
    pub async fn clear() -> Result<Self> {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let api = RealApi::shared().await?;
        api.clear().await?;
        let site = Self { api, _alone: alone };
        // Which stands as a test has changed it.
        match site.webhook().await?.delete(WEBHOOK, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
        Ok(site)
    }

    /// As an operator has installed it, but for the webhook: the server calls it on loopback, where nothing listens.
    pub async fn installed() -> Result<Self> {
        let site = Self::clear().await?;
        site.apply(OVERLAY, &[])?;
        site.point_webhook_at(([127, 0, 0, 1], 9).into()).await?;
        Ok(site)
    }

    /// Makes the server call the webhook at an address. No kube-proxy brings it to the Service.
    pub async fn point_webhook_at(&self, address: SocketAddr) -> Result<()> {
        let configurations = self.webhook().await?;
        let target = json!({ "url": format!("https://{address}{}", ipam_agent::webhook::PATH) });
        let mut found = serde_json::to_value(configurations.get(WEBHOOK).await?)?;
        for webhook in found["webhooks"].as_array_mut().context("no webhooks")? {
            webhook["clientConfig"] = target.clone();
        }
        let changed = serde_json::from_value(found)?;
        configurations.replace(WEBHOOK, &PostParams::default(), &changed).await?;
        Ok(())
    }

    async fn webhook(&self) -> Result<Api<MutatingWebhookConfiguration>> {
        Ok(Api::all(self.api.client().await?))
    }

    /// `kubectl apply -k` of an overlay.
    pub fn apply(&self, overlay: &str, more: &[&str]) -> Result<String> {
        let folder = overlays().join(overlay).display().to_string();
        self.api.kubectl(&[&["apply", "-k", &folder], more].concat())
    }
}

/// The folder of the overlays.
pub fn overlays() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays")
}
