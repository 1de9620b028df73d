//! How other processes get in: a bearer token, and a certificate that proves the server to them.
//!
//! The listener speaks TLS because kubectl sends no token over plain HTTP (client-go reads the credentials of a
//! kubeconfig only for `https` servers: `clientcmd/client_config.go`).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;

/// The server's side of the credentials. Kept in a file, so that kubeconfigs outlive a restart.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    token: String,
    /// Host names and IP addresses that the certificate is for.
    hosts: Vec<String>,
    certificate: String,
    key: String,
}

impl Access {
    /// New credentials for a server at these IP addresses or host names.
    ///
    /// # Errors
    /// A name that is neither; or no randomness.
    pub fn new(hosts: &[String]) -> Result<Self> {
        let mut token = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut token).context("the system gives no random bytes")?;
        let signed = rcgen::generate_simple_self_signed(hosts)
            .with_context(|| format!("no certificate can be made for {hosts:?}"))?;
        Ok(Self {
            token: hex::encode(token),
            hosts: hosts.to_vec(),
            certificate: signed.cert.pem(),
            key: signed.signing_key.serialize_pem(),
        })
    }

    /// Reads credentials, or makes and writes them (mode 0600) when there are none, or none for these hosts.
    ///
    /// # Errors
    /// Name the file. One that does not parse is not replaced.
    pub fn open(path: &Path, hosts: &[String]) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => {
                let known: Self = serde_json::from_slice(&text).with_context(|| {
                    format!(
                        "API credentials {}: do not parse; remove the file to make new ones",
                        path.display()
                    )
                })?;
                if hosts.iter().all(|host| known.hosts.contains(host)) {
                    return Ok(known);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("API credentials {}", path.display())),
        }
        let new = Self::new(hosts)?;
        write_private(path, &serde_json::to_vec_pretty(&new)?)
            .with_context(|| format!("API credentials {}: cannot be written", path.display()))?;
        Ok(new)
    }

    /// Writes a kubeconfig of mode 0600 for a server at `server`, such as `127.0.0.1:7443`. One that is there is
    /// replaced as a whole.
    ///
    /// # Errors
    /// Name the file.
    pub fn write_kubeconfig(&self, path: &Path, server: &str) -> Result<()> {
        let name = "ipam";
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": name, "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority-data": STANDARD.encode(&self.certificate),
            }}],
            "users": [{ "name": name, "user": { "token": self.token } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name, "namespace": "default" } }],
            "current-context": name,
        });
        write_private(path, &serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("kubeconfig {}: cannot be written", path.display()))
    }

    /// Whether an `Authorization` header has the token. Takes the same time wherever they differ.
    pub(super) fn allows(&self, header: Option<&http::HeaderValue>) -> bool {
        let given = header.and_then(|header| header.as_bytes().strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(self.token.as_bytes()).into())
    }

    pub(super) fn tls(&self) -> Result<ServerConfig> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .context("API credentials: field certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("API credentials: field key")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .context("API credentials: certificate and key")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("the path names no file") };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = directory.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(File::open(directory)?.sync_all()?)
}
