//! What a request asks for: its path, its query and the form it wants the answer in.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::registry::{Registry, Resource};

/// What a path names.
pub(super) enum Target {
    /// Objects of a resource.
    Objects(Objects),
    /// Nothing stored: discovery, health and the like. The segments of the path.
    Other(Vec<String>),
}

/// Objects of a resource.
#[derive(Clone)]
pub(super) struct Objects {
    pub resource: Arc<Resource>,
    /// None: cluster-scoped, or those of all namespaces.
    pub namespace: Option<String>,
    /// None: the collection.
    pub name: Option<String>,
    /// Whether the path ends in `/status`.
    pub status: bool,
}

impl Target {
    /// Reads a path.
    ///
    /// # Errors
    /// Not found, when it has the form of a resource's path and no resource is there.
    pub fn parse(registry: &Registry, path: &str) -> Result<Self, Failure> {
        let segments = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode_str(segment).decode_utf8().map(|text| text.into_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Failure::bad_request(format!("path {path:?} is not UTF-8")))?;
        let texts: Vec<_> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match texts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Ok(Self::Other(segments)),
        };
        let (namespace, plural, rest) = match rest {
            [] => return Ok(Self::Other(segments)),
            // These are subresources of a namespace, not resources in it.
            ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest[0], &rest[1..]),
            ["namespaces", namespace, plural, rest @ ..] => (Some((*namespace).to_owned()), *plural, rest),
            [plural, rest @ ..] => (None, *plural, rest),
        };
        let resource = registry.find(group, version, plural).ok_or_else(Failure::no_such_path)?.clone();
        let (name, status) = match rest {
            [] => (None, false),
            [name] => (Some((*name).to_owned()), false),
            [name, "status"] if resource.has_status => (Some((*name).to_owned()), true),
            _ => return Err(Failure::no_such_path()),
        };
        // A namespaced object has a namespace, nothing else has.
        let fits =
            if resource.namespaced { name.is_none() || namespace.is_some() } else { namespace.is_none() };
        if !fits {
            return Err(Failure::no_such_path());
        }
        Ok(Self::Objects(Objects { resource, namespace, name, status }))
    }
}

/// The parameters of a request.
#[derive(Clone, Default)]
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// A parameter; absent and empty are the same.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let parse = |value: &str| {
            value.parse().map_err(|_| {
                Failure::bad_request(format!("query parameter {name}: {value:?} is no unsigned number"))
            })
        };
        self.get(name).map(parse).transpose()
    }

    /// Whether nothing shall be written.
    pub fn dry_run(&self) -> Result<bool, Failure> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let problem = format!("Unsupported value: [{other:?}]: supported values: \"All\"");
                Err(Failure::invalid_option("CreateOptions", "dryRun", "FieldValueNotSupported", &problem))
            }
        }
    }
}

/// The form that the caller wants objects in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`.
    Metadata,
    /// `meta.k8s.io/v1` `Table`.
    Table(RowObject),
}

/// What a table's rows carry besides their cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowObject {
    None,
    Metadata,
    Object,
}

impl Form {
    /// Reads the `Accept` header: the first form in it that is known. Whoever accepts none gets objects.
    pub fn of(parts: &Parts, query: &Query) -> Self {
        let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        for kind in accept.split(',') {
            let mut words = kind.split(';').map(str::trim);
            if words.next() != Some("application/json") {
                continue;
            }
            let parameters: HashMap<_, _> = words.filter_map(|word| word.split_once('=')).collect();
            match parameters.get("as") {
                None => return Self::Object,
                Some(_) if parameters.get("v") != Some(&"v1") => {}
                Some(&"Table") => {
                    return Self::Table(match query.get("includeObject") {
                        Some("None") => RowObject::None,
                        Some("Object") => RowObject::Object,
                        _ => RowObject::Metadata,
                    });
                }
                Some(&("PartialObjectMetadata" | "PartialObjectMetadataList")) => return Self::Metadata,
                Some(_) => {}
            }
        }
        Self::Object
    }
}

/// The media type of the body, without parameters; empty when there is none.
pub(super) fn content_type(parts: &Parts) -> &str {
    let header = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// Reads a body that is JSON.
pub(super) fn json<T: DeserializeOwned>(parts: &Parts, body: &[u8]) -> Result<T, Failure> {
    match content_type(parts) {
        "" | "application/json" => parse(body),
        other => Err(Failure::unsupported_media_type(other, "application/json")),
    }
}

/// Reads JSON, whatever the header says.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body of the request does not parse: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Form {
        let request = http::Request::get("/").header(ACCEPT, accept).body(()).expect("builds");
        Form::of(&request.into_parts().0, &Query::default())
    }

    #[test]
    fn the_first_known_form_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Form::Table(RowObject::Metadata));
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json"), Form::Object);
        assert_eq!(form("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), Form::Metadata);
        assert_eq!(form("application/json;as=Table;v=v1beta1;g=meta.k8s.io"), Form::Object);
    }

    #[test]
    fn paths_name_what_kubernetes_says_they_name() {
        let registry = Registry::new(Vec::new()).expect("built-in kinds");
        let read = |path| match Target::parse(&registry, path) {
            Ok(Target::Objects(objects)) => {
                Some((objects.resource.plural.clone(), objects.namespace, objects.name, objects.status))
            }
            _ => None,
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("/api/v1/pods"), Some(("pods".to_owned(), None, None, false)));
        assert_eq!(
            read("/api/v1/namespaces/a/pods/b/status"),
            Some(("pods".to_owned(), some("a"), some("b"), true))
        );
        assert_eq!(read("/api/v1/namespaces/a"), Some(("namespaces".to_owned(), None, some("a"), false)));
        assert_eq!(
            read("/api/v1/namespaces/a/status"),
            Some(("namespaces".to_owned(), None, some("a"), true))
        );
        for path in ["/api/v1/pods/b", "/api/v1/namespaces/a/nodes", "/apis/apps/v1/pods", "/api/v1"] {
            assert_eq!(read(path), None, "{path}");
        }
    }
}
