//! The built-in kinds of Kubernetes that the product, `kubectl` and owners of pods need.
//!
//! Tables show the columns that an operator looks for, not all that kube-apiserver has.

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Namespace, Node, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::object;
use super::registry::{Column, Registry, Resource, metadata_fields, normalize};

/// Events beyond these are dropped, the oldest first; kube-apiserver drops them after an hour instead.
const EVENTS: usize = 1_000;

/// The names by which `events.k8s.io/v1` and `v1` call the same fields of an event. The stored form is `v1`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// Adds the built-in kinds.
pub(super) fn register(registry: &mut Registry) -> Result<()> {
    let mut namespaces = of::<Namespace>(false, "ns", true, phase_and_age()?);
    namespaces.initial_status = Some(json!({ "phase": "Active" }));
    registry.add(namespaces, None);

    let mut pods = of::<Pod>(true, "po", true, pod_columns()?);
    select(&mut pods, &["spec.nodeName", "spec.schedulerName", "spec.serviceAccountName"]);
    select(&mut pods, &["status.phase", "status.podIP"]);
    pods.initial_status = Some(json!({ "phase": "Pending" }));
    registry.add(pods, None);

    registry.add(of::<Node>(false, "no", true, node_columns()?), None);

    let type_ = Column::path("Type", "string", 0, ".type")?;
    registry.add(of::<Secret>(true, "", false, vec![Column::name(), type_, Column::age()?]), None);

    let webhooks =
        Column::computed("Webhooks", "integer", 0, |config| list(config, "/webhooks").len().into());
    let columns = vec![Column::name(), webhooks, Column::age()?];
    registry.add(of::<MutatingWebhookConfiguration>(false, "", false, columns), None);

    let holder = Column::path("Holder", "string", 0, ".spec.holderIdentity")?;
    registry.add(of::<Lease>(true, "", false, vec![Column::name(), holder, Column::age()?]), None);

    registry.add(of::<StatefulSet>(true, "sts", true, replica_columns()?), None);
    registry.add(of::<Deployment>(true, "deploy", true, replica_columns()?), None);
    registry.add(of::<ReplicaSet>(true, "rs", true, replica_columns()?), None);
    registry.add(of::<DaemonSet>(true, "ds", true, vec![Column::name(), Column::age()?]), None);
    registry.add(of::<CronJob>(true, "cj", true, vec![Column::name(), Column::age()?]), None);
    registry.add(of::<Job>(true, "", true, vec![Column::name(), Column::age()?]), None);

    let mut events = of::<CoreEvent>(true, "ev", false, event_columns()?);
    for field in ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        select(&mut events, &[&format!("involvedObject.{field}")]);
    }
    select(&mut events, &["reason", "type", "reportingComponent"]);
    events.selectable.push(("source".to_owned(), "/source/component".to_owned()));
    let storage = registry.add(events, Some(EVENTS));
    let mut events = of::<Event>(true, "ev", false, event_columns()?);
    for field in ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        events.selectable.push((format!("regarding.{field}"), format!("/involvedObject/{field}")));
    }
    select(&mut events, &["reason", "type"]);
    events.selectable.push(("reportingController".to_owned(), "/reportingComponent".to_owned()));
    events.storage = storage;
    events.renamed = EVENT_FIELDS;
    registry.resources.push(Arc::new(events));
    Ok(())
}

fn of<K>(namespaced: bool, short_name: &str, has_status: bool, columns: Vec<Column>) -> Resource
where
    K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let kind = K::kind(&()).into_owned();
    Resource {
        group: K::group(&()).into_owned(),
        version: K::version(&()).into_owned(),
        plural: K::plural(&()).into_owned(),
        singular: kind.to_lowercase(),
        kind,
        short_names: Some(short_name.to_owned()).filter(|name| !name.is_empty()).into_iter().collect(),
        categories: Vec::new(),
        namespaced,
        has_status,
        unconditional_update: true,
        columns,
        selectable: metadata_fields(namespaced),
        normalize: normalize::<K>,
        initial_status: None,
        storage: 0,
        renamed: &[],
        schema: None,
    }
}

