//! Temporary credentials: STS's AssumeRoleWithWebIdentity, and a machine's role by its metadata service (IMDSv2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, request::Parts};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{CloudServer, error::ApiError};
use super::{auth::Key, xml};

const STS: &str = "AssumeRoleWithWebIdentity";
const METADATA: &str = "/latest/";

/// Roles, and what was handed out for them.
#[derive(Debug, Default)]
pub struct Roles(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// The role that a web identity has: its ARN and its token.
    web_identity: Option<(String, String)>,
    /// The name of the machine's role.
    machine: Option<String>,
    /// How long credentials last.
    last: Duration,
    metadata_tokens: BTreeSet<String>,
    keys: BTreeMap<String, Key>,
    denied: BTreeSet<String>,
}

impl Roles {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever has this token may have this role, for so long at a time.
    pub fn trust_web_identity(&self, arn: &str, token: &str, last: Duration) {
        let mut inside = self.inside();
        (inside.web_identity, inside.last) = (Some((arn.into(), token.into())), last);
    }

    /// The machine has this role, for so long at a time.
    pub fn give_machine(&self, role: &str, last: Duration) {
        let mut inside = self.inside();
        (inside.machine, inside.last) = (Some(role.into()), last);
    }

    /// Nobody may do this any more.
    pub fn deny(&self, action: &str) {
        self.inside().denied.insert(action.into());
    }

    /// Everybody may do this again.
    pub fn allow(&self, action: &str) {
        self.inside().denied.remove(action);
    }

    pub(super) fn denies(&self, action: &str) -> bool {
        self.inside().denied.contains(action)
    }

    /// How many credentials were handed out.
    #[must_use]
    pub fn handed_out(&self) -> usize {
        self.inside().keys.len()
    }

    fn hand_out(&self) -> (String, Key) {
        let mut inside = self.inside();
        let id = format!("ASIALAB{:05}", inside.keys.len());
        let key = Key {
            secret: Uuid::new_v4().to_string(),
            token: Some(Uuid::new_v4().to_string()),
            ends: Some(Timestamp::now() + inside.last),
        };
        inside.keys.insert(id.clone(), key.clone());
        (id, key)
    }
}

/// Whether it is for these and not for EC2.
pub fn is_for(action: &str) -> bool {
    action == STS || action.starts_with(METADATA)
}

impl CloudServer {
    /// The roles of the cloud's other door.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.inner.roles
    }

    /// The key of this id.
    pub(super) fn key(&self, id: &str) -> Option<Key> {
        let (known, secret) = self.state().vpc.config.secret.clone();
        if known == id {
            return Some(Key { secret, token: None, ends: None });
        }
        self.inner.roles.inside().keys.get(id).cloned()
    }

    pub(super) fn role(&self, head: &Parts, action: &str, params: &Value) -> Result<String, ApiError> {
        if action == STS { self.assume(params) } else { self.metadata(head, action) }
    }

    fn assume(&self, params: &Value) -> Result<String, ApiError> {
        let roles = &self.inner.roles;
        let (arn, token) = roles.inside().web_identity.clone().unwrap_or_default();
        if params["Version"] != "2011-06-15" || params["RoleSessionName"].as_str().is_none_or(str::is_empty) {
            return Err(ApiError::new("MissingParameter", "Version and RoleSessionName are needed"));
        }
        if arn.is_empty() || params["RoleArn"] != arn.as_str() {
            let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
            return Err(ApiError::new("AccessDenied", message));
        }
        if params["WebIdentityToken"] != token.as_str() {
            return Err(ApiError::new("InvalidIdentityToken", "the token is not of the role's issuer"));
        }
        let (id, key) = roles.hand_out();
        let credentials = xml::element("AccessKeyId", id)
            + &xml::element("SecretAccessKey", key.secret)
            + &xml::element("SessionToken", key.token.unwrap_or_default())
            + &xml::element("Expiration", key.ends.unwrap_or_default());
        let result = xml::node(&format!("{STS}Result"), &xml::node("Credentials", &credentials));
        Ok(xml::node(&format!("{STS}Response"), &result))
    }

    fn metadata(&self, head: &Parts, path: &str) -> Result<String, ApiError> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let roles = &self.inner.roles;
        let header = |name: &str, headers: &HeaderMap| {
            headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        if path == "/latest/api/token" {
            if head.method != Method::PUT
                || header("x-aws-ec2-metadata-token-ttl-seconds", &head.headers).is_none()
            {
                return Err(ApiError::new("BadRequest", "PUT, and a time to live"));
            }
            let token = Uuid::new_v4().to_string();
            roles.inside().metadata_tokens.insert(token.clone());
            return Ok(token);
        }
        let token = header("x-aws-ec2-metadata-token", &head.headers).unwrap_or_default();
        if !roles.inside().metadata_tokens.contains(&token) {
            return Err(ApiError::new("AuthFailure", "no token: this is version 2"));
        }
        let role = roles.inside().machine.clone();
        match (path.strip_prefix(ROLES), role) {
            (Some(""), Some(role)) => Ok(role),
            (Some(name), Some(role)) if name == role => {
                let (id, key) = roles.hand_out();
                Ok(json!({
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": id,
                    "SecretAccessKey": key.secret,
                    "Token": key.token,
                    "Expiration": key.ends.map(|ends| ends.to_string()),
                })
                .to_string())
            }
            _ => Err(ApiError::new("NotFound", "there is nothing here")),
        }
    }
}
