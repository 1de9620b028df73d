//! What a replacement or a patch makes of an object.

use std::sync::Arc;

use serde_json::Value;

use super::failure::Failure;
use super::object::{copy_field, finalizers, is_deleting, meta, meta_str, remove_meta, same_spec, set_meta};
use super::registry::Resource;
use super::request::{Objects, Query};
use super::schema::cause;
use super::store::Key;
use super::validate::normalized;
use super::write::{Writes, key_of};
use super::writer::Verdict;

/// A replacement or patch on its way.
pub(super) struct Update {
    writes: Writes,
    pub resource: Arc<Resource>,
    pub key: Key,
    /// Whether only the status changes.
    status: bool,
    /// Whether it is a patch: then what it does not mention is as it was, and needs no resourceVersion.
    patch: bool,
    query: Query,
}

impl Update {
    pub fn new(writes: &Writes, target: &Objects, query: &Query, patch: bool) -> Self {
        Self {
            writes: writes.clone(),
            resource: target.resource.clone(),
            key: key_of(target),
            status: target.status,
            patch,
            query: query.clone(),
        }
    }

    /// What becomes of `old` when `new` is asked for.
    pub fn settle(&self, old: &Value, mut new: Value) -> Result<Verdict, Failure> {
        let (resource, name) = (&*self.resource, self.key.name.as_str());
        self.check_preconditions(old, &new)?;
        if self.status {
            let mut kept = old.clone();
            copy_field(&new, &mut kept, "status");
            new = kept;
        } else if resource.has_status {
            copy_field(old, &mut new, "status");
        }
        // Which the server alone writes.
        let own = [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "generation",
            "generateName",
            "resourceVersion",
        ];
        for field in own.into_iter().chain(["deletionTimestamp", "deletionGracePeriodSeconds"]) {
            match meta(old, field) {
                Some(value) => set_meta(&mut new, field, value.clone()),
                None => remove_meta(&mut new, field),
            }
        }
        remove_meta(&mut new, "selfLink");
        remove_meta(&mut new, "managedFields");
        let mut new = normalized(resource, new, Some(old), &self.query)?;

        if is_deleting(old) {
            let held = finalizers(old);
            if let Some(added) = finalizers(&new).iter().find(|finalizer| !held.contains(finalizer)) {
                let problem = format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{added:?}}}"
                );
                let causes = vec![cause("metadata.finalizers", "FieldValueForbidden", problem)];
                return Err(Failure::invalid_fields(resource, name, causes));
            }
        }
        if !same_spec(old, &new) {
            let generation = meta(old, "generation").and_then(Value::as_i64).unwrap_or(0);
            set_meta(&mut new, "generation", (generation + 1).into());
        }
        if new == *old {
            return Ok(Verdict::Keep);
        }
        let stored = self.writes.to_stored(resource, &new);
        if is_deleting(&new) && finalizers(&new).is_empty() {
            return Ok(Verdict::Remove(stored));
        }
        Ok(Verdict::Put(stored))
    }

    fn check_preconditions(&self, old: &Value, new: &Value) -> Result<(), Failure> {
        let (resource, name) = (&*self.resource, self.key.name.as_str());
        let revision = meta_str(new, "resourceVersion");
        if revision.is_empty() {
            if !self.patch && !resource.unconditional_update {
                return Err(Failure::no_version(resource, name));
            }
        } else if revision != meta_str(old, "resourceVersion") {
            return Err(Failure::stale(resource, name));
        }
        let (given, actual) = (meta_str(new, "uid"), meta_str(old, "uid"));
        if !given.is_empty() && given != actual {
            if self.patch {
                let problem = format!("Invalid value: {given:?}: field is immutable");
                return Err(Failure::invalid(resource, name, "metadata.uid", &problem));
            }
            let why =
                format!("Precondition failed: UID in precondition: {given}, UID in object meta: {actual}");
            return Err(Failure::conflict(resource, name, &why));
        }
        Ok(())
    }
}
