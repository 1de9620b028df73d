//! What both front doors have in common: connections, rates, faults, and the record of calls.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{Call, CloudServer, FaultKind, error::ApiError};

/// The largest request that is read.
const BODY_BYTES: usize = 10 << 20;
/// The code of a call that came too fast, at either door.
pub const THROTTLED: &str = "RequestLimitExceeded";

/// A front door: one cloud's way of asking and answering.
pub trait Door: Send + Sync + 'static {
    /// What an action comes to.
    type Answer: Send;

    /// The action and its parameters.
    fn read(head: &Parts, body: &Bytes) -> (String, Value);

    /// Checks everything but the action's own parameters.
    fn admit(
        server: &CloudServer,
        head: &Parts,
        body: &Bytes,
        action: &str,
        params: &Value,
    ) -> Result<(), ApiError>;

    /// Does what a call asks for.
    fn run(
        server: &CloudServer,
        head: &Parts,
        request: &str,
        call: (&str, &Value),
        fault: Option<&FaultKind>,
    ) -> impl Future<Output = Result<Self::Answer, ApiError>> + Send;

    /// The answer as it is sent.
    fn render(request: &str, action: &str, outcome: Result<Self::Answer, ApiError>) -> Response<Full<Bytes>>;
}

/// The connection is to end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection ends without an answer")]
struct HangUp;

/// Serves connections until it is dropped, and they with it.
pub async fn accept<D: Door>(server: CloudServer, listener: tokio::net::TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let port = stream.local_addr().map_or(0, |address| address.port());
                let server = server.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer::<D>(&server, port, request));
                    // An error here is a client that went, or a fault that was ordered.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer<D: Door>(
    server: &CloudServer,
    port: u16,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, HangUp> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|_| HangUp)?.to_bytes();
    let (action, params) = D::read(&head, &body);

    let at = Instant::now();
    let admitted = D::admit(server, &head, &body, &action, &params);
    let admitted = admitted.and_then(|()| server.keep_rate(&action, at));
    let fault = if admitted.is_ok() { server.inner.faults.strike(&action) } else { None };
    let request_id = CloudServer::request_id();
    let outcome = match (admitted, &fault) {
        (Err(error), _) => Err(error),
        (_, Some(FaultKind::Throttle)) => Err(ApiError::new(THROTTLED, "the rate of calls is exceeded")),
        (_, Some(FaultKind::Error { code, message })) => Err(ApiError::new(code, message)),
        (_, Some(FaultKind::Http500)) => Err(ApiError::new("Http500", "")),
        (_, fault) => D::run(server, &head, &request_id, (&action, &params), fault.as_ref()).await,
    };
    let name = action.clone();
    server.record(Call {
        action,
        port,
        at,
        params,
        outcome: outcome.as_ref().map_or_else(|error| error.code.clone(), |_| "OK".into()),
    });

    let response = D::render(&request_id, &name, outcome);
    match fault {
        Some(FaultKind::TimeoutAfterSuccess) => return Err(HangUp),
        Some(FaultKind::TornAnswer) => {
            let (head, body) = response.into_parts();
            let mut body = body.collect().await.map_err(|_| HangUp)?.to_bytes();
            body.truncate(body.len() / 2);
            return Ok(Response::from_parts(head, Full::from(body)));
        }
        Some(FaultKind::Late(delay)) => tokio::time::sleep(delay).await,
        Some(FaultKind::Http500) => {
            let mut page = Response::new(Full::from("<html><h1>500 Internal Server Error</h1></html>"));
            *page.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(page);
        }
        _ => {}
    }
    Ok(response)
}

impl CloudServer {
    fn keep_rate(&self, action: &str, at: Instant) -> Result<(), ApiError> {
        let Some(limit) = self.state().vpc.config.quotas.calls_per_second else { return Ok(()) };
        let calls = self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let second = |call: &&Call| at.duration_since(call.at) < Duration::from_secs(1);
        let served = |call: &&Call| call.action == action && call.outcome != THROTTLED;
        if calls.iter().rev().take_while(second).filter(served).count() >= limit {
            return Err(ApiError::new(THROTTLED, format!("{limit} {action} in a second at most")));
        }
        Ok(())
    }

    fn record(&self, call: Call) {
        self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

/// A header's text.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
