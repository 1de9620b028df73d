//! Create, replace, patch and delete: what each makes of an object, decided where nothing changes it meanwhile.

use std::sync::Arc;

use http::request::Parts;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::object::{copy_field, finalizers, is_deleting, meta, meta_str, now, remove_meta, set_meta};
use super::registry::{Registry, Resource};
use super::request::{self, Objects, Query};
use super::schema::{cause, rules_not_checked};
use super::store::{Key, KindId, Object, Store};
use super::update::Update;
use super::validate::{check_identity, check_kind, check_name, normalized};
use super::writer::{Decide, Outcome, Verdict, Writer};

/// Media types of patches.
const PATCHES: &str = "application/json-patch+json, application/merge-patch+json";
/// Attempts at a free name for `generateName`; as many as kube-apiserver makes.
const NAME_ATTEMPTS: usize = 8;

/// What writes need.
#[derive(Clone)]
pub(super) struct Writes {
    pub registry: Arc<Registry>,
    pub store: Arc<Store>,
    pub writer: Writer,
}

/// The part of `meta/v1` `DeleteOptions` that means something here. Grace periods do not: no kubelet has
/// containers to stop; nor does propagation: nothing collects garbage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    preconditions: Preconditions,
    dry_run: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
}

impl Writes {
    /// Creates an object. Its namespace is made when it is not there: a machine without a cluster has nobody
    /// who would.
    pub async fn create(
        &self,
        target: &Objects,
        query: &Query,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Outcome, Failure> {
        let resource = &target.resource;
        let mut object: Value = request::json(parts, body)?;
        check_kind(resource, &mut object)?;
        let namespace = target.namespace.clone().unwrap_or_default();
        let given = meta_str(&object, "namespace");
        if !given.is_empty() && given != namespace {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object ({given}) does not match that of the request ({namespace})"
            )));
        }
        if resource.namespaced {
            set_meta(&mut object, "namespace", namespace.clone().into());
        }
        if !meta_str(&object, "resourceVersion").is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for field in [
            "resourceVersion",
            "selfLink",
            "managedFields",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            remove_meta(&mut object, field);
        }
        set_meta(&mut object, "generation", 1.into());
        if resource.has_status {
            copy_field(&serde_json::json!({}), &mut object, "status");
            if let Some(status) = &resource.initial_status {
                object["status"] = status.clone();
            }
        }
        let prefix = meta_str(&object, "generateName").to_owned();
        let mut name = meta_str(&object, "name").to_owned();
        let generated = name.is_empty();
        if generated && prefix.is_empty() {
            let problem = "Required value: name or generateName is required".to_owned();
            let causes = vec![cause("metadata.name", "FieldValueRequired", problem), rules_not_checked()];
            return Err(Failure::invalid_fields(resource, "", causes));
        }
        if generated {
            // Before the rules, which may be about it.
            name = format!("{prefix}{}", suffix());
            set_meta(&mut object, "name", name.clone().into());
        }
        let object = normalized(resource, object, None, query)?;
        let dry_run = query.dry_run()?;
        if resource.namespaced && !dry_run {
            self.ensure_namespace(&namespace).await?;
        }
        let mut outcome = self.insert(resource, &namespace, &name, object.clone(), dry_run).await;
        for _ in 1..NAME_ATTEMPTS {
            if !generated || !outcome.as_ref().is_err_and(Failure::is_already_exists) {
                break;
            }
            name = format!("{prefix}{}", suffix());
            outcome = self.insert(resource, &namespace, &name, object.clone(), dry_run).await;
        }
        outcome
    }

    async fn insert(
        &self,
        resource: &Arc<Resource>,
        namespace: &str,
        name: &str,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Outcome, Failure> {
        check_name(resource, name)?;
        stamp(&mut object, name);
        let object = self.to_stored(resource, &object);
        let (resource, name) = (resource.clone(), name.to_owned());
        let key = Key::new(namespace, &name);
        let storage = resource.storage;
        let decide: Decide = Box::new(move |current| match current {
            Some(_) => Err(Failure::already_exists(&resource, &name)),
            None => Ok(Verdict::Put(object)),
        });
        self.writer.write(storage, key, dry_run, decide).await
    }

    /// Makes a namespace if it is not there.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), Failure> {
        let Some(namespaces) = self.registry.find("", "v1", "namespaces") else { return Ok(()) };
        if self.store.get(namespaces.storage, &Key::new("", name)).is_some() {
            return Ok(());
        }
        let object = namespace(name);
        match self.insert(namespaces, "", name, object, false).await {
            Err(failure) if failure.is_already_exists() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Replaces an object, or its status.
    pub async fn replace(
        &self,
        target: &Objects,
        query: &Query,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Outcome, Failure> {
        let mut object: Value = request::json(parts, body)?;
        check_kind(&target.resource, &mut object)?;
        let update = Update::new(self, target, query, false);
        check_identity(&update.key, &mut object)?;
        self.update(target, query, update, move |_| Ok(object)).await
    }

    /// Patches an object, or its status.
    pub async fn patch(
        &self,
        target: &Objects,
        query: &Query,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Outcome, Failure> {
        let patch = match request::content_type(parts) {
            "application/merge-patch+json" => Patch::Merge(request::parse(body)?),
            "application/json-patch+json" => Patch::Json(request::parse(body)?),
            other => return Err(Failure::unsupported_media_type(other, PATCHES)),
        };
        let update = Update::new(self, target, query, true);
        let (resource, key) = (target.resource.clone(), update.key.clone());
        self.update(target, query, update, move |old| {
            let mut object = old.clone();
            match &patch {
                Patch::Merge(patch) => json_patch::merge(&mut object, patch),
                Patch::Json(patch) => {
                    json_patch::patch(&mut object, patch).map_err(|_| Failure::unfit_patch())?
                }
            }
            check_kind(&resource, &mut object)?;
            check_identity(&key, &mut object)?;
            Ok(object)
        })
        .await
    }

    async fn update(
        &self,
        target: &Objects,
        query: &Query,
        update: Update,
        new: impl FnOnce(&Value) -> Result<Value, Failure> + Send + 'static,
    ) -> Result<Outcome, Failure> {
        let key = update.key.clone();
        let decide: Decide = Box::new(move |current| {
            let Some(current) = current else {
                return Err(Failure::not_found(&update.resource, &update.key.name));
            };
            let old = update.resource.shown(&current.value);
            let new = new(&old)?;
            update.settle(&old, new)
        });
        self.writer.write(target.resource.storage, key, query.dry_run()?, decide).await
    }

    /// Deletes an object, or marks it as deleted while finalizers hold it.
    pub async fn delete(
        &self,
        target: &Objects,
        query: &Query,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Outcome, Failure> {
        let options = delete_options(parts, body)?;
        let dry_run = query.dry_run()? || options.dry_run.iter().any(|word| word == "All");
        let key = key_of(target);
        if target.resource.group.is_empty() && target.resource.kind == "Namespace" {
            let unimportant = |kind: KindId| {
                kind == target.resource.storage || self.registry.storages[kind].capacity.is_some()
            };
            if self.store.namespace_in_use(&key.name, unimportant) {
                return Err(Failure::conflict(
                    &target.resource,
                    &key.name,
                    "the namespace is not empty; delete its objects first",
                ));
            }
        }
        self.remove(&target.resource, key, options.preconditions, dry_run).await
    }

    /// Deletes the objects of these keys; those that are gone by then are no error.
    pub async fn delete_all(
        &self,
        resource: &Arc<Resource>,
        keys: Vec<Key>,
        dry_run: bool,
    ) -> Result<Vec<Outcome>, Failure> {
        let removals =
            keys.into_iter().map(|key| self.remove(resource, key, Preconditions::default(), dry_run));
        let outcomes = futures::future::join_all(removals).await;
        outcomes.into_iter().filter(|outcome| !outcome.as_ref().is_err_and(Failure::is_not_found)).collect()
    }

    async fn remove(
        &self,
        resource: &Arc<Resource>,
        key: Key,
        preconditions: Preconditions,
        dry_run: bool,
    ) -> Result<Outcome, Failure> {
        let (resource, name) = (resource.clone(), key.name.clone());
        let storage = resource.storage;
        let decide: Decide = Box::new(move |current| {
            let current = current.ok_or_else(|| Failure::not_found(&resource, &name))?;
            preconditions.check(&resource, &name, current)?;
            let mut object = current.value.clone();
            if finalizers(&object).is_empty() {
                return Ok(Verdict::Remove(object));
            }
            if is_deleting(&object) {
                return Ok(Verdict::Keep);
            }
            let generation = meta(&object, "generation").and_then(Value::as_i64).unwrap_or(0);
            set_meta(&mut object, "deletionTimestamp", now());
            set_meta(&mut object, "deletionGracePeriodSeconds", 0.into());
            set_meta(&mut object, "generation", (generation + 1).into());
            Ok(Verdict::Put(object))
        });
        self.writer.write(storage, key, dry_run, decide).await
    }

    pub fn to_stored(&self, resource: &Resource, object: &Value) -> Value {
        match self.registry.stored_form(resource) {
            Some(stored) if !resource.shows_as_stored() => resource.to_stored(object, stored),
            _ => object.clone(),
        }
    }
}

impl Preconditions {
    fn check(&self, resource: &Resource, name: &str, current: &Object) -> Result<(), Failure> {
        let fields =
            [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.resource_version)];
        for (title, field, wanted) in fields {
            let actual = meta_str(&current.value, field);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != actual) {
                return Err(Failure::precondition(resource, name, title, wanted, actual));
            }
        }
        Ok(())
    }
}

/// A new namespace, as it is stored.
pub(super) fn namespace(name: &str) -> Value {
    let mut object = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "generation": 1, "labels": { "kubernetes.io/metadata.name": name } },
        "status": { "phase": "Active" },
    });
    stamp(&mut object, name);
    object
}

/// Gives a new object its identity.
fn stamp(object: &mut Value, name: &str) {
    set_meta(object, "name", name.into());
    set_meta(object, "uid", uuid::Uuid::new_v4().to_string().into());
    set_meta(object, "creationTimestamp", now());
}

pub(super) fn key_of(target: &Objects) -> Key {
    Key::new(target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default())
}

fn delete_options(parts: &Parts, body: &[u8]) -> Result<DeleteOptions, Failure> {
    if body.is_empty() { Ok(DeleteOptions::default()) } else { request::json(parts, body) }
}

/// Five letters and digits without vowels or look-alikes, as kube-apiserver's.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}
