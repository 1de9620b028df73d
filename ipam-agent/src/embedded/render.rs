//! The forms in which objects are shown: as they are, their metadata only, or rows of a table.

use std::borrow::Cow;

use jsonpath_rust::query::js_path_process;
use serde_json::{Value, json};

use super::registry::{Cell, Column, Resource};
use super::request::{Form, RowObject};

/// Shows one stored object.
pub(super) fn one<'a>(resource: &Resource, form: Form, stored: &'a Value) -> Cow<'a, Value> {
    match form {
        Form::Object if resource.shows_as_stored() => Cow::Borrowed(stored),
        Form::Object => Cow::Owned(resource.shown(stored)),
        Form::Metadata => Cow::Owned(metadata_only(stored)),
        Form::Table(include) => {
            let revision = stored.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let rows = vec![row(resource, include, stored)];
            Cow::Owned(table(resource, json!({ "resourceVersion": revision }), rows))
        }
    }
}

/// Shows a list of stored objects, with its metadata.
pub(super) fn list<'a>(
    resource: &Resource,
    form: Form,
    metadata: Value,
    stored: impl Iterator<Item = &'a Value>,
) -> serde_json::Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        kind: String,
        api_version: String,
        metadata: Value,
        items: Vec<Cow<'a, Value>>,
    }
    if let Form::Table(include) = form {
        let rows = stored.map(|object| row(resource, include, object)).collect();
        return serde_json::to_vec(&table(resource, metadata, rows));
    }
    let (kind, api_version) = match form {
        Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        _ => (format!("{}List", resource.kind), resource.api_version()),
    };
    let items = stored.map(|object| one(resource, form, object)).collect();
    serde_json::to_vec(&List { kind, api_version, metadata, items })
}

/// The object of a bookmark: nothing but a revision, and whether the initial events are through.
pub(super) fn bookmark(resource: &Resource, form: Form, revision: u64, initial_events_end: bool) -> Value {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if initial_events_end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    match form {
        Form::Object => {
            json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
        }
        Form::Metadata => metadata_only(&json!({ "metadata": metadata })),
        Form::Table(_) => table(resource, metadata, Vec::new()),
    }
}

fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn table(resource: &Resource, metadata: Value, rows: Vec<Value>) -> Value {
    let columns: Vec<_> = resource
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.type_,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(resource: &Resource, include: RowObject, object: &Value) -> Value {
    let cells: Vec<_> = resource.columns.iter().map(|column| cell(column, object)).collect();
    match include {
        RowObject::None => json!({ "cells": cells }),
        RowObject::Metadata => json!({ "cells": cells, "object": metadata_only(object) }),
        RowObject::Object => json!({ "cells": cells, "object": resource.shown(object) }),
    }
}

fn cell(column: &Column, object: &Value) -> Value {
    let value = match &column.cell {
        Cell::Computed(compute) => return compute(object),
        Cell::Path(query) => {
            js_path_process(query, object).ok().and_then(|found| Some(found.first()?.clone().val()))
        }
    };
    match value {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(time)) if column.type_ == "date" => age(time).into(),
        // kube-apiserver, too, prints what is no scalar as JSON in a string column.
        Some(value) if column.type_ == "string" && !value.is_string() => value.to_string().into(),
        Some(value) => value.clone(),
    }
}

/// How long ago a time is, as kubectl writes it. A time that is still to come is `<invalid>`, which is also
/// what kube-apiserver makes of it.
pub(super) fn age(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => duration(jiff::Timestamp::now().as_second() - time.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Two units at most, coarser as the time grows (the steps of `k8s.io/apimachinery` `HumanDuration`).
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let years = days / 365;
    let pair = |whole: i64, unit, rest: i64, small| match rest {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{rest}{small}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if years < 8 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn ages_read_like_kubectls() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3_600, "3h"),
            (3 * 3_600 + 60, "3h1m"),
            (47 * 3_600, "47h"),
            (2 * 86_400 + 3_600, "2d1h"),
            (9 * 86_400, "9d"),
            (730 * 86_400, "2y"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
