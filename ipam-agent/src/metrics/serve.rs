//! `GET /metrics` for Prometheus; `GET /healthz` and `GET /readyz` for a kubelet.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Metrics;
use crate::health::Health;

/// The format of the answer, <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Pause after the address could not be had.
const PAUSE: Duration = Duration::from_secs(10);

/// Where to serve; nowhere when the text is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub Option<SocketAddr>);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        // An IPv6 address as a pod is told its node's has no brackets.
        let bare = || {
            let (ip, port) = text.rsplit_once(':')?;
            Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
        };
        let address = text.parse().ok().or_else(bare).ok_or(
            "write an IP address with a port such as 127.0.0.1:9470 or [::]:9470, or nothing for no metrics",
        )?;
        Ok(Self(Some(address)))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Metrics {
    /// Serves scrapes and probes until `stop`. An address that cannot be had is tried again: pods do not wait for metrics.
    pub async fn serve(self, health: Health, address: ListenAddress, stop: CancellationToken) {
        let Some(address) = address.0 else { return stop.cancelled_owned().await };
        let mut told = false;
        while !stop.is_cancelled() {
            let served = match TcpListener::bind(address).await {
                Ok(listener) => {
                    info!(%address, "metrics are served at /metrics");
                    let probes =
                        Router::new()
                            .route(
                                "/healthz",
                                get(|State(health): State<Health>| async move {
                                    verdict(health.ailments().await)
                                }),
                            )
                            .route(
                                "/readyz",
                                get(|State(health): State<Health>| async move {
                                    verdict(health.hindrances().await)
                                }),
                            )
                            .with_state(health.clone());
                    let routes =
                        Router::new().route("/metrics", get(scrape)).with_state(self.clone()).merge(probes);
                    tokio::select! {
                        served = axum::serve(listener, routes).into_future() => served,
                        () = stop.cancelled() => return,
                    }
                }
                Err(error) => Err(error),
            };
            let Err(error) = served else { return };
            if !told {
                warn!(%error, "--metrics-address {address}: cannot serve metrics there; trying on");
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// The answer to a probe: kubelets look at the code, people at the text.
fn verdict(problems: Vec<String>) -> (StatusCode, String) {
    match problems.is_empty() {
        true => (StatusCode::OK, "ok\n".into()),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, problems.into_iter().map(|problem| problem + "\n").collect())
        }
    }
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    // Collectors make system calls: not on a thread that others wait for.
    match tokio::task::spawn_blocking(move || metrics.render()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        problem => {
            warn!(?problem, "a scrape failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_address_means_no_metrics() {
        assert_eq!("".parse(), Ok(ListenAddress(None)));
        let address: ListenAddress = "127.0.0.1:9470".parse().unwrap();
        assert_eq!(address.to_string(), "127.0.0.1:9470");
        assert_eq!("[fd00::1]:9470".parse::<ListenAddress>(), "fd00::1:9470".parse());
        assert!("9470".parse::<ListenAddress>().unwrap_err().contains("127.0.0.1:9470"));
    }
}
