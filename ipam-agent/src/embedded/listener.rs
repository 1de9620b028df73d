//! The listener: TLS and HTTP/1.1, for `kubectl` and processes on other machines.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, AnswerBody};
use super::failure::Failure;
use super::{Access, EmbeddedApi, Inner};

/// How long a peer may take for its handshake, or for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after the system could not accept a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let acceptor = TlsAcceptor::from(Arc::new(access.tls()?));
        let access = Arc::new(access.clone());
        let (graceful, stop) = (GracefulShutdown::new(), CancellationToken::new());
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!("API listener: cannot accept: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let connection = Connection { inner: self.0.clone(), access: access.clone(), stop: stop.clone() };
            tokio::spawn(connection.serve(stream, acceptor.clone(), graceful.watcher()));
        }
        drop(listener);
        stop.cancel();
        if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
            tracing::warn!("API listener: some requests did not end within {GRACE:?}");
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Connection {
    inner: Arc<Inner>,
    access: Arc<Access>,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(
        self,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        watcher: hyper_util::server::graceful::Watcher,
    ) {
        // Small events shall not wait for more.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(PATIENCE, acceptor.accept(stream));
        let stream = tokio::select! {
            () = self.stop.cancelled() => return,
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!("API listener: TLS: {error}"),
                Err(_) => return tracing::debug!("API listener: TLS: no handshake within {PATIENCE:?}"),
            },
        };
        let service = service_fn(move |request| {
            let connection = self.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("API listener: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        if !self.access.allows(request.headers().get(AUTHORIZATION)) {
            return Answer::from(Failure::unauthorized()).into_response();
        }
        self.inner.respond(request, self.stop.clone()).await
    }
}
