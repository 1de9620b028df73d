//! Objects of a kind by a key: what would otherwise be a walk over the whole cache at every event.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::runtime::watcher::Event;

use super::write::Object;

/// Refs of the objects that have a key; kept by the [`super::feed::Feed`] of the kind, one event at a time.
pub struct Index<K: Object + 'static> {
    key: fn(&K) -> Option<String>,
    entries: RwLock<Entries<K>>,
}

struct Entries<K: Object + 'static> {
    by_key: HashMap<String, HashSet<ObjectRef<K>>>,
    keys: HashMap<ObjectRef<K>, String>,
    /// What a list under way has shown so far.
    listing: Vec<(ObjectRef<K>, Option<String>)>,
}

impl<K: Object + 'static> Index<K>
where
    ObjectRef<K>: Eq + Hash,
{
    /// An empty index by a key; objects without one are not in it.
    pub fn new(key: fn(&K) -> Option<String>) -> Arc<Self> {
        let entries = Entries { by_key: HashMap::new(), keys: HashMap::new(), listing: Vec::new() };
        Arc::new(Self { key, entries: RwLock::new(entries) })
    }

    /// The objects of a key.
    pub fn get(&self, key: &str) -> Vec<ObjectRef<K>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.get(key).into_iter().flatten().cloned().collect()
    }

    /// Takes an event in, before anybody is told of it.
    pub fn apply(&self, event: &Event<K>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Apply(object) => entries.put(object.to_object_ref(()), (self.key)(object)),
            Event::Delete(object) => entries.put(object.to_object_ref(()), None),
            Event::Init => entries.listing.clear(),
            Event::InitApply(object) => {
                entries.listing.push((object.to_object_ref(()), (self.key)(object)));
            }
            Event::InitDone => {
                let listing = std::mem::take(&mut entries.listing);
                entries.by_key.clear();
                entries.keys.clear();
                for (object, key) in listing {
                    entries.put(object, key);
                }
            }
        }
    }
}

impl<K: Object + 'static> Entries<K>
where
    ObjectRef<K>: Eq + Hash,
{
    fn put(&mut self, object: ObjectRef<K>, key: Option<String>) {
        if self.keys.get(&object) == key.as_ref() {
            return;
        }
        if let Some(old) = self.keys.remove(&object)
            && let Some(objects) = self.by_key.get_mut(&old)
        {
            objects.remove(&object);
            if objects.is_empty() {
                self.by_key.remove(&old);
            }
        }
        if let Some(key) = key {
            self.by_key.entry(key.clone()).or_default().insert(object.clone());
            self.keys.insert(object, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Node;
    use kube::ResourceExt;
    use proptest::prelude::*;

    use super::*;

    fn node(name: u8, zone: Option<u8>) -> Node {
        let labels = zone.map(|zone| BTreeMap::from([("zone".to_owned(), zone.to_string())]));
        let metadata = kube::api::ObjectMeta { name: Some(name.to_string()), labels, ..Default::default() };
        Node { metadata, ..Node::default() }
    }

    fn any_event() -> impl Strategy<Value = Event<Node>> {
        (0..5u8, 0..5u8, proptest::option::of(0..3u8)).prop_map(|(kind, name, zone)| match kind {
            0 => Event::Init,
            1 => Event::InitApply(node(name, zone)),
            2 => Event::InitDone,
            3 => Event::Delete(node(name, zone)),
            _ => Event::Apply(node(name, zone)),
        })
    }

    proptest! {
        /// Whatever is watched and listed anew, the index is what a walk over the objects would find.
        #[test]
        fn the_index_is_what_a_walk_would_find(events in proptest::collection::vec(any_event(), 0..60)) {
            let zone_of = |node: &Node| node.labels().get("zone").cloned();
            let index = Index::new(zone_of);
            let (mut objects, mut listing) = (BTreeMap::new(), BTreeMap::new());
            for event in events {
                index.apply(&event);
                match event {
                    Event::Init => listing.clear(),
                    Event::InitApply(node) => { listing.insert(node.name_any(), node); }
                    Event::InitDone => objects = std::mem::take(&mut listing),
                    Event::Apply(node) => { objects.insert(node.name_any(), node); }
                    Event::Delete(node) => { objects.remove(&node.name_any()); }
                }
                for zone in 0..3u8 {
                    let mut found: Vec<String> = index.get(&zone.to_string()).into_iter().map(|node| node.name).collect();
                    found.sort();
                    let walked: Vec<String> = objects.values().filter(|node| zone_of(node) == Some(zone.to_string())).map(ResourceExt::name_any).collect();
                    prop_assert_eq!(found, walked);
                }
            }
        }
    }
}
