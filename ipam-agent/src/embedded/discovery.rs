//! What clients ask before they ask for objects: groups, versions, resources, health, and the bit of OpenAPI
//! that `kubectl create` and `kubectl explain` look at.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::failure::Failure;
use super::registry::{Registry, Resource};

/// The Kubernetes version whose semantics these are.
const MAJOR: &str = "1";
const MINOR: &str = "33";

/// Answers a GET of a path that names no objects.
pub(super) fn answer(registry: &Registry, path: &[String]) -> Result<Answer, Failure> {
    let texts: Vec<_> = path.iter().map(String::as_str).collect();
    let body = match texts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(Answer::Text("ok")),
        ["version"] => version(),
        ["api"] => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        ["api", version] => resources(registry, "", version)?,
        ["apis"] => {
            let groups: Vec<_> =
                groups(registry).iter().map(|(name, versions)| group(name, versions)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", name] => {
            let groups = groups(registry);
            let versions = groups.get(name).ok_or_else(Failure::no_such_path)?;
            let mut group = group(name, versions);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        ["apis", group, version] => resources(registry, group, version)?,
        ["openapi", "v3"] => openapi_index(registry),
        ["openapi", "v3", "api", version] => openapi(registry, "", version)?,
        ["openapi", "v3", "apis", group, version] => openapi(registry, group, version)?,
        _ => return Err(Failure::no_such_path()),
    };
    Answer::json(StatusCode::OK, &body)
}

fn version() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+ipam-agent-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// The named groups, with their versions.
fn groups(registry: &Registry) -> BTreeMap<&str, Vec<&str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in registry.resources.iter().filter(|resource| !resource.group.is_empty()) {
        let versions = groups.entry(&resource.group).or_default();
        if !versions.contains(&resource.version.as_str()) {
            versions.push(&resource.version);
        }
    }
    groups
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    json!({ "name": name, "preferredVersion": versions.first(), "versions": versions })
}

fn members<'a>(registry: &'a Registry, group: &str, version: &str) -> Result<Vec<&'a Resource>, Failure> {
    let members: Vec<_> = registry
        .resources
        .iter()
        .map(|resource| &**resource)
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if members.is_empty() { Err(Failure::no_such_path()) } else { Ok(members) }
}

fn resources(registry: &Registry, group: &str, version: &str) -> Result<Value, Failure> {
    let mut list = Vec::new();
    for resource in members(registry, group, version)? {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "shortNames": resource.short_names,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        });
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        if resource.has_status {
            list.push(json!({
                "name": format!("{}/status", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let group_version = group_version(group, version);
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list,
    }))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn prefix(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", group_version(group, version))
}

fn openapi_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for resource in &registry.resources {
        let prefix = prefix(&resource.group, &resource.version);
        let url = json!({ "serverRelativeURL": format!("/openapi/v3/{prefix}") });
        paths.insert(prefix, url);
    }
    json!({ "paths": paths })
}

/// The paths by which kubectl learns that `fieldValidation` is understood, and the schemas of custom resources.
fn openapi(registry: &Registry, group: &str, version: &str) -> Result<Value, Failure> {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in members(registry, group, version)? {
        let kind = json!({ "group": group, "version": version, "kind": resource.kind });
        let mut schema = resource
            .schema
            .as_ref()
            .map(|schema| schema.structure.clone())
            .unwrap_or_else(|| json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }));
        schema["x-kubernetes-group-version-kind"] = json!([kind]);
        let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{place}{}/{{name}}", prefix(group, version), resource.plural);
        let schema_name = format!("{group}.{version}.{}", resource.kind).trim_start_matches('.').to_owned();
        let content = json!({
            "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema_name}") } }
        });
        let operation = |action: &str, parameters: Value| {
            json!({
                "parameters": parameters,
                "responses": { "200": { "description": "OK", "content": content } },
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": kind,
            })
        };
        let in_query = |name| json!({ "in": "query", "name": name, "schema": { "type": "string" } });
        let writes = ["dryRun", "fieldManager", "fieldValidation"].map(in_query);
        paths.insert(
            path,
            json!({
                "get": operation("get", json!([])),
                "put": operation("put", json!(writes)),
                "patch": operation("patch", json!(writes)),
            }),
        );
        schemas.insert(schema_name, schema);
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": format!("v{MAJOR}.{MINOR}.0") },
        "paths": paths,
        "components": { "schemas": schemas },
    }))
}
