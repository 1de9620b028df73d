//! Layers between this program and its Kubernetes API.

use std::fmt::Debug;

use http::{Request, Response};
use kube::client::Body;
use kube::core::Status;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tower::service_fn;

mod permissions;
mod target;
mod time_limit;
mod watches;

pub use permissions::{is_refusal, naming_permissions};
pub use target::Target;
pub use time_limit::{ANSWER, in_time};
pub use watches::{expect_watch, heard};

/// The object of this name, or `None` only when the API itself says that there is none. Any other answer of status 404,
/// as of a proxy that knows no such page, is an error.
///
/// # Errors
/// When the API refuses, or somebody else has answered.
pub async fn live<K>(api: &Api<K>, name: &str) -> kube::Result<Option<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if is_gone(&status, name) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a refusal is the API's own word that there is no object of this name.
#[must_use]
pub fn is_gone(status: &Status, name: &str) -> bool {
    status.reason == "NotFound" && status.details.as_ref().is_some_and(|details| details.name == name)
}

/// A client whose requests go to `around`, together with the client beneath.
pub fn around<Layer, Answer>(client: Client, around: Layer) -> Client
where
    Layer: Fn(Client, Request<Body>) -> Answer + Send + 'static,
    Answer: Future<Output = kube::Result<Response<Body>>> + Send + 'static,
{
    let (namespace, valid_until) = (client.default_namespace().to_owned(), *client.valid_until());
    let service = service_fn(move |request| around(client.clone(), request));
    Client::new(service, namespace).with_valid_until(valid_until)
}

/// A client whose answers a test has written.
#[cfg(test)]
pub mod scripted {
    use serde_json::Value;

    use super::*;

    /// Each request is answered with a status and a body.
    pub fn client(answer: impl Fn(&Request<Body>) -> (u16, Value) + Clone + Send + 'static) -> Client {
        let answer = move |request: Request<Body>| {
            let (status, body) = answer(&request);
            async move {
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                Ok::<_, kube::Error>(Response::builder().status(status).body(body).unwrap())
            }
        };
        Client::new(service_fn(answer), "default")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn only_the_apis_own_word_says_that_an_object_is_gone() {
        let gone = |reason: &str, name: &str| json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": reason, "details": { "name": name } });
        for (body, is_gone) in [
            (gone("NotFound", "web-0"), true),
            (gone("NotFound", "another"), false),
            (json!({ "status": "Failure", "code": 404, "reason": "NotFound", "details": {} }), false),
            (json!({ "error": "no such page" }), false),
            (json!("<html>404</html>"), false),
        ] {
            let answer = body.clone();
            let api: Api<Pod> = Api::default_namespaced(scripted::client(move |_| (404, answer.clone())));
            let found = live(&api, "web-0").await;
            assert_eq!(matches!(found, Ok(None)), is_gone, "{body}: {found:?}");
            assert!(is_gone || found.is_err(), "{body}");
        }
    }
}
