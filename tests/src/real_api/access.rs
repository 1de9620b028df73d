//! Credentials: those that a server of ours is started with, and kubeconfigs.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use serde_json::json;

/// What a server of ours is started with.
pub(super) struct Credentials {
    /// The certificate of the server, which is its own authority, and its key.
    pub certificate: String,
    pub key: String,
    /// What signs the tokens of service accounts, and what they are checked with.
    pub accounts_key: String,
    pub accounts_public: String,
    /// The administrator's.
    pub token: String,
}

impl Credentials {
    pub fn new() -> Result<Self> {
        let server = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let accounts = rcgen::KeyPair::generate()?;
        Ok(Self {
            certificate: server.cert.pem(),
            key: server.signing_key.serialize_pem(),
            accounts_key: accounts.serialize_pem(),
            accounts_public: accounts.public_key_pem(),
            token: hex::encode(rand::random::<[u8; 16]>()),
        })
    }

    /// The administrator's kubeconfig for the server on this port of loopback.
    pub fn kubeconfig(&self, port: u16) -> Result<Kubeconfig> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "real", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority-data": STANDARD.encode(&self.certificate),
            }}],
            "users": [{ "name": "admin", "user": { "token": self.token } }],
            "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "admin" } }],
            "current-context": "real",
        }))?)
    }
}

/// The same kubeconfig for whoever has this token.
///
/// # Errors
/// The kubeconfig has no current context.
pub fn with_token(kubeconfig: &Kubeconfig, user: &str, token: &str) -> Result<Kubeconfig> {
    let mut config = kubeconfig.clone();
    config.auth_infos = serde_json::from_value(json!([{ "name": user, "user": { "token": token } }]))?;
    let current = config.current_context.clone();
    let named = config.contexts.iter_mut().find(|context| Some(&context.name) == current.as_ref());
    let context = named.and_then(|named| named.context.as_mut()).context("kubeconfig: no current context")?;
    context.user = Some(user.to_owned());
    Ok(config)
}
