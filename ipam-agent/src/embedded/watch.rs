//! Watches: the changes of the log, as the events that one caller wants to see.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, unfold};
use serde::Serialize;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Interval, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::registry::Resource;
use super::render;
use super::request::{Form, Objects, Query};
use super::selector::Filter;
use super::store::{Change, Object, Store};

/// Most changes that are read, or objects that are shown, at once.
const CHUNK: usize = 500;
/// How long a watch lasts when its caller does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1_800);

/// A running watch.
struct Watch {
    store: Arc<Store>,
    revisions: Receiver<u64>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    filter: Filter,
    form: Form,
    /// Everything up to this revision has been sent.
    position: u64,
    /// The objects that were there at the start, if they are wanted and not yet sent.
    initial: Option<std::vec::IntoIter<Arc<Object>>>,
    /// Whether a bookmark tells the end of the initial objects.
    announce: bool,
    bookmarks: Option<Interval>,
    deadline: Instant,
    stop: CancellationToken,
    finished: bool,
}

/// Starts a watch, which ends with `stop`.
///
/// # Errors
/// Those of the parameters. A revision that is too old is told by an event of the watch, as kube-apiserver does.
pub(super) fn start(
    store: Arc<Store>,
    target: &Objects,
    query: &Query,
    form: Form,
    bookmark_period: Duration,
    stop: CancellationToken,
) -> Result<BoxStream<'static, Bytes>, Failure> {
    let resource = target.resource.clone();
    let filter = Filter::parse(&resource, query.text("labelSelector"), query.text("fieldSelector"))?;
    let asked = query.number("resourceVersion")?.filter(|revision| *revision > 0);
    let send_initial = query.get("sendInitialEvents").map(|value| value == "true");
    if send_initial.is_some() && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Failure::invalid_option(
            "ListOptions",
            "resourceVersionMatch",
            "FieldValueForbidden",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if send_initial.is_none() && query.get("resourceVersionMatch").is_some() {
        return Err(Failure::invalid_option(
            "ListOptions",
            "resourceVersionMatch",
            "FieldValueForbidden",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    let revisions = store.subscribe();
    let (position, initial) = match (send_initial, asked) {
        (Some(true), Some(asked)) if asked > store.revision() => {
            return Err(Failure::from_the_future(asked, store.revision()));
        }
        (Some(true), _) | (None, None) => {
            let page = store.list(resource.storage, target.namespace.as_deref(), None, None)?;
            (page.revision, Some(page.objects.into_iter()))
        }
        (_, Some(asked)) => (asked, None),
        (Some(false), None) => (store.revision(), None),
    };
    let bookmarks = query.flag("allowWatchBookmarks");
    let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let watch = Watch {
        announce: bookmarks && send_initial == Some(true),
        bookmarks: bookmarks.then(|| interval_at(Instant::now() + bookmark_period, bookmark_period)),
        deadline: Instant::now() + timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        namespace: target.namespace.clone(),
        store,
        revisions,
        resource,
        filter,
        form,
        position,
        initial,
        stop,
        finished: false,
    };
    Ok(unfold(watch, |mut watch| async { watch.next().await.map(|chunk| (chunk, watch)) }).boxed())
}

impl Watch {
    /// The next events, one JSON document a line.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.initial_objects() {
            return Some(chunk.into());
        }
        while !self.finished {
            self.revisions.borrow_and_update();
            match self.store.changes(self.position, CHUNK) {
                Ok((changes, upto)) => {
                    self.position = upto;
                    let mut chunk = Vec::new();
                    for change in &changes {
                        self.show(change, &mut chunk);
                    }
                    if !chunk.is_empty() {
                        return Some(chunk.into());
                    }
                    if upto < self.store.revision() {
                        continue;
                    }
                }
                Err(expired) => {
                    self.finished = true;
                    return Some(event("ERROR", expired.status()).into());
                }
            }
            if self.store.is_closed() {
                return None;
            }
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.revisions.changed() => changed.ok()?,
                _ = bookmark => return Some(self.bookmark(false).into()),
                () = self.stop.cancelled() => return None,
                () = sleep_until(self.deadline) => {
                    self.finished = true;
                    return self.bookmarks.is_some().then(|| self.bookmark(false).into());
                }
            }
        }
        None
    }

    fn initial_objects(&mut self) -> Option<Vec<u8>> {
        let mut objects = self.initial.take()?;
        let mut chunk = Vec::new();
        for object in objects.by_ref().filter(|object| self.filter.matches(&object.value)).take(CHUNK) {
            chunk.extend(event("ADDED", &render::one(&self.resource, self.form, &object.value)));
        }
        if objects.len() > 0 {
            self.initial = Some(objects);
        } else if self.announce {
            chunk.extend(self.bookmark(true));
        }
        (!chunk.is_empty()).then_some(chunk)
    }

    fn bookmark(&self, initial_events_end: bool) -> Vec<u8> {
        let object = render::bookmark(&self.resource, self.form, self.position, initial_events_end);
        event("BOOKMARK", &object)
    }

    /// What a change means to someone who sees only what the filter lets through.
    fn show(&self, change: &Change, chunk: &mut Vec<u8>) {
        let inside = self.namespace.as_ref().is_none_or(|namespace| change.key.namespace == *namespace);
        if change.kind != self.resource.storage || !inside {
            return;
        }
        let before = change.before.as_ref().filter(|object| self.filter.matches(&object.value));
        let now = !change.removed && self.filter.matches(&change.object.value);
        let shown = |object| render::one(&self.resource, self.form, object);
        match (before, now) {
            (None, false) => {}
            (None, true) => chunk.extend(event("ADDED", &shown(&change.object.value))),
            (Some(_), true) => chunk.extend(event("MODIFIED", &shown(&change.object.value))),
            (Some(_), false) if change.removed => {
                chunk.extend(event("DELETED", &shown(&change.object.value)))
            }
            // It has left the selection: gone for this caller, who gets the last state that was selected.
            (Some(last), false) => {
                let last = Object::at(change.object.revision, last.value.clone());
                chunk.extend(event("DELETED", &shown(&last.value)));
            }
        }
    }
}

fn event(type_: &str, object: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a, T> {
        r#type: &'a str,
        object: &'a T,
    }
    // Nothing here fails to serialize: the objects are JSON already.
    let mut line = serde_json::to_vec(&Event { r#type: type_, object }).unwrap_or_default();
    line.push(b'\n');
    line
}
