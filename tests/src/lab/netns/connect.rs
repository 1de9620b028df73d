//! HTTP clients whose connections start inside a namespace, while the client itself runs outside.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use anyhow::Context as _;
use http::Uri;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::net::{TcpSocket, TcpStream};
use tower::{BoxError, Service, ServiceBuilder};

use super::{Netns, enter};

/// Opens TCP connections from inside a namespace: a connector for hyper-util's client. Hosts are addresses; the
/// lab has no names.
#[derive(Clone, Debug)]
pub struct Connector(Arc<File>);

impl Connector {
    pub(super) fn new(namespace: Arc<File>) -> Self {
        Self(namespace)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let namespace = self.0.clone();
        Box::pin(async move {
            let address = address_of(&uri)?;
            // A socket belongs to the namespace it was made in; connecting may happen anywhere.
            let inside = || {
                enter(&namespace);
                TcpSocket::new_v4()
            };
            let socket = thread::scope(|s| s.spawn(inside).join())
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

fn address_of(uri: &Uri) -> io::Result<SocketAddr> {
    let bad = |what| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {what}"));
    let host: IpAddr =
        uri.host().and_then(|h| h.parse().ok()).ok_or_else(|| bad("the host is no address"))?;
    if host.is_ipv6() {
        return Err(bad("the lab has IPv4 only"));
    }
    let tls = uri.scheme_str() == Some("https");
    Ok(SocketAddr::new(host, uri.port_u16().unwrap_or(if tls { 443 } else { 80 })))
}

/// A Kubernetes client whose connections start inside a namespace. Call it within a tokio runtime.
///
/// # Errors
/// The kubeconfig cannot be read or does not make a client.
pub async fn kube_client(ns: &Netns, kubeconfig: &Path) -> anyhow::Result<Client> {
    let what = || kubeconfig.display().to_string();
    let file = Kubeconfig::read_from(kubeconfig).with_context(what)?;
    let config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(what)?;
    let https = config.rustls_https_connector_with_connector(ns.connector()).with_context(what)?;
    let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().with_context(what)?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
