//! One call of the API: limited, signed, sent, decoded.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use governor::Quota;
use reqsign_aws_v4::Credential;
use reqsign_core::{ErrorKind, Signer};
use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{
    AwsConfig, code,
    credentials::signer,
    form::Form,
    wire::{Failure, Head},
};
use crate::cloud::{
    CloudError, CloudErrorKind, ConfigError, Pace,
    pace::Limiter,
    transport::{self, excerpt, no_answer, undecodable},
};

/// The provider's name, for messages.
pub const ORIGIN: &str = "aws";
const VERSION: &str = "2016-11-15";

/// Every action that the provider calls: what its role must allow. Tags are given as ENIs are created, for which IAM
/// wants `CreateTags` besides.
pub const ACTIONS: [&str; 11] = [
    "AssignIpv6Addresses",
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DetachNetworkInterface",
    "UnassignIpv6Addresses",
    "UnassignPrivateIpAddresses",
];

/// What the bucket of an action that changes something holds. It is filled with a quarter of what reads get, 5 a second
/// (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>).
const BURST: NonZeroU32 = NonZeroU32::new(50).expect("50 is not 0");

/// The way to the API.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    signer: Signer<Credential>,
    reads: Limiter,
    changes: Limiter,
    /// Actions that were refused for lack of rights when last called: each is told of once.
    refused: Mutex<BTreeSet<&'static str>>,
    pub pace: Pace,
}

impl Client {
    pub fn new(config: &AwsConfig) -> Result<Self, ConfigError> {
        let example = super::endpoint("eu-central-1");
        let (endpoint, _) = transport::endpoint(ORIGIN, &config.endpoint, &example)?;
        let http = transport::client(ORIGIN, config.pace.call)?;
        let refill = NonZeroU32::new(config.pace.qps.get() / 4).unwrap_or(NonZeroU32::MIN);
        Ok(Self {
            signer: signer(&config.region, &config.environment.0, http.clone()),
            http,
            endpoint,
            reads: Limiter::new(Quota::per_second(config.pace.qps)),
            changes: Limiter::new(Quota::per_second(refill).allow_burst(BURST)),
            refused: Mutex::default(),
            pace: config.pace.clone(),
        })
    }

    /// Asks for something that changes nothing, again and again while the error is a passing one.
    pub async fn read<T: DeserializeOwned>(
        &self,
        action: &'static str,
        form: &Form,
    ) -> Result<T, CloudError> {
        self.pace.insist(|| self.call(action, form)).await
    }

    /// Makes one call, once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        form: &Form,
    ) -> Result<T, CloudError> {
        debug_assert!(ACTIONS.contains(&action), "{action} is not among the actions that the role allows");
        let limiter = if action.starts_with("Describe") { &self.reads } else { &self.changes };
        limiter.wait(action).await;
        let answer = self.send(action, form.body(action, VERSION)).await;
        self.tell_of_refusal(action, answer.as_ref().err());
        answer
    }

    async fn send<T: DeserializeOwned>(&self, action: &'static str, body: String) -> Result<T, CloudError> {
        let hash = hex::encode(Sha256::digest(&body));
        let request = http::Request::post(self.endpoint.as_str())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
            // Signed as it is: without it, the signature is that of an unnamed body, which only S3 takes.
            .header("x-amz-content-sha256", hash)
            .body(());
        let (mut head, ()) = request.map_err(|error| unsigned(action, &error, false))?.into_parts();
        self.signer.sign(&mut head, None).await.map_err(|error| {
            let known = matches!(
                error.kind(),
                ErrorKind::CredentialInvalid | ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid
            );
            unsigned(action, &error, known && !error.is_retryable())
        })?;
        let answer = self
            .http
            .post(self.endpoint.clone())
            .headers(head.headers)
            .body(body)
            .send()
            .await
            .map_err(|error| no_answer(action, &error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| no_answer(action, &error))?;
        decode(action, status, &body)
    }

    fn tell_of_refusal(&self, action: &'static str, error: Option<&CloudError>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match error.filter(|error| error.kind == CloudErrorKind::Unauthorized) {
            None => drop(refused.remove(action)),
            Some(error) if refused.insert(action) => {
                tracing::error!(%error, "EC2 does not let us; not told again until it does");
            }
            Some(_) => {}
        }
    }
}

