//! The admission webhook: pods are told to the scheduler, and whoever writes a workload is told of what its addresses
//! cannot do.
//!
//! Every replica of the controller serves it, the leader or not: it only reads. kube-apiserver goes on without it
//! (`failurePolicy: Ignore`), and so does the product: what the webhook adds makes the scheduler choose well, and a pod
//! that was placed badly waits with a reason.
//!
//! A pod that needs an address asks for one [`RESOURCE`](crate::api::scheduling::RESOURCE). If the address can only be in
//! some zones (its claim keeps it, or the pod nominates it or its subnet), the pod must go there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cloud::EniProvider;
use crate::https;
use crate::ipam::family::Families;

mod affinity;
pub mod certificates;
mod places;
mod pod;
mod review;
mod workload;

use certificates::{CertificateConfig, Serving};
use places::Places;
use review::Reviewer;

/// Path that reviews are posted to.
pub const PATH: &str = "/admit";

/// Pause after the address could not be had.
const PAUSE: Duration = Duration::from_secs(2);

/// How the webhook behaves.
#[derive(Clone)]
pub struct WebhookConfig {
    /// Where to listen.
    pub listen: std::net::SocketAddr,
    /// Its certificates.
    pub certificates: CertificateConfig,
    /// The families of which every pod has an address.
    pub families: Families,
}

/// Serves until `stop`. An address that cannot be had is tried again: pods do not wait for the webhook.
///
/// # Errors
/// TLS cannot be set up.
pub async fn run(
    client: Client,
    provider: Arc<dyn EniProvider>,
    config: WebhookConfig,
    stop: CancellationToken,
) -> Result<()> {
    match bind(config.listen, &stop).await {
        Some(listener) => serve(client, provider, config, listener, stop).await,
        None => Ok(()),
    }
}

/// Serves on a listener until `stop`.
///
/// # Errors
/// TLS cannot be set up.
pub async fn serve(
    client: Client,
    provider: Arc<dyn EniProvider>,
    config: WebhookConfig,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<()> {
    let serving = Arc::new(Serving::default());
    let tls = Arc::new(tls(serving.clone())?);
    let keep_certificates = certificates::keep(client.clone(), config.certificates, serving);
    let (places, keep_places) = Places::new(client, provider);
    let reviewer = Reviewer { places, families: config.families };
    info!(address = %config.listen, "webhook is served");
    tokio::select! {
        () = https::serve("webhook", listener, tls, move |request| reviewer.clone().answer(request), stop) => {}
        () = keep_certificates => {}
        () = keep_places => {}
    }
    Ok(())
}

async fn bind(address: std::net::SocketAddr, stop: &CancellationToken) -> Option<TcpListener> {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) if !told => {
                warn!(%error, "--webhook-listen {address}: cannot listen there; trying on")
            }
            Err(_) => {}
        }
        told = true;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return None,
        }
    }
}

fn tls(serving: Arc<Serving>) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS of the webhook")?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
