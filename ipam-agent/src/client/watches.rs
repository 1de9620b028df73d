//! Watches end by themselves and are asked for again: so one hears that whoever watches is still there.

use http::Request;
use kube::Client;
use kube::client::Body;
use tracing::warn;

use super::{Target, around};
use crate::health::Health;

/// The time that kube's watcher asks for.
const ASKED_FOR: &str = "timeoutSeconds=290";

/// A watch of this resource has been heard of, or is to be.
pub fn expect_watch(health: &Health, resource: &str) {
    health.beat(&format!("watch of {resource}"));
}

/// A client whose lists and watches count as signs of life. They are asked for no longer than is needed for that.
pub fn heard(client: Client, health: &Health) -> Client {
    let health = health.clone();
    around(client, move |client, mut request: Request<Body>| {
        let target = Target::of(request.method(), request.uri());
        if let Some(target) = target.filter(|target| matches!(target.verb, "list" | "watch")) {
            expect_watch(&health, &target.resource);
            let shorter = format!("timeoutSeconds={}", health.watch_seconds());
            match request.uri().to_string().replace(ASKED_FOR, &shorter).parse() {
                Ok(uri) => *request.uri_mut() = uri,
                Err(error) => warn!(%error, "a watch is asked for longer than it should be"),
            }
        }
        async move { client.send(request).await }
    })
}
