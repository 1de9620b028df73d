//! HTTP/1.1 over TLS, for the two servers of this program that strangers can reach: no peer holds a connection that it
//! does not use.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How long a peer may take for its handshake, or for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after the system could not accept a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; then finishes what is being answered, and returns. `name` is for the log.
pub async fn serve<A, F, B>(
    name: &'static str,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    answer: A,
    stop: CancellationToken,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("{name}: cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = Connection { name, acceptor: tls.clone().into(), stop: stop.clone() };
        tokio::spawn(connection.serve(stream, answer.clone(), graceful.watcher()));
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("{name}: some requests did not end within {GRACE:?}");
    }
}

struct Connection {
    name: &'static str,
    acceptor: TlsAcceptor,
    stop: CancellationToken,
}

impl Connection {
    async fn serve<A, F, B>(self, stream: TcpStream, answer: A, watcher: Watcher)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let name = self.name;
        // Small events shall not wait for more.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(PATIENCE, self.acceptor.accept(stream));
        let stream = tokio::select! {
            () = self.stop.cancelled() => return,
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!("{name}: TLS: {error}"),
                Err(_) => return tracing::debug!("{name}: TLS: no handshake within {PATIENCE:?}"),
            },
        };
        let service = service_fn(move |request| {
            let answering = answer(request);
            async move { Ok::<_, Infallible>(answering.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("{name}: {error}");
        }
    }
}
