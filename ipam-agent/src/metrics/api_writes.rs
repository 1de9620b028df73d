//! Writes to the Kubernetes API, counted where they leave the client.

use http::Method;
use kube::Client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Metrics;
use crate::client::{self, Target};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    method: String,
    resource: String,
    code: String,
}

/// The client, with its writes counted in `metrics`.
pub fn counted(client: Client, metrics: &Metrics) -> Client {
    let writes = Family::<WriteLabels, Counter>::default();
    let help = "Writes to the Kubernetes API by method, resource and HTTP status code (0: no answer)";
    metrics.register(|registry| registry.register("api_writes", help, writes.clone()));
    client::around(client, move |client, request| {
        let writes = writes.clone();
        async move {
            let method = request.method().clone();
            let target = Target::of(&method, request.uri()).filter(|_| method != Method::GET);
            let answer = client.send(request).await;
            if let Some(Target { resource, .. }) = target {
                let method = method.to_string();
                let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16()).to_string();
                writes.get_or_create(&WriteLabels { method, resource, code }).inc();
            }
            answer
        }
    })
}
