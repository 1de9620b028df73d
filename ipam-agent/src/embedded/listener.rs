//! The listener, for `kubectl` and processes on other machines.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, AnswerBody};
use super::failure::Failure;
use super::{Access, EmbeddedApi, Inner};
use crate::https;

impl EmbeddedApi {
    /// Serves this API to whoever has the token, until `shutdown`; then ends the watches, finishes what is being
    /// answered, and returns.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub async fn serve(
        &self,
        listener: TcpListener,
        access: &Access,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let tls = Arc::new(access.tls()?);
        let stop = CancellationToken::new();
        let door = Door { inner: self.0.clone(), access: Arc::new(access.clone()), stop: stop.clone() };
        let answer = move |request| door.clone().answer(request);
        let serving = https::serve("API listener", listener, tls, answer, stop.clone());
        let stopped = async {
            shutdown.await;
            stop.cancel();
        };
        tokio::join!(serving, stopped);
        Ok(())
    }
}

#[derive(Clone)]
struct Door {
    inner: Arc<Inner>,
    access: Arc<Access>,
    /// Ends the watches.
    stop: CancellationToken,
}

impl Door {
    async fn answer(self, request: Request<Incoming>) -> Response<AnswerBody> {
        if !self.access.allows(request.headers().get(AUTHORIZATION)) {
            return Answer::from(Failure::unauthorized()).into_response();
        }
        self.inner.respond(request, self.stop.clone()).await
    }
}
