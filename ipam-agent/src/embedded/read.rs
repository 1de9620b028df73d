//! Get and list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::Answer;
use super::failure::Failure;
use super::render;
use super::request::{Form, Objects, Query};
use super::selector::Filter;
use super::store::{Key, Store};

/// Where the next page of a list starts.
#[derive(Serialize, Deserialize)]
struct Continue {
    /// Revision of the first page, and so of all.
    revision: u64,
    /// The last object of the page before.
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> Result<String, Failure> {
        let json = serde_json::to_vec(self).map_err(|error| Failure::internal(error.to_string()))?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let json = URL_SAFE_NO_PAD.decode(token).ok();
        json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(|| {
            Failure::bad_request(format!("continue key is not valid: {token:?}; list again from the start"))
        })
    }
}

/// Answers with one object.
pub(super) fn get(store: &Store, target: &Objects, query: &Query, form: Form) -> Result<Answer, Failure> {
    if let Some(asked) = query.number("resourceVersion")? {
        let current = store.revision();
        if asked > current {
            return Err(Failure::from_the_future(asked, current));
        }
    }
    let name = target.name.clone().unwrap_or_default();
    let key = Key::new(target.namespace.clone().unwrap_or_default(), name);
    let object = store
        .get(target.resource.storage, &key)
        .ok_or_else(|| Failure::not_found(&target.resource, &key.name))?;
    Answer::json(http::StatusCode::OK, &render::one(&target.resource, form, &object.value))
}

/// Answers with a list, or a page of it.
pub(super) fn list(store: &Store, target: &Objects, query: &Query, form: Form) -> Result<Answer, Failure> {
    let resource = &target.resource;
    let filter = Filter::parse(resource, query.text("labelSelector"), query.text("fieldSelector"))?;
    let limit =
        query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let (after, at) = start(store, query, limit.is_some())?;
    let page = store.list(resource.storage, target.namespace.as_deref(), after, at)?;

    let limit = limit.unwrap_or(usize::MAX);
    let mut wanted = page.objects.iter().filter(|object| filter.matches(&object.value)).peekable();
    let shown: Vec<_> = wanted.by_ref().take(limit).collect();
    let mut metadata = json!({ "resourceVersion": page.revision.to_string() });
    if wanted.peek().is_some()
        && let Some(last) = shown.last().map(|object| object.key())
    {
        let token = Continue { revision: page.revision, namespace: last.namespace, name: last.name };
        metadata["continue"] = token.encode()?.into();
        if filter.selects_all() {
            metadata["remainingItemCount"] = wanted.count().into();
        }
    }
    let objects = shown.iter().map(|object| &object.value);
    let body = render::list(resource, form, metadata, objects)
        .map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Answer::Json(http::StatusCode::OK, body))
}

/// The object behind which the page starts, and the revision to list; `None` is the current one.
///
/// See "Semantics for get and list" in Kubernetes' "API Concepts".
fn start(store: &Store, query: &Query, limited: bool) -> Result<(Option<Key>, Option<u64>), Failure> {
    let revision = query.number("resourceVersion")?.filter(|revision| *revision > 0);
    if let Some(token) = query.get("continue") {
        if revision.is_some() {
            return Err(Failure::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::decode(token)?;
        return Ok((Some(Key::new(token.namespace, token.name)), Some(token.revision)));
    }
    let exact = match query.get("resourceVersionMatch") {
        Some("Exact") if revision.is_none() => {
            return Err(bad_match(
                "FieldValueForbidden",
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        Some("Exact") => true,
        Some("NotOlderThan") => false,
        None => limited && revision.is_some(),
        Some(other) => {
            let problem =
                format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\"");
            return Err(bad_match("FieldValueNotSupported", &problem));
        }
    };
    match revision {
        Some(asked) if asked > store.revision() => Err(Failure::from_the_future(asked, store.revision())),
        Some(asked) if exact => Ok((None, Some(asked))),
        _ => Ok((None, None)),
    }
}

fn bad_match(reason: &str, problem: &str) -> Failure {
    Failure::invalid_option("ListOptions", "resourceVersionMatch", reason, problem)
}
