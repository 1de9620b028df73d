//! Checks TC3-HMAC-SHA256 signatures. Written from the published description alone, down to HMAC itself: what
//! the client's signer has wrong must not be wrong here too.

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::error::ApiError;

/// How far the client's clock may be off, in seconds.
const SKEW: i64 = 300;
/// The block of SHA-256, in octets.
const BLOCK: usize = 64;

/// Checks the signature of a POST to `/`, `now` being in seconds since 1970.
///
/// # Errors
/// The API's code for what is wrong.
pub fn verify(
    headers: &HeaderMap,
    body: &[u8],
    service: &str,
    (secret_id, secret_key): (&str, &str),
    now: i64,
) -> Result<(), ApiError> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| ApiError::new("MissingParameter", format!("there is no header {name}")))
    };
    let malformed = |what: &str| ApiError::new("AuthFailure.InvalidAuthorization", what);
    let failure = |what: &str| ApiError::new("AuthFailure.SignatureFailure", what);

    let authorization = text(header::AUTHORIZATION.as_str())?;
    let fields = authorization
        .strip_prefix("TC3-HMAC-SHA256 ")
        .ok_or_else(|| malformed("the algorithm is not TC3-HMAC-SHA256"))?;
    let field = |name: &str| {
        let mut found = fields.split(", ").filter_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        found.next().ok_or_else(|| malformed(&format!("there is no {name}")))
    };
    let (credential, signed, signature) =
        (field("Credential")?, field("SignedHeaders")?, field("Signature")?);

    let stamp = text("x-tc-timestamp")?;
    let time: i64 =
        stamp.parse().map_err(|_| ApiError::new("InvalidParameter", "X-TC-Timestamp is no number"))?;
    if (time - now).abs() > SKEW {
        let message = format!("the clocks are {} s apart", time - now);
        return Err(ApiError::new("AuthFailure.SignatureExpire", message));
    }
    let [id, date, scope_service, "tc3_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(malformed("Credential is not SecretId/date/service/tc3_request"));
    };
    if id != secret_id {
        return Err(ApiError::new("AuthFailure.SecretIdNotFound", "the SecretId is not found"));
    }
    let today = jiff::Timestamp::from_second(time).map_err(|_| failure("there is no such time"))?;
    if date != jiff::tz::TimeZone::UTC.to_datetime(today).date().to_string() {
        return Err(failure("the date of Credential is not that of X-TC-Timestamp in UTC"));
    }
    if scope_service != service {
        return Err(failure("the service of Credential is another one"));
    }

    let names: Vec<&str> = signed.split(';').collect();
    if !names.is_sorted() || !["content-type", "host"].iter().all(|name| names.contains(name)) {
        return Err(failure("SignedHeaders must have content-type and host, and be sorted"));
    }
    let mut lines = String::new();
    for name in names {
        lines += &format!("{name}:{}\n", text(name)?.trim().to_lowercase());
    }
    if signature_of(&lines, signed, body, stamp, (date, scope_service), secret_key) == signature {
        Ok(())
    } else {
        Err(failure("the signature is not that of this request and key"))
    }
}

/// The signature of a POST to `/`: `lines` are the canonical headers, `signed` their names.
#[must_use]
pub fn signature_of(
    lines: &str,
    signed: &str,
    body: &[u8],
    stamp: &str,
    (date, service): (&str, &str),
    secret_key: &str,
) -> String {
    let canonical = format!("POST\n/\n\n{lines}\n{signed}\n{}", hex::encode(Sha256::digest(body)));
    let hashed = hex::encode(Sha256::digest(&canonical));
    let to_sign = format!("TC3-HMAC-SHA256\n{stamp}\n{date}/{service}/tc3_request\n{hashed}");
    let of_date = hmac(format!("TC3{secret_key}").as_bytes(), date);
    let of_request = hmac(&hmac(&of_date, service), "tc3_request");
    hex::encode(hmac(&of_request, &to_sign))
}

/// HMAC-SHA256 as RFC 2104 defines it.
pub(super) fn hmac(key: &[u8], message: &str) -> [u8; 32] {
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().into()
}
