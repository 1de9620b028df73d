//! Watches.

use super::*;
use futures::{Stream, StreamExt};
use kube::api::{WatchEvent, WatchParams};
use std::fmt::Debug;
use std::pin::Pin;

/// The events of a watch, one by one.
pub struct Events<K>(Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<K>>> + Send>>);

impl<K: Clone + Debug + ResourceExt + serde::de::DeserializeOwned + Send + 'static> Events<K> {
    pub async fn of(api: &Api<K>, params: &WatchParams, revision: &str) -> Self {
        Self(Box::pin(api.watch(params, revision).await.expect("watch")))
    }

    pub async fn next(&mut self) -> Option<WatchEvent<K>> {
        soon("an event of the watch", self.0.next()).await.map(|event| event.expect("event"))
    }

    /// The next event that is no bookmark, as `TYPE name`.
    pub async fn short(&mut self) -> String {
        loop {
            let (type_, object) = match self.next().await.expect("the watch goes on") {
                WatchEvent::Added(object) => ("ADDED", object),
                WatchEvent::Modified(object) => ("MODIFIED", object),
                WatchEvent::Deleted(object) => ("DELETED", object),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return format!("ERROR {}", status.code),
            };
            return format!("{type_} {}", object.name_any());
        }
    }
}

fn params() -> WatchParams {
    WatchParams { bookmarks: false, ..WatchParams::default() }
}

pub async fn watch_resumes_from_a_revision(client: Client) {
    let api = claims(&client).await;
    created(&api, "before").await;
    let list = api.list(&Default::default()).await.expect("list");
    let start = list.metadata.resource_version.expect("revision");
    created(&api, "a").await;
    let mut events = Events::of(&api, &params(), &start).await;
    assert_eq!(events.short().await, "ADDED a", "missed while nobody watched");
    let changed = merge(&api, "a", json!({ "metadata": { "labels": { "x": "y" } } })).await.expect("patch");
    assert_eq!(events.short().await, "MODIFIED a");
    api.delete("a", &Default::default()).await.expect("delete");
    assert_eq!(events.short().await, "DELETED a");
    let mut resumed = Events::of(&api, &params(), &changed.resource_version().expect("revision")).await;
    assert_eq!(resumed.short().await, "DELETED a", "each event once, in order");
}

pub async fn watch_without_a_revision_starts_with_what_is_there(client: Client) {
    let api = claims(&client).await;
    created(&api, "a").await;
    for revision in ["", "0"] {
        let mut events = Events::of(&api, &params(), revision).await;
        assert_eq!(events.short().await, "ADDED a", "{revision:?}");
        created(&api, &format!("b{revision}")).await;
        if revision == "0" {
            assert_eq!(events.short().await, "ADDED b");
        }
        assert_eq!(events.short().await, format!("ADDED b{revision}"));
    }
}

pub async fn leaving_the_selection_is_a_deletion(client: Client) {
    let api = Api::<VpcIP>::all(client.clone());
    let node = format!("node-{}", namespace(&client).await);
    let start =
        api.list(&Default::default()).await.expect("list").metadata.resource_version.expect("revision");
    let mine = params().fields(&format!("status.nodeName={node}"));
    let mut events = Events::of(&api, &mine, &start).await;
    let ip = "198.51.100.7";
    bound(&api, ip, &node).await;
    assert_eq!(events.short().await, format!("ADDED {ip}"), "entering");
    let to = |name: &str| Patch::Merge(json!({ "status": { "nodeName": name } }));
    let moved = api.patch_status(ip, &PatchParams::default(), &to("elsewhere")).await.expect("status");
    match events.next().await {
        Some(WatchEvent::Deleted(last)) => {
            assert_eq!(last.state().node_name, Some(node.clone()), "the last state that was selected");
            assert_eq!(last.resource_version(), moved.resource_version());
        }
        other => panic!("{other:?}"),
    }
    let unseen = json!({ "status": { "epoch": 4 } });
    api.patch_status(ip, &PatchParams::default(), &Patch::Merge(unseen)).await.expect("status");
    api.patch_status(ip, &PatchParams::default(), &to(&node)).await.expect("status");
    assert_eq!(events.short().await, format!("ADDED {ip}"));
    api.delete(ip, &Default::default()).await.expect("delete");
    assert_eq!(events.short().await, format!("DELETED {ip}"));
}

pub async fn initial_events_end_with_a_bookmark(client: Client) {
    let api = claims(&client).await;
    created(&api, "a").await;
    created(&api, "b").await;
    let mut events = Events::of(&api, &WatchParams::default().initial_events(), "").await;
    assert_eq!(events.short().await, "ADDED a");
    assert_eq!(events.short().await, "ADDED b");
    match events.next().await {
        Some(WatchEvent::Bookmark(bookmark)) => {
            let end = bookmark.metadata.annotations.get("k8s.io/initial-events-end");
            assert_eq!(end.map(String::as_str), Some("true"));
            assert!(!bookmark.metadata.resource_version.is_empty());
        }
        other => panic!("{other:?}"),
    }
    created(&api, "c").await;
    assert_eq!(events.short().await, "ADDED c");
}

pub async fn a_watch_ends_at_its_timeout(client: Client) {
    let api = claims(&client).await;
    let mut events = Events::of(&api, &params().timeout(1), "0").await;
    assert!(events.next().await.is_none());
}

pub async fn a_watch_sees_one_namespace(client: Client) {
    let (mine, other) = (claims(&client).await, claims(&client).await);
    let mut events = Events::of(&mine, &params(), "0").await;
    created(&other, "elsewhere").await;
    created(&mine, "here").await;
    assert_eq!(events.short().await, "ADDED here");
}

pub async fn a_removed_object_is_shown_last(client: Client) {
    let api = claims(&client).await;
    created(&api, "a").await;
    let held =
        merge(&api, "a", json!({ "metadata": { "finalizers": ["example.com/a"] } })).await.expect("patch");
    let mut events = Events::of(&api, &params(), &held.resource_version().expect("revision")).await;
    api.delete("a", &Default::default()).await.expect("delete");
    assert_eq!(events.short().await, "MODIFIED a", "marked as deleted");
    merge(&api, "a", json!({ "metadata": { "finalizers": [] } })).await.expect("patch");
    match events.next().await {
        Some(WatchEvent::Deleted(last)) => assert!(revision(&last) > revision(&held)),
        other => panic!("{other:?}"),
    }
}
