//! kube-apiserver's part: it trusts the `caBundle` and nothing else, and asks for the Service's name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The name that kube-apiserver calls a Service by.
pub const HOST: &str = "eni-ipam-webhook.kube-system.svc";

/// A moment at which certificates are judged.
#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.as_second().try_into().ok()?)))
    }
}

/// Posts a body at a moment, and gives the answer's.
pub async fn post(
    address: SocketAddr,
    bundle: &[u8],
    now: Timestamp,
    path: &str,
    body: String,
) -> anyhow::Result<Value> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        roots.add(authority?)?;
    }
    let config = ClientConfig::builder_with_details(
        Arc::new(rustls::crypto::ring::default_provider()),
        Arc::new(At(now)),
    )
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST)?, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("{path}?timeout=2s"))
        .header("host", HOST)
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(code.is_success(), "{code}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).context("no JSON")
}