fn select(resource: &mut Resource, fields: &[&str]) {
    for field in fields {
        resource.selectable.push(((*field).to_owned(), format!("/{}", field.replace('.', "/"))));
    }
}

fn phase_and_age() -> Result<Vec<Column>> {
    Ok(vec![Column::name(), Column::path("Status", "string", 0, ".status.phase")?, Column::age()?])
}

fn pod_columns() -> Result<Vec<Column>> {
    Ok(vec![
        Column::name(),
        Column::computed("Ready", "string", 0, |pod| {
            let containers = list(pod, "/spec/containers").len();
            let ready =
                list(pod, "/status/containerStatuses").iter().filter(|status| status["ready"] == true);
            format!("{}/{containers}", ready.count()).into()
        }),
        Column::computed("Status", "string", 0, |pod| {
            if object::is_deleting(pod) {
                return "Terminating".into();
            }
            let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
            text("/status/reason").or_else(|| text("/status/phase")).unwrap_or("Unknown").into()
        }),
        Column::computed("Restarts", "integer", 0, |pod| {
            let statuses = list(pod, "/status/containerStatuses");
            statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum::<i64>().into()
        }),
        Column::age()?,
        Column::computed("IP", "string", 1, |pod| text_or_none(pod, "/status/podIP")),
        Column::computed("Node", "string", 1, |pod| text_or_none(pod, "/spec/nodeName")),
    ])
}

fn node_columns() -> Result<Vec<Column>> {
    Ok(vec![
        Column::name(),
        Column::computed("Status", "string", 0, |node| {
            let conditions = list(node, "/status/conditions");
            match conditions.iter().find(|condition| condition["type"] == "Ready") {
                Some(condition) if condition["status"] == "True" => "Ready".into(),
                Some(_) => "NotReady".into(),
                None => "Unknown".into(),
            }
        }),
        Column::age()?,
        Column::computed("Version", "string", 0, |node| {
            text_or_none(node, "/status/nodeInfo/kubeletVersion")
        }),
        Column::computed("Internal-IP", "string", 1, |node| {
            let addresses = list(node, "/status/addresses");
            let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
            internal.map_or_else(|| "<none>".into(), |address| address["address"].clone())
        }),
    ])
}

fn replica_columns() -> Result<Vec<Column>> {
    Ok(vec![
        Column::name(),
        Column::computed("Ready", "string", 0, |set| {
            let number = |pointer| set.pointer(pointer).and_then(Value::as_i64);
            format!(
                "{}/{}",
                number("/status/readyReplicas").unwrap_or(0),
                number("/spec/replicas").unwrap_or(1)
            )
            .into()
        }),
        Column::age()?,
    ])
}

fn event_columns() -> Result<Vec<Column>> {
    Ok(vec![
        Column::computed("Last Seen", "string", 0, |event| {
            let times =
                ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
            let seen = times.iter().find_map(|time| event.pointer(time)?.as_str());
            seen.map_or_else(|| "<unknown>".into(), |time| super::render::age(time).into())
        }),
        Column::computed("Type", "string", 0, |event| event["type"].clone()),
        Column::computed("Reason", "string", 0, |event| event["reason"].clone()),
        Column::computed("Object", "string", 0, |event| {
            let about = |field| event.pointer(&format!("/involvedObject/{field}")).and_then(Value::as_str);
            format!(
                "{}/{}",
                about("kind").unwrap_or_default().to_lowercase(),
                about("name").unwrap_or_default()
            )
            .into()
        }),
        Column::computed("Message", "string", 0, |event| {
            event["message"].as_str().unwrap_or_default().trim().into()
        }),
        Column::computed("Source", "string", 1, |event| {
            let source = event.pointer("/source/component").or_else(|| event.get("reportingComponent"));
            source.cloned().unwrap_or_default()
        }),
        Column::computed("Count", "integer", 1, |event| {
            let count = event.pointer("/series/count").or_else(|| event.get("count"));
            count.cloned().unwrap_or_else(|| 1.into())
        }),
        Column { format: String::new(), priority: 1, ..Column::name() },
    ])
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text_or_none(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("<none>").into()
}
