//! Reading and writing the metadata of objects that are JSON.

use serde_json::{Map, Value};

/// A field of the metadata.
pub(super) fn meta<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(field).filter(|value| !value.is_null())
}

/// A field of the metadata that is a string; empty when it is absent.
pub(super) fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    meta(object, field).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a field of the metadata. What is no object stays as it is.
pub(super) fn set_meta(object: &mut Value, field: &str, value: Value) {
    if let Some(metadata) = metadata(object) {
        metadata.insert(field.to_owned(), value);
    }
}

/// Removes a field of the metadata.
pub(super) fn remove_meta(object: &mut Value, field: &str) {
    if let Some(metadata) = metadata(object) {
        metadata.remove(field);
    }
}

fn metadata(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

/// Gives `to` the field that `from` has, or takes it away when `from` has none.
pub(super) fn copy_field(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => to.insert(field.to_owned(), value.clone()),
        None => to.remove(field),
    };
}

/// The finalizers.
pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    meta(object, "finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Whether deletion was asked for.
pub(super) fn is_deleting(object: &Value) -> bool {
    meta(object, "deletionTimestamp").is_some()
}

/// Whether everything but metadata and status is the same.
pub(super) fn same_spec(left: &Value, right: &Value) -> bool {
    let spec = |value: &Value| {
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<_, _>>()
    };
    spec(left) == spec(right)
}

/// The time as the API writes it: RFC 3339 in UTC, whole seconds.
pub(super) fn now() -> Value {
    Value::String(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
