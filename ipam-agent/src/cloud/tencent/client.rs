//! One call of the API: limited, signed, sent, decoded.

use std::{error::Error as _, num::NonZeroU32, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};
use governor::{DefaultKeyedRateLimiter, Jitter, Quota, RateLimiter};
use jiff::Timestamp;
use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    TencentConfig, code,
    sign::{self, Credentials},
    wire::{Envelope, Head},
};
use crate::cloud::{CloudError, CloudErrorKind, ConfigError};

const SERVICE: &str = "vpc";
const VERSION: &str = "2017-03-12";
const JSON: &str = "application/json; charset=utf-8";

/// How fast, how often and how long the cloud is asked.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The longest wait for one answer.
    pub call: Duration,
    /// Between two looks at a running task.
    pub poll: Duration,
    /// The longest that a Describe may lag behind what was done before it.
    pub settle: Duration,
    /// The longest that one change may take, retries and tasks included.
    pub deadline: Duration,
    /// First and longest pause between two attempts; it doubles, with jitter.
    pub backoff: (Duration, Duration),
    /// Calls a second of each action. The API allows 20 of most (100 of the ENI ones) to an account.
    pub qps: NonZeroU32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(10),
            poll: Duration::from_millis(500),
            settle: Duration::from_secs(3),
            deadline: Duration::from_secs(90),
            backoff: (Duration::from_millis(200), Duration::from_secs(5)),
            qps: NonZeroU32::new(20).expect("20 is not 0"),
        }
    }
}

impl Pace {
    /// The pauses between attempts, without end.
    pub fn pauses(&self) -> ExponentialBackoff {
        self.exponential().without_max_times().build()
    }

    fn exponential(&self) -> ExponentialBuilder {
        let (first, longest) = self.backoff;
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_jitter()
    }
}

/// The way to the API.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// As it stands in the `Host` header, which is signed.
    host: String,
    region: String,
    credentials: Credentials,
    limiter: DefaultKeyedRateLimiter<&'static str>,
    pub pace: Pace,
}

impl Client {
    pub fn new(config: &TencentConfig) -> Result<Self, ConfigError> {
        let wrong = |field: &str, value: &str, problem: String| ConfigError {
            origin: "tencent".into(),
            field: field.into(),
            value: value.into(),
            problem,
        };
        let bad_endpoint = |problem: String| {
            wrong(
                "endpoint",
                &config.endpoint,
                format!("{problem}; write it like https://vpc.tencentcloudapi.com"),
            )
        };
        let endpoint = Url::parse(&config.endpoint).map_err(|e| bad_endpoint(e.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(bad_endpoint(format!("{} is neither http nor https", endpoint.scheme())));
        }
        if endpoint.path() != "/" || endpoint.query().is_some() {
            return Err(bad_endpoint("the API has no path".into()));
        }
        let name = endpoint.host_str().ok_or_else(|| bad_endpoint("it names no host".into()))?;
        let host = endpoint.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));

        // Refused when the process has a provider already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(config.pace.call)
            .timeout(config.pace.call)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| bad_endpoint(format!("no TLS client: {e}")))?;
        Ok(Self {
            http,
            host,
            endpoint,
            region: config.region.clone(),
            credentials: config.credentials.clone(),
            limiter: RateLimiter::keyed(Quota::per_second(config.pace.qps)),
            pace: config.pace.clone(),
        })
    }

    /// Asks for something that changes nothing, again and again while the error is a passing one.
    pub async fn read<T: DeserializeOwned>(
        &self,
        action: &'static str,
        params: &Value,
    ) -> Result<T, CloudError> {
        (|| self.call(action, params))
            .retry(self.pace.exponential().with_max_times(6).with_total_delay(Some(self.pace.deadline)))
            .when(|error| error.kind.is_transient())
            .await
    }

    /// Makes one call, once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        params: &Value,
    ) -> Result<T, CloudError> {
        let spread = Jitter::up_to(Duration::from_millis(5));
        self.limiter.until_key_ready_with_jitter(&action, spread).await;
        let payload = params.to_string();
        let now = Timestamp::now();
        let signed = [("content-type", JSON), ("host", &self.host), ("x-tc-action", action)];
        let authorization = sign::authorization(&self.credentials, SERVICE, now, &signed, payload.as_bytes());
        let answer = self
            .http
            .post(self.endpoint.clone())
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, JSON)
            .header(header::AUTHORIZATION, authorization)
            .header("X-TC-Action", action)
            .header("X-TC-Version", VERSION)
            .header("X-TC-Region", &self.region)
            .header("X-TC-Timestamp", now.as_second())
            .body(payload)
            .send()
            .await
            .map_err(|e| no_answer(action, &e))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|e| no_answer(action, &e))?;
        decode(action, status, &body)
    }
}