/// No credentials, and so no request.
fn unsigned(action: &'static str, error: &dyn std::fmt::Debug, for_good: bool) -> CloudError {
    let kind = if for_good { CloudErrorKind::Unauthorized } else { CloudErrorKind::Unavailable };
    let message = format!("no credentials: {error:?}");
    CloudError { kind, action, code: "NoCredentials".into(), message, request_id: None }
}

/// What an answer says.
fn decode<T: DeserializeOwned>(
    action: &'static str,
    status: StatusCode,
    body: &[u8],
) -> Result<T, CloudError> {
    if status.is_success() {
        let id = parse::<Head>(body).ok().and_then(|head| head.request_id);
        return parse(body).map_err(|message| undecodable(action, message, id));
    }
    let failure = match parse::<Failure>(body) {
        Ok(failure) => failure,
        // The API's own answer, torn.
        Err(message) if body.starts_with(b"<?xml") => return Err(undecodable(action, message, None)),
        // A gateway's page.
        Err(_) => return Err(transport::page(action, status, body)),
    };
    let error = failure.errors.error;
    Err(CloudError {
        kind: code::kind_of(&error.code, &error.message),
        action,
        message: code::with_remedy(&error.code, error.message),
        code: error.code,
        request_id: failure.request_id,
    })
}

/// The document, or what is wrong with it and where.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("{error} in {}", excerpt(body)))?;
    let mut document = quick_xml::de::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut document)
        .map_err(|error| format!("{}: {} in {}", error.path(), error.inner(), excerpt(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::aws::wire::{Done, Enis};

    fn error<T: DeserializeOwned>(status: u16, body: &str) -> CloudError {
        let status = StatusCode::from_u16(status).unwrap();
        decode::<T>("DescribeNetworkInterfaces", status, body.as_bytes()).err().expect("an error")
    }

    #[test]
    fn a_malformed_answer_names_the_field() {
        let body = "<R><requestId>r-1</requestId><networkInterfaceSet><item><networkInterfaceId>eni-1\
                    </networkInterfaceId><subnetId>s</subnetId><macAddress>zz</macAddress></item>\
                    </networkInterfaceSet></R>";
        let error = error::<Enis>(200, body);
        assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Unavailable, "Decode"));
        assert!(error.message.contains("macAddress"), "{error}");
        assert!(error.message.contains("\"zz\" is no MAC address"), "{error}");
        assert_eq!(error.request_id.as_deref(), Some("r-1"));
    }

    /// However short an answer is cut, it is not taken for a whole one.
    #[test]
    fn torn_answers_are_never_believed() {
        let done = "<?xml version=\"1.0\"?>\n<R><requestId>r</requestId><return>true</return></R>";
        let refused = "<?xml version=\"1.0\"?>\n<Response><Errors><Error><Code>IncorrectState</Code><Message>m\
                       </Message></Error></Errors><RequestID>r</RequestID></Response>";
        let ok = StatusCode::OK;
        assert!(decode::<Done>("Do", ok, done.as_bytes()).unwrap().is_done);
        for end in 0..done.len() {
            assert_eq!(error::<Done>(200, &done[..end]).code, "Decode", "{}", &done[..end]);
            if let Ok(Head { .. }) = decode::<Head>("Do", ok, &done.as_bytes()[..end]) {
                panic!("{} was believed", &done[..end]);
            }
        }
        assert_eq!(error::<Done>(400, refused).code, "IncorrectState");
        for end in 5..refused.len() {
            assert!(error::<Done>(400, &refused[..end]).kind.is_transient(), "{}", &refused[..end]);
        }
    }

    #[test]
    fn gateways_pages_are_told_from_the_apis_words() {
        let page = error::<Done>(502, "<html>Bad Gateway</html>");
        assert_eq!((page.kind, page.code.as_str()), (CloudErrorKind::Unavailable, "Transport"));
        assert_eq!(error::<Done>(429, "slow down").kind, CloudErrorKind::Throttled);
        assert_eq!(error::<Done>(403, "no").kind, CloudErrorKind::Unauthorized);
    }
}
