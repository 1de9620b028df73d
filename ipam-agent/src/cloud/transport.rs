//! HTTP as every cloud's API uses it: where it is, who asks, and what is no answer.

use std::{error::Error as _, time::Duration};

use reqwest::{StatusCode, Url};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{CloudError, CloudErrorKind, ConfigError};

/// The URL of an API without a path, and its host as the `Host` header has it.
///
/// # Errors
/// It is no such URL: `origin` is the provider, `example` a right one.
pub fn endpoint(origin: &str, text: &str, example: &str) -> Result<(Url, String), ConfigError> {
    let wrong = |problem: String| ConfigError {
        origin: origin.into(),
        field: "endpoint".into(),
        value: text.into(),
        problem: format!("{problem}; write it like {example}"),
    };
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("{} is neither http nor https", url.scheme())));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(wrong("the API has no path".into()));
    }
    let name = url.host_str().ok_or_else(|| wrong("it names no host".into()))?;
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    Ok((url, host))
}

/// A client that waits so long for an answer, at most.
///
/// # Errors
/// TLS cannot be used here.
pub fn client(origin: &str, call: Duration) -> Result<reqwest::Client, ConfigError> {
    // Refused when the process has a provider already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .connect_timeout(call)
        .timeout(call)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| ConfigError {
            origin: origin.into(),
            field: "endpoint".into(),
            value: "(all)".into(),
            problem: format!("no TLS client: {error}; install the system's CA certificates"),
        })
}

/// A value that must be there and have no blanks around it. A `secret` is not repeated.
///
/// # Errors
/// It is empty or padded.
pub fn required(origin: &str, field: &str, value: &str, secret: bool) -> Result<(), ConfigError> {
    if !value.trim().is_empty() && value.trim() == value {
        return Ok(());
    }
    Err(ConfigError {
        origin: origin.into(),
        field: field.into(),
        value: if secret { "(hidden)".into() } else { value.into() },
        problem: "it is empty or has blanks around it; write the value alone".into(),
    })
}

/// No answer came.
pub fn no_answer(action: &'static str, error: &reqwest::Error) -> CloudError {
    let code = if error.is_timeout() { "Timeout" } else { "Transport" };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    CloudError { kind: CloudErrorKind::Unavailable, action, code: code.into(), message, request_id: None }
}

/// An answer that is not the API's: a gateway's page.
pub fn page(action: &'static str, status: StatusCode, body: &[u8]) -> CloudError {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => CloudErrorKind::Throttled,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CloudErrorKind::Unauthorized,
        status if status.is_client_error() => CloudErrorKind::Invalid,
        _ => CloudErrorKind::Unavailable,
    };
    let message = format!("HTTP {status}: {}", excerpt(body));
    CloudError { kind, action, code: "Transport".into(), message, request_id: None }
}

/// An answer that cannot be read.
pub fn undecodable(action: &'static str, message: String, request_id: Option<String>) -> CloudError {
    // The call may well have happened, and the next answer may be whole.
    CloudError { kind: CloudErrorKind::Unavailable, action, code: "Decode".into(), message, request_id }
}

/// The beginning of an answer, for messages.
pub fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().take(200).collect()
}

/// A MAC in lower case; an ENI being created may have an empty one.
pub fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?.to_lowercase();
    let octet = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if text.is_empty() || (text.split(':').count() == 6 && text.split(':').all(octet)) {
        Ok(text)
    } else {
        Err(D::Error::custom(format!("{text:?} is no MAC address")))
    }
}
