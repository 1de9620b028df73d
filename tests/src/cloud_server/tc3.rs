//! The front door of Tencent Cloud's API 3.0: its common headers, and the form of its answers.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    CloudServer, FaultKind, auth,
    error::ApiError,
    http::{Door, text},
};

const ACTIONS: [&str; 13] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeNetworkInterfaces",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "MigratePrivateIpAddress",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
    "DescribeNetworkInterfaceLimit",
    "DescribeSubnets",
    "DescribeVpcTaskResult",
];

/// The door.
pub struct Tc3;

impl Door for Tc3 {
    type Answer = Value;

    fn read(head: &Parts, body: &Bytes) -> (String, Value) {
        let action = text(&head.headers, "x-tc-action").unwrap_or_default().to_owned();
        (action, serde_json::from_slice(body).unwrap_or(Value::Null))
    }

    fn admit(
        server: &CloudServer,
        head: &Parts,
        body: &Bytes,
        action: &str,
        params: &Value,
    ) -> Result<(), ApiError> {
        let state = server.state();
        let config = &state.vpc.config;
        let headers = &head.headers;
        if head.method != Method::POST || head.uri.path() != "/" {
            return Err(ApiError::new("UnsupportedProtocol", "POST to / only"));
        }
        let (id, key) = &config.secret;
        let now = jiff::Timestamp::now().as_second();
        auth::verify(headers, body, "vpc", (id, key), now)?;
        if text(headers, "x-tc-version") != Some("2017-03-12") {
            return Err(ApiError::new("NoSuchVersion", "X-TC-Version must be 2017-03-12"));
        }
        if text(headers, "x-tc-region") != Some(&config.region) {
            return Err(ApiError::new("UnsupportedRegion", format!("X-TC-Region must be {}", config.region)));
        }
        if !ACTIONS.contains(&action) {
            return Err(ApiError::new("InvalidAction", format!("{action:?} is no action")));
        }
        if !params.is_object() {
            return Err(ApiError::new("InvalidParameter", "the body is no JSON object"));
        }
        Ok(())
    }

    async fn run(
        server: &CloudServer,
        _: &Parts,
        request: &str,
        (action, params): (&str, &Value),
        fault: Option<&FaultKind>,
    ) -> Result<Value, ApiError> {
        server.run(request, action, params, fault).await
    }

    fn render(request: &str, _: &str, outcome: Result<Value, ApiError>) -> Response<Full<Bytes>> {
        let mut answer = match outcome {
            Ok(answer) => answer,
            Err(error) => json!({ "Error": { "Code": error.code, "Message": error.message } }),
        };
        answer["RequestId"] = json!(request);
        let mut response = Response::new(Full::from(json!({ "Response": answer }).to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
