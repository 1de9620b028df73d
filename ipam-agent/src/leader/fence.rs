//! What a term fences: writes to the API, and every call of the cloud.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;

use super::Term;
use crate::client;
use crate::cloud::{Around, CloudError, CloudErrorKind, EniProvider, Surrounded};

/// A client whose writes stop with the term. It goes on reading: that changes nothing.
pub fn fenced_client(client: Client, term: &Term) -> Client {
    let term = term.clone();
    client::around(client, move |client, request: Request<Body>| {
        let term = term.clone();
        async move {
            if request.method() == Method::GET {
                return client.send(request).await;
            }
            term.guard(client.send(request))
                .await
                .unwrap_or_else(|over| Err(kube::Error::Service(over.into())))
        }
    })
}

/// A provider whose calls stop with the term, in the midst of a call that takes several requests too.
pub fn fenced_provider(provider: Arc<dyn EniProvider>, term: &Term) -> Arc<dyn EniProvider> {
    Arc::new(Surrounded::new(provider, Fence(term.clone())))
}

struct Fence(Term);

impl Around for Fence {
    fn around<'a, T: Send + 'a>(
        &'a self,
        action: &'static str,
        call: BoxFuture<'a, Result<T, CloudError>>,
    ) -> BoxFuture<'a, Result<T, CloudError>> {
        async move {
            self.0.guard(call).await.unwrap_or_else(|over| {
                Err(CloudError {
                    kind: CloudErrorKind::Unavailable,
                    action,
                    code: "LeaseLost".into(),
                    message: over.to_string(),
                    request_id: None,
                })
            })
        }
        .boxed()
    }
}