/// What an answer says.
fn decode<T: DeserializeOwned>(
    action: &'static str,
    status: StatusCode,
    body: &[u8],
) -> Result<T, CloudError> {
    let head = match parse::<Head>(body) {
        Ok(head) => head,
        // A gateway's page, not the API's words.
        Err(_) if !status.is_success() => {
            let kind = match status {
                StatusCode::TOO_MANY_REQUESTS => CloudErrorKind::Throttled,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => CloudErrorKind::Unauthorized,
                status if status.is_client_error() => CloudErrorKind::Invalid,
                _ => CloudErrorKind::Unavailable,
            };
            let message = format!("HTTP {status}: {}", excerpt(body));
            return Err(CloudError { kind, action, code: "Transport".into(), message, request_id: None });
        }
        Err(message) => return Err(undecodable(action, message, None)),
    };
    match head.error {
        Some(error) => Err(CloudError {
            kind: code::kind_of(action, &error.code),
            action,
            message: with_remedy(&error.code, error.message),
            code: error.code,
            request_id: head.request_id,
        }),
        None => parse(body).map_err(|message| undecodable(action, message, head.request_id)),
    }
}

/// The content of `Response`, or what is wrong with it and where.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_path_to_error::deserialize::<_, Envelope<T>>(&mut serde_json::Deserializer::from_slice(body))
        .map(|envelope| envelope.response)
        .map_err(|e| format!("{}: {} in {}", e.path(), e.inner(), excerpt(body)))
}

fn undecodable(action: &'static str, message: String, request_id: Option<String>) -> CloudError {
    // The call may well have happened, and the next answer may be whole.
    CloudError { kind: CloudErrorKind::Unavailable, action, code: "Decode".into(), message, request_id }
}

fn no_answer(action: &'static str, error: &reqwest::Error) -> CloudError {
    let code = if error.is_timeout() { "Timeout" } else { "Transport" };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    CloudError { kind: CloudErrorKind::Unavailable, action, code: code.into(), message, request_id: None }
}

fn with_remedy(code: &str, message: String) -> String {
    let remedy = match code {
        "AuthFailure.SignatureExpire" => "set this machine's clock",
        "AuthFailure.SignatureFailure" => "check TENCENTCLOUD_SECRET_KEY",
        "AuthFailure.SecretIdNotFound" => "check TENCENTCLOUD_SECRET_ID",
        _ => return message,
    };
    format!("{message} ({remedy})")
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::tencent::wire::Enis;

    fn error(status: u16, body: &str) -> CloudError {
        let status = StatusCode::from_u16(status).unwrap();
        decode::<Enis>("DescribeNetworkInterfaces", status, body.as_bytes()).err().expect("an error")
    }

    #[test]
    fn a_malformed_answer_names_the_field() {
        let body = r#"{"Response":{"TotalCount":1,"RequestId":"r-1","NetworkInterfaceSet":[{
            "NetworkInterfaceId":"eni-1","SubnetId":"s","MacAddress":"zz","State":"AVAILABLE"}]}}"#;
        let error = error(200, body);
        assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Unavailable, "Decode"));
        assert!(error.message.contains("NetworkInterfaceSet[0].MacAddress"), "{error}");
        assert!(error.message.contains("\"zz\" is no MAC address"), "{error}");
        assert_eq!(error.request_id.as_deref(), Some("r-1"));
    }

    #[test]
    fn torn_answers_gateway_pages_and_api_errors_are_told_apart() {
        let torn = error(200, r#"{"Response":{"Tot"#);
        assert_eq!((torn.kind, torn.code.as_str()), (CloudErrorKind::Unavailable, "Decode"));
        let page = error(502, "<html>Bad Gateway</html>");
        assert_eq!((page.kind, page.code.as_str()), (CloudErrorKind::Unavailable, "Transport"));
        assert_eq!(error(429, "slow down").kind, CloudErrorKind::Throttled);
        assert_eq!(error(403, "no").kind, CloudErrorKind::Unauthorized);
        let api =
            error(200, r#"{"Response":{"Error":{"Code":"ResourceNotFound","Message":"m"},"RequestId":"r"}}"#);
        assert_eq!(api.to_string(), "DescribeNetworkInterfaces: ResourceNotFound: m (request r)");
    }

    #[test]
    fn null_lists_are_empty_and_state_is_read() {
        let body = br#"{"Response":{"TotalCount":1,"NetworkInterfaceSet":[{"NetworkInterfaceId":"eni-1",
            "SubnetId":"s","MacAddress":"20:90:6F:00:00:01","State":"DETACHING","Primary":false,
            "PrivateIpAddressSet":null,"Attachment":null,"SomethingNew":{}}],"RequestId":"r"}}"#;
        let enis: Enis = decode("DescribeNetworkInterfaces", StatusCode::OK, body).unwrap();
        let eni: crate::cloud::EniInfo = enis.network_interface_set.into_iter().next().unwrap().into();
        assert_eq!(eni.mac, "20:90:6f:00:00:01");
        assert_eq!(eni.state, crate::cloud::EniCloudState::Detaching);
        assert!(eni.secondary_ips.is_empty());
    }
}
