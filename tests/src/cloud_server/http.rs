//! The cloud's front door: connections, the common headers, rates, faults, and the form of answers.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::{Call, CloudServer, FaultKind, auth, error::ApiError};

const ACTIONS: [&str; 10] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "DescribeNetworkInterfaces",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "MigratePrivateIpAddress",
    "DescribeSubnets",
    "DescribeVpcTaskResult",
];
/// The largest request of API 3.0 with this signature.
const BODY_BYTES: usize = 10 << 20;

/// The connection is to end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends without an answer")]
struct HangUp;

/// Serves connections until it is dropped, and they with it.
pub async fn accept(server: CloudServer, listener: tokio::net::TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let server = server.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer(&server, request));
                    // An error here is a client that went, or a fault that was ordered.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(server: &CloudServer, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, HangUp> {
    let (head, body) = request.into_parts();
    let action = text(&head.headers, "x-tc-action").unwrap_or_default().to_owned();
    let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| HangUp)?.to_bytes();
    let params: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);

    let at = Instant::now();
    let mut fault = None;
    let outcome = match server.admit(&head.method, head.uri.path(), &head.headers, &body, &action, at) {
        Err(error) => Err(error),
        Ok(()) => {
            fault = server.inner.faults.strike(&action);
            Ok(())
        }
    };
    let request_id = CloudServer::request_id();
    let outcome = match (outcome, &fault) {
        (Err(error), _) => Err(error),
        (_, Some(FaultKind::Throttle)) => {
            Err(ApiError::new("RequestLimitExceeded", "the rate of calls is exceeded"))
        }
        (_, Some(FaultKind::Error { code, message })) => Err(ApiError::new(code, message)),
        (_, Some(FaultKind::Http500)) => Err(ApiError::new("Http500", "")),
        (_, fault) => server.run(&request_id, &action, &params, fault.as_ref()).await,
    };
    server.record(Call {
        action,
        at,
        params,
        outcome: outcome.as_ref().map_or_else(|error| error.code.clone(), |_| "OK".into()),
    });

    let mut response = match outcome {
        Ok(answer) => answer,
        Err(error) => json!({ "Error": { "Code": error.code, "Message": error.message } }),
    };
    response["RequestId"] = json!(request_id);
    let mut text = json!({ "Response": response }).to_string();
    match fault {
        Some(FaultKind::TimeoutAfterSuccess) => return Err(HangUp),
        Some(FaultKind::TornAnswer) => text.truncate(text.len() / 2),
        Some(FaultKind::Late(delay)) => tokio::time::sleep(delay).await,
        Some(FaultKind::Http500) => {
            let mut page = Response::new(Full::from("<html><h1>500 Internal Server Error</h1></html>"));
            *page.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(page);
        }
        _ => {}
    }
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl CloudServer {
    /// Checks everything but the action's own parameters.
    fn admit(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
        action: &str,
        at: Instant,
    ) -> Result<(), ApiError> {
        let state = self.state();
        let config = &state.vpc.config;
        if method != Method::POST || path != "/" {
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
        if serde_json::from_slice::<serde_json::Map<String, Value>>(body).is_err() {
            return Err(ApiError::new("InvalidParameter", "the body is no JSON object"));
        }
        let Some(limit) = config.quotas.calls_per_second else { return Ok(()) };
        drop(state);
        let calls = self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let second = |call: &&Call| at.duration_since(call.at) < Duration::from_secs(1);
        let served = |call: &&Call| call.action == action && call.outcome != "RequestLimitExceeded";
        if calls.iter().rev().take_while(second).filter(served).count() >= limit {
            return Err(ApiError::new(
                "RequestLimitExceeded",
                format!("{limit} {action} in a second at most"),
            ));
        }
        Ok(())
    }

    fn record(&self, call: Call) {
        self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
