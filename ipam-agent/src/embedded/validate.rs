//! Checks of objects that come in.

use serde_json::Value;

use super::failure::Failure;
use super::object::{meta_str, set_meta};
use super::registry::Resource;
use super::request::Query;
use super::store::Key;

/// Checks that an object is of the resource's kind; what it does not say is filled in.
pub(super) fn check_kind(resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Failure::bad_request("the body of the request is no JSON object"));
    };
    for (field, wanted) in [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())] {
        let given = fields.entry(field).or_insert_with(|| wanted.clone().into());
        if *given != wanted {
            let problem = format!("Invalid value: {given}: must be {wanted}");
            let name = meta_str(object, "name").to_owned();
            return Err(Failure::invalid(resource, &name, field, &problem));
        }
    }
    Ok(())
}

/// Checks that an object is the one that the path names; a namespace that it does not say is filled in.
pub(super) fn check_identity(key: &Key, object: &mut Value) -> Result<(), Failure> {
    if meta_str(object, "namespace").is_empty() && !key.namespace.is_empty() {
        set_meta(object, "namespace", key.namespace.clone().into());
    }
    for (field, wanted) in [("name", &key.name), ("namespace", &key.namespace)] {
        let given = meta_str(object, field);
        if given != wanted {
            return Err(Failure::bad_request(format!(
                "the {field} of the object ({given}) does not match the {field} on the URL ({wanted})"
            )));
        }
    }
    Ok(())
}

/// Checks a name: a DNS subdomain (RFC 1123), as all kinds here have it.
pub(super) fn check_name(resource: &Resource, name: &str) -> Result<(), Failure> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let problem = format!(
        "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    );
    Err(Failure::invalid(resource, name, "metadata.name", &problem))
}

/// Holds an object, which `old` becomes, against its schema, and reads it into its type and back. With
/// `fieldValidation=Strict`, fields that the type does not have are refused; else they are dropped, as kube-apiserver
/// prunes them.
pub(super) fn normalized(
    resource: &Resource,
    object: Value,
    old: Option<&Value>,
    query: &Query,
) -> Result<Value, Failure> {
    let given = (query.get("fieldValidation") == Some("Strict")).then(|| object.clone());
    let name = meta_str(&object, "name").to_owned();
    let problems = resource.schema.as_ref().map(|schema| schema.problems(&object, old)).unwrap_or_default();
    if !problems.is_empty() {
        return Err(Failure::invalid_fields(resource, &name, problems));
    }
    let normal = (resource.normalize)(object)
        .map_err(|invalid| Failure::invalid(resource, &name, &invalid.field, &invalid.problem))?;
    if let Some(given) = given {
        let mut unknown = Vec::new();
        collect_lost(&given, &normal, "", &mut unknown);
        if !unknown.is_empty() {
            return Err(Failure::bad_request(format!("strict decoding error: {}", unknown.join(", "))));
        }
    }
    Ok(normal)
}

/// Names the fields that have a value in `given` and are absent from `kept`.
fn collect_lost(given: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match kept.get(name) {
                    Some(kept) => collect_lost(value, kept, &path, lost),
                    // A default that its type leaves out when it writes.
                    None if is_empty(value) => {}
                    None => lost.push(format!("unknown field {path:?}")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                collect_lost(given, kept, &format!("{path}[{index}]"), lost);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
