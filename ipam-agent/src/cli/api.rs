//! Which Kubernetes API this process speaks to: a cluster's, or its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;

use crate::embedded::{Access, EmbeddedApi};

/// What runs as long as the API is used.
pub type Serving = BoxFuture<'static, anyhow::Result<()>>;

/// A cluster's API, or an embedded one.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// Kubeconfig of the API; without it, the service account of the pod this runs in.
    #[arg(long, env = "KUBECONFIG", conflicts_with = "embedded_file")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    embedded: OptionalEmbeddedArgs,
}

/// An embedded API, if asked for.
#[derive(Debug, Args)]
struct OptionalEmbeddedArgs {
    /// Use an API of this process's own, kept in this file.
    #[arg(long = "embedded", id = "embedded_file", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
}

/// An embedded API.
#[derive(Debug, Args)]
pub struct EmbeddedArgs {
    /// File that the API's objects are kept in.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/eni-ipam/api.redb")]
    api_file: PathBuf,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Serving an embedded API to kubectl.
#[derive(Debug, Args)]
struct ListenArgs {
    /// Serve the embedded API here, such as 127.0.0.1:6443, by TLS with a bearer token.
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_listen: Option<SocketAddr>,
    /// Where to write the kubeconfig (mode 0600) with address, token and certificate.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/eni-ipam/kubeconfig")]
    api_kubeconfig: PathBuf,
    /// Serve on an address that is not loopback: whoever has the kubeconfig can reach it over the network.
    #[arg(long)]
    api_allow_remote: bool,
}

impl ApiArgs {
    /// Connects, and serves if this process has the API.
    pub async fn connect(&self, stop: &CancellationToken) -> anyhow::Result<(Client, Serving)> {
        if let Some(file) = &self.embedded.file {
            return open(file, &self.embedded.listen, stop).await;
        }
        let config = match &self.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file)
                    .with_context(|| format!("--kubeconfig {}", file.display()))?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
            }
            None => kube::Config::incluster()
                .context("no --kubeconfig, no --embedded, and this is no pod with a service account")?,
        };
        Ok((Client::try_from(config)?, stop.clone().cancelled_owned().map(Ok).boxed()))
    }
}

impl EmbeddedArgs {
    /// Opens the API, and serves it if asked to.
    pub async fn connect(&self, stop: &CancellationToken) -> anyhow::Result<(Client, Serving)> {
        open(&self.api_file, &self.listen, stop).await
    }
}

async fn open(
    file: &std::path::Path,
    listen: &ListenArgs,
    stop: &CancellationToken,
) -> anyhow::Result<(Client, Serving)> {
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let api = EmbeddedApi::open(file)?;
    let client = api.client();
    let failing = api.clone();
    let failed = async move { Err(failing.failed().await) };
    let Some(address) = listen.api_listen else {
        return Ok((client, until(failed, stop.clone().cancelled_owned().map(Ok)).boxed()));
    };
    if !address.ip().is_loopback() && !listen.api_allow_remote {
        bail!(
            "--api-listen {address}: not a loopback address; add --api-allow-remote on a network you trust"
        );
    }
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("--api-listen {address}"))?;
    // Beside the objects, so that kubeconfigs outlive a restart as they do.
    let access = Access::open(&file.with_extension("access"), &[address.ip().to_string()])?;
    access.write_kubeconfig(&listen.api_kubeconfig, &listener.local_addr()?.to_string())?;
    let stopped = stop.clone().cancelled_owned();
    let served = async move { api.serve(listener, &access, stopped).await };
    Ok((client, until(failed, served).boxed()))
}

/// What comes first.
async fn until(
    failed: impl Future<Output = anyhow::Result<()>>,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! { failed = failed => failed, worked = work => worked }
}
