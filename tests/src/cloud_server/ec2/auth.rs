//! Checks AWS4-HMAC-SHA256 signatures. Written from the published description alone
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).

use http::{HeaderMap, header, request::Parts};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::super::{auth::hmac, error::ApiError};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the client's clock may be off, in seconds.
const SKEW: i64 = 300;

/// A key that may sign.
#[derive(Clone, Debug)]
pub struct Key {
    /// Signs.
    pub secret: String,
    /// Must come with the request when the key is a temporary one.
    pub token: Option<String>,
    /// When it ends.
    pub ends: Option<Timestamp>,
}

/// Checks the signature of a request for EC2; `key` finds a key by its id.
///
/// # Errors
/// The API's code for what is wrong.
pub fn verify(
    head: &Parts,
    body: &[u8],
    region: &str,
    now: Timestamp,
    key: impl FnOnce(&str) -> Option<Key>,
) -> Result<(), ApiError> {
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let malformed = |what: &str| ApiError::new("IncompleteSignature", what);
    let failure = |what: &str| ApiError::new("SignatureDoesNotMatch", what);

    let Some(authorization) = text(header::AUTHORIZATION.as_str()) else {
        return Err(ApiError::new("MissingAuthenticationToken", "the request is not signed"));
    };
    let fields =
        authorization.strip_prefix(ALGORITHM).ok_or_else(|| malformed("the algorithm is another one"))?;
    let field = |name: &str| {
        let mut found = fields.split(',').filter_map(|f| f.trim().strip_prefix(name)?.strip_prefix('='));
        found.next().ok_or_else(|| malformed(&format!("there is no {name}")))
    };
    let (credential, signed, signature) =
        (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let stamp = text("x-amz-date").ok_or_else(|| malformed("there is no X-Amz-Date"))?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", stamp)
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
        .map_err(|_| malformed("X-Amz-Date is no time"))?
        .timestamp();
    if (time.as_second() - now.as_second()).abs() > SKEW {
        return Err(ApiError::new("RequestExpired", "Request has expired."));
    }
    let [id, date, of_region, "ec2", "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(malformed("Credential is not id/date/region/ec2/aws4_request"));
    };
    let Some(key) = key(id) else {
        let message = "AWS was not able to validate the provided access credentials";
        return Err(ApiError::new("AuthFailure", message));
    };
    if date != &stamp[..8] {
        return Err(failure("the date of Credential is not that of X-Amz-Date"));
    }
    if of_region != region {
        return Err(ApiError::new("AuthFailure", format!("Credential should be scoped to {region}")));
    }
    if key.token.as_deref() != text("x-amz-security-token") {
        return Err(ApiError::new("AuthFailure", "the session token is not that of the key"));
    }
    if key.ends.is_some_and(|ends| ends <= now) {
        return Err(ApiError::new("RequestExpired", "the session has ended"));
    }
    let names: Vec<&str> = signed.split(';').collect();
    let must = |name: &str| name == "host" || name.starts_with("x-amz-");
    let unsigned = head.headers.keys().find(|name| must(name.as_str()) && !names.contains(&name.as_str()));
    if let Some(name) = unsigned {
        return Err(failure(&format!("{name} must be signed")));
    }
    if !names.is_sorted() || !names.contains(&"host") {
        return Err(failure("SignedHeaders must have host, and be sorted"));
    }
    let lines = canonical(&head.headers, &names).ok_or_else(|| failure("a signed header is not there"))?;
    let hash = hex::encode(Sha256::digest(body));
    if text("x-amz-content-sha256").is_some_and(|said| said != hash) {
        return Err(failure("X-Amz-Content-Sha256 is not that of the body"));
    }
    let scope = (date, region, "ec2");
    if signature_of(head.method.as_str(), &lines, signed, &hash, stamp, scope, &key.secret) == signature {
        Ok(())
    } else {
        Err(failure("The request signature we calculated does not match the signature you provided."))
    }
}

fn canonical(headers: &HeaderMap, names: &[&str]) -> Option<String> {
    let mut lines = String::new();
    for name in names {
        let value = headers.get(*name)?.to_str().ok()?;
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        lines += &format!("{name}:{value}\n");
    }
    Some(lines)
}

/// The signature of a request for `/` without a query: `lines` are the canonical headers, `signed` their names.
#[must_use]
pub fn signature_of(
    method: &str,
    lines: &str,
    signed: &str,
    body_hash: &str,
    stamp: &str,
    (date, region, service): (&str, &str, &str),
    secret: &str,
) -> String {
    let request = format!("{method}\n/\n\n{lines}\n{signed}\n{body_hash}");
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(request)));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, service, "aws4_request"] {
        key = hmac(&key, part).to_vec();
    }
    hex::encode(hmac(&key, &to_sign))
}
