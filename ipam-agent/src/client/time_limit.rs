//! A limit of time: a connection whose other end is gone without a word would keep a request, and whoever waits for it,
//! for minutes. Nothing of this program's is worth so long a wait; all of it is tried again.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;

use super::{Target, around};

/// How long the API may take for an answer, retries of the client included.
pub const ANSWER: Duration = Duration::from_secs(15);

/// The API has not answered.
#[derive(Debug, thiserror::Error)]
#[error("{request}: no answer from the API within {limit:?}")]
struct NoAnswer {
    /// What was asked, in the words of RBAC.
    request: String,
    limit: Duration,
}

/// A client that gives up whatever takes longer than `limit`, the body of the answer included. Watches, which go on for
/// as long as nothing happens, are left alone: who watches is heard of by [`super::heard`].
pub fn in_time(client: Client, limit: Duration) -> Client {
    around(client, move |client, request: Request<Body>| {
        let target = Target::of(request.method(), request.uri());
        let path = request.uri().path().to_owned();
        async move {
            if target.as_ref().is_some_and(|target| target.verb == "watch") {
                return client.send(request).await;
            }
            let answer = async {
                let (head, body) = client.send(request).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(Response::from_parts(head, Body::from(body)))
            };
            match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let request = target.map_or(path, |target| target.to_string());
                    Err(kube::Error::Service(Box::new(NoAnswer { request, limit })))
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::StreamExt as _;
    use kube::Api;
    use kube::api::{ListParams, Patch, PatchParams, WatchParams};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::api::VpcIP;

    const LIMIT: Duration = Duration::from_millis(200);

    /// A client of a server that serves each connection so.
    async fn client_of<Served: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> Served + Send + 'static,
    ) -> Client {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // Some of the request is enough to know that there is one.
                let _ = stream.read(&mut [0; 4096]).await;
                tokio::spawn(serve(stream));
            }
        });
        in_time(Client::try_from(kube::Config::new(uri)).unwrap(), LIMIT)
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let client = client_of(async |stream| {
            let _open = stream;
            std::future::pending().await
        })
        .await;
        let api: Api<VpcIP> = Api::all(client);
        let began = Instant::now();
        let patch = Patch::Merge(json!({ "status": {} }));
        let error =
            api.patch_status("10.0.0.5", &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(
            error.contains("patch vpcips/status.eni-ipam.dev: no answer from the API within 200ms"),
            "{error}"
        );
        assert!(api.get_opt("10.0.0.5").await.is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn an_answer_that_stays_away_half_way_is_given_up() {
        let client = client_of(async |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{").await.unwrap();
            std::future::pending().await
        });
        let api: Api<VpcIP> = Api::all(client.await);
        let all = ListParams::default();
        let listed = tokio::time::timeout(Duration::from_secs(5), api.list(&all)).await;
        let error = listed.unwrap().unwrap_err().to_string();
        assert!(error.contains("list vpcips.eni-ipam.dev"), "{error}");
    }

    #[tokio::test]
    async fn a_watch_goes_on() {
        let client = client_of(async |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            tokio::time::sleep(LIMIT * 3).await;
            let bookmark = json!({ "type": "BOOKMARK", "object": {
                "kind": "VpcIP", "apiVersion": "eni-ipam.dev/v1", "metadata": { "resourceVersion": "7" },
            } });
            let event = format!("{bookmark}\n");
            let chunk = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
            stream.write_all(chunk.as_bytes()).await.unwrap();
        });
        let api: Api<VpcIP> = Api::all(client.await);
        let mut events = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        assert!(events.next().await.unwrap().is_ok());
    }
}
