//! The embedded API: the part of the Kubernetes API that the product uses, in this process, on a redb file.
//!
//! It is a [`tower::Service`] beneath an ordinary [`kube::Client`], so that everything above cannot tell it from
//! a cluster; [`EmbeddedApi::serve`] also lets `kubectl` and other processes in. It knows nothing of what it
//! stores beyond the [registry](CustomKind) it is given.
//!
//! Semantics are those of kube-apiserver: one revision counts all writes; a stale `resourceVersion` is a
//! conflict; the status is written by its subresource only; finalizers hold what is deleted; watches resume
//! from a revision for as long as the log of changes reaches back, and are told `410 Gone` after. An answer is
//! given when the disk has the write. What differs:
//!
//! * a namespace is made when its first object is created, and can only be deleted when it is empty;
//! * pods are deleted at once: no kubelet stops containers, so there is no grace period;
//! * the form of labels and annotations is not checked;
//! * there are no controllers, so no garbage collection by owner, and no strategic or apply patches;
//! * events are not dropped after an hour but beyond 1 000;
//! * the log of changes is in memory: after a restart, a watch of an older revision has to list again.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

mod access;
mod answer;
mod builtin;
mod discovery;
mod disk;
mod failure;
mod listener;
mod object;
mod read;
mod registry;
mod render;
mod request;
mod schema;
mod selector;
mod service;
mod store;
mod update;
mod validate;
mod watch;
mod write;
mod writer;

pub use access::Access;
pub use answer::AnswerBody;
pub use registry::CustomKind;

/// What can be set of an embedded API.
#[derive(Clone, Debug)]
pub struct Options {
    /// Changes that watches can resume behind. A change keeps its object and the one before in memory.
    pub log_capacity: usize,
    /// Time between the bookmarks of a watch that wants them.
    pub bookmark_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_capacity: 10_000, bookmark_period: Duration::from_secs(30) }
    }
}

/// An embedded API. Clones are the same one; the file is closed when the last of them and of their clients is
/// dropped, or by [`EmbeddedApi::close`].
#[derive(Clone)]
pub struct EmbeddedApi(Arc<Inner>);

struct Inner {
    writes: write::Writes,
    options: Options,
}

impl EmbeddedApi {
    /// Opens the file, or creates it (mode 0600, in a directory that exists), and serves our custom resources
    /// and the built-in kinds the product needs. The namespaces `default` and `kube-system` are there then.
    ///
    /// Reads and checks the whole file, so it blocks for as long as that takes.
    ///
    /// # Errors
    /// The file is torn, foreign, of another format, or open in another process: the error names it and what
    /// to do. The file is left as it is.
    pub fn open(path: &Path) -> Result<Self> {
        use crate::api::{NodeENIConfig, VpcIP, VpcIPClaim};
        let kinds = vec![
            CustomKind::of::<VpcIP>(),
            CustomKind::of::<VpcIPClaim>(),
            CustomKind::of::<NodeENIConfig>(),
        ];
        Self::open_with(path, kinds, Options::default())
    }

    /// As [`EmbeddedApi::open`], with other custom resources and options.
    ///
    /// # Errors
    /// As [`EmbeddedApi::open`], and for a kind that cannot be served.
    pub fn open_with(path: &Path, kinds: Vec<CustomKind>, options: Options) -> Result<Self> {
        let registry = Arc::new(registry::Registry::new(kinds)?);
        let (disk, stored, revision) = disk::Disk::open(path)?;
        let mut objects = vec![std::collections::BTreeMap::new(); registry.storages.len()];
        for object in stored {
            let storage = registry.storages.iter().position(|storage| storage.name == object.resource);
            let revision = object::meta_str(&object.value, "resourceVersion").parse();
            match (storage, revision) {
                (Some(storage), Ok(revision)) => {
                    let value = store::Object { revision, value: object.value };
                    objects[storage].insert(object.key, Arc::new(value));
                }
                (None, _) => tracing::warn!(
                    "API file {}: {} {} is of a kind that this version does not serve; it is kept, unseen",
                    path.display(),
                    object.resource,
                    object.key.name
                ),
                (_, Err(error)) => anyhow::bail!(
                    "API file {}: {} {}: metadata.resourceVersion: {error}; restore a copy, or move the file away",
                    path.display(),
                    object.resource,
                    object.key.name
                ),
            }
        }
        let store = Arc::new(store::Store::new(objects, revision, options.log_capacity));
        let namespaces = registry.find("", "v1", "namespaces").map(|resource| resource.storage);
        let first = namespaces.into_iter().flat_map(|kind| {
            ["default", "kube-system"].map(|name| (kind, store::Key::new("", name), write::namespace(name)))
        });
        let writer = writer::Writer::start(disk, store.clone(), registry.clone(), first.collect())?;
        let writes = write::Writes { registry, store, writer };
        Ok(Self(Arc::new(Inner { writes, options })))
    }

    /// A client of this API, in namespace `default`. Needs a tokio runtime.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Finishes the writes that wait, ends all watches and closes the file. All later requests fail with 503.
    pub async fn close(&self) {
        self.0.writes.writer.close().await;
    }

    /// Waits until a write to the file fails, and says why. All requests fail with 503 then, until the file is opened
    /// again: whoever serves this API should end.
    pub async fn failed(&self) -> anyhow::Error {
        let why = self.0.writes.writer.failed().await;
        anyhow::anyhow!(
            "{why}; check the disk for space and errors: this program ends, and its next start goes on with what was \
             written"
        )
    }
}

impl<B> tower::Service<Request<B>> for EmbeddedApi
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { Ok(inner.respond(request, CancellationToken::new()).await) })
    }
}
