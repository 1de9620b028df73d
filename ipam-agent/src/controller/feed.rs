//! One watch per kind, which fills a cache and wakes the reconcilers, in this order: a reconciler that is
//! woken by an event finds the event in the cache.

use std::sync::Arc;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Controller, WatchStreamExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::warn;

use super::index::Index;
use super::write::Object;
use crate::client::{self, is_refusal};
use crate::health::{self, Health};

/// The watch of one kind.
pub struct Feed<K: Object + Send + Sync + 'static> {
    api: Api<K>,
    writer: reflector::store::Writer<K>,
    store: Store<K>,
    indexes: Vec<Arc<Index<K>>>,
    changed: Vec<UnboundedSender<Arc<K>>>,
    relisted: Vec<UnboundedSender<()>>,
    listed: watch::Sender<bool>,
    optional: bool,
}

impl<K: Object + Send + Sync + DeserializeOwned + 'static> Feed<K> {
    /// A watch that has not begun.
    pub fn new(api: Api<K>) -> Self {
        let (store, writer) = reflector::store();
        Self {
            api,
            writer,
            store,
            indexes: Vec::new(),
            changed: Vec::new(),
            relisted: Vec::new(),
            listed: watch::Sender::new(false),
            optional: false,
        }
    }

    /// Where this process may not list the kind, it goes on as if there were none.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// The objects by a key, as fresh as the cache.
    pub fn index(&mut self, key: fn(&K) -> Option<String>) -> Arc<Index<K>> {
        let index = Index::new(key);
        self.indexes.push(index.clone());
        index
    }

    /// Turns true with the first list. `Store::wait_until_ready` tells so too, but of several that wait it wakes only the
    /// one that asked last (kube-runtime 5.0, `DelayedInit`).
    pub fn listed(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// That something has changed.
    pub fn news(&mut self) -> BoxStream<'static, ()> {
        self.subscribe().map(|_| ()).boxed()
    }

    /// A controller of this kind.
    pub fn controller(&mut self) -> Controller<K> {
        let changes = self.subscribe();
        Controller::for_shared_stream(changes, self.store())
    }

    /// Wakes another kind's controller: for a changed object, the objects that `map` names; after a relist,
    /// which may have missed deletions, all.
    pub fn wakes<Main, I>(
        &mut self,
        controller: Controller<Main>,
        map: impl Fn(&K) -> I + Send + Sync + 'static,
    ) -> Controller<Main>
    where
        Main: Object + Send + Sync + 'static,
        I: IntoIterator<Item = ObjectRef<Main>> + 'static,
        I::IntoIter: Send,
    {
        let changes = self.subscribe();
        let (relisted, relists) = unbounded();
        self.relisted.push(relisted);
        controller
            .reconcile_on(changes.flat_map(move |object| futures::stream::iter(map(&object))))
            .reconcile_all_on(relists)
    }

    fn subscribe(&mut self) -> UnboundedReceiver<Arc<K>> {
        let (sender, receiver) = unbounded();
        self.changed.push(sender);
        receiver
    }

    /// Watches until the process ends; a broken watch is begun again.
    pub async fn run(self, health: &Health) {
        let Self { api, mut writer, store, indexes, changed, relisted, listed, optional } = self;
        if !optional {
            // Also one that never begins is missed.
            client::expect_watch(health, &K::plural(&()));
        }
        let mut events = std::pin::pin!(events(api));
        let tell = |object: Arc<K>| {
            for subscriber in &changed {
                // A controller that has ended is reported by whoever runs it.
                let _ = subscriber.unbounded_send(object.clone());
            }
        };
        while let Some(event) = events.next().await {
            health::stick(&format!("watch-{}", K::plural(&()))).await;
            let event = match event {
                Ok(event) => event,
                Err(error) if is_refusal(&error) => {
                    if optional && !listed.send_replace(true) {
                        warn!(kind = %K::kind(&()), %error, "going on without; grant list and watch of this kind");
                    }
                    continue;
                }
                Err(error) => {
                    warn!(kind = %K::kind(&()), %error, "watch broken; trying again");
                    continue;
                }
            };
            writer.apply_watcher_event(&event);
            for index in &indexes {
                index.apply(&event);
            }
            match event {
                Event::Apply(object) | Event::Delete(object) => tell(Arc::new(object)),
                Event::InitDone => {
                    listed.send_replace(true);
                    store.state().into_iter().for_each(&tell);
                    for subscriber in &relisted {
                        let _ = subscriber.unbounded_send(());
                    }
                }
                Event::Init | Event::InitApply(_) => {}
            }
        }
    }
}

fn events<K: Object + Send + Sync + DeserializeOwned + 'static>(
    api: Api<K>,
) -> impl Stream<Item = watcher::Result<Event<K>>> {
    kube::runtime::watcher(api, watcher::Config::default()).default_backoff()
}
