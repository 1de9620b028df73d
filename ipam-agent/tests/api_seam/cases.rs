//! The cases whose answers are recorded.

use super::*;

const THINGS: &str = "/apis/seam.eni-ipam.dev/v1/namespaces/<namespace>/things";

fn things(rest: &str) -> String {
    format!("{THINGS}{rest}")
}

fn get(path: &str) -> Step {
    Step::new("GET", path, Value::Null)
}

fn post(path: &str, body: Value) -> Step {
    Step::new("POST", path, body)
}

fn put(path: &str, body: Value) -> Step {
    Step::new("PUT", path, body)
}

fn patch(path: &str, body: Value) -> Step {
    Step::new("PATCH", path, body)
}

fn json_patch(path: &str, body: Value) -> Step {
    Step { content_type: "application/json-patch+json", ..patch(path, body) }
}

fn delete(path: &str, body: Value) -> Step {
    Step::new("DELETE", path, body)
}

fn thing(name: &str) -> Value {
    json!({ "apiVersion": "seam.eni-ipam.dev/v1", "kind": "Thing", "metadata": { "name": name }, "spec": {} })
}

/// The object with other values at these pointers; null takes a field away.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        match value {
            Value::Null => drop(parent.remove(field)),
            value => drop(parent.insert(field.to_owned(), value.clone())),
        }
    }
    object
}

/// Each case has a namespace of its own.
pub fn all() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("create", create()),
        ("replace", replace()),
        ("patch", patches()),
        ("status", status()),
        ("delete", deletes()),
        ("finalizers", finalizers()),
        ("list", lists()),
        ("table", tables()),
        ("watch", watches()),
        ("schema", schema()),
        ("rules", rules()),
        ("discovery", vec![get("/apis/seam.eni-ipam.dev/v1"), get("/apis/seam.eni-ipam.dev")]),
    ]
}

fn create() -> Vec<Step> {
    vec![
        post(THINGS, thing("web-0")),
        post(THINGS, thing("web-0")),
        get(&things("/web-0")),
        get(&things("/nobody")),
        post(THINGS, with(thing(""), &[("/metadata", json!({ "generateName": "job-" }))])),
        post(THINGS, with(thing(""), &[("/metadata", json!({}))])),
        post(THINGS, with(thing("web-1"), &[("/metadata/namespace", json!("elsewhere"))])),
        post(THINGS, with(thing("web-1"), &[("/kind", json!("Other"))])),
        post(THINGS, thing("Not_A_Name")),
        post(&things("?dryRun=All"), thing("web-2")),
        get(&things("/web-2")),
        post(&things("?dryRun=Some"), thing("web-2")),
        post(THINGS, json!("{\"spec\"")),
        post(&things("?fieldValidation=Strict"), with(thing("web-3"), &[("/spec/colour", json!("Blue"))])),
        post(&things("?fieldValidation=Ignore"), with(thing("web-3"), &[("/spec/colour", json!("Blue"))])),
        Step { content_type: "text/plain", ..post(THINGS, thing("web-4")) },
        post("/apis/seam.eni-ipam.dev/v1/things", thing("web-5")),
        get("/apis/seam.eni-ipam.dev/v1/others"),
        get("/apis/seam.eni-ipam.dev/v2/things"),
    ]
}

fn replace() -> Vec<Step> {
    let named = |revision: &str| with(thing("web-0"), &[("/metadata/resourceVersion", json!(revision))]);
    let blue = ("/spec/color", json!("Blue"));
    vec![
        post(THINGS, thing("web-0")),
        put(&things("/web-0"), thing("web-0")),
        put(&things("/web-0"), with(named("<revision 1>"), std::slice::from_ref(&blue))),
        put(&things("/web-0"), named("<revision 1>")),
        put(&things("/web-0"), with(named("<revision 2>"), &[blue])),
        put(&things("/web-0"), with(named("<revision 2>"), &[("/metadata/uid", json!("other"))])),
        put(&things("/web-0"), with(named("<revision 2>"), &[("/metadata/name", json!("web-1"))])),
        put(&things("/web-0"), with(named("<revision 2>"), &[("/metadata/namespace", json!("elsewhere"))])),
        put(&things("/nobody"), with(named("<revision 2>"), &[("/metadata/name", json!("nobody"))])),
    ]
}

fn patches() -> Vec<Step> {
    vec![
        post(THINGS, thing("web-0")),
        patch(&things("/web-0"), json!({ "spec": { "note": "10m" } })),
        patch(&things("/web-0"), json!({ "spec": { "note": "10m" } })),
        patch(
            &things("/web-0"),
            json!({ "metadata": { "resourceVersion": "<revision 1>" }, "spec": { "color": "Blue" } }),
        ),
        patch(&things("/web-0"), json!({ "metadata": { "uid": "other" }, "spec": { "color": "Blue" } })),
        patch(&things("/web-0"), json!({ "metadata": { "name": "web-1" } })),
        patch(
            &things("/web-0"),
            json!({ "metadata": { "labels": { "app": "web" }, "annotations": { "a": "b" } } }),
        ),
        patch(&things("/nobody"), json!({})),
        json_patch(
            &things("/web-0"),
            json!([
                { "op": "test", "path": "/spec/note", "value": "10m" },
                { "op": "remove", "path": "/spec/note" },
            ]),
        ),
        json_patch(&things("/web-0"), json!([{ "op": "test", "path": "/spec/color", "value": "Blue" }])),
        json_patch(&things("/web-0"), json!([{ "op": "remove", "path": "/spec/owner" }])),
        Step {
            content_type: "application/strategic-merge-patch+json",
            ..patch(&things("/web-0"), json!({}))
        },
    ]
}

fn status() -> Vec<Step> {
    vec![
        post(THINGS, with(thing("web-0"), &[("/status", json!({ "epoch": 9 }))])),
        patch(&things("/web-0"), json!({ "status": { "epoch": 9 } })),
        patch(
            &things("/web-0/status"),
            json!({ "spec": { "color": "Blue" }, "status": { "phase": "Done", "epoch": 1 } }),
        ),
        get(&things("/web-0/status")),
        put(&things("/web-0"), with(thing("web-0"), &[("/metadata/resourceVersion", json!("<revision 2>"))])),
        put(
            &things("/web-0/status"),
            with(thing("web-0"), &[("/metadata/resourceVersion", json!("<revision 1>"))]),
        ),
        patch(
            &things("/web-0/status"),
            json!({ "metadata": { "labels": { "a": "b" } }, "status": { "epoch": 2 } }),
        ),
    ]
}

fn deletes() -> Vec<Step> {
    vec![
        post(THINGS, thing("web-0")),
        delete(&things("/web-0"), json!({ "preconditions": { "uid": "other" } })),
        patch(&things("/web-0"), json!({ "metadata": { "labels": { "a": "b" } } })),
        delete(&things("/web-0"), json!({ "preconditions": { "resourceVersion": "<revision 1>" } })),
        delete(&things("/web-0?dryRun=All"), Value::Null),
        delete(
            &things("/web-0"),
            json!({ "preconditions": { "uid": "<uid 1>", "resourceVersion": "<revision 2>" } }),
        ),
        delete(&things("/web-0"), Value::Null),
        post(THINGS, thing("web-0")),
        post(THINGS, thing("web-1")),
        delete(&things("?labelSelector=a"), Value::Null),
        delete(THINGS, Value::Null),
        get(THINGS),
    ]
}

fn finalizers() -> Vec<Step> {
    let held = |finalizers: Value| json!({ "metadata": { "finalizers": finalizers } });
    vec![
        post(
            THINGS,
            with(thing("web-0"), &[("/metadata/finalizers", json!(["example.com/a", "example.com/b"]))]),
        ),
        delete(&things("/web-0"), Value::Null),
        delete(&things("/web-0"), Value::Null),
        patch(&things("/web-0"), held(json!(["example.com/a", "example.com/b", "example.com/c"]))),
        patch(&things("/web-0/status"), json!({ "status": { "epoch": 1 } })),
        patch(&things("/web-0"), held(json!(["example.com/b"]))),
        patch(&things("/web-0"), held(Value::Null)),
        get(&things("/web-0")),
        patch(&things("/web-0"), held(Value::Null)),
    ]
}

fn lists() -> Vec<Step> {
    let labelled = |name, app| with(thing(name), &[("/metadata/labels", json!({ "app": app }))]);
    vec![
        get(THINGS),
        post(THINGS, labelled("a", "web")),
        post(THINGS, labelled("b", "db")),
        post(THINGS, thing("c")),
        get(&things("?limit=2")),
        get(&things("?limit=2&continue=<continue 1>")),
        get(&things("?limit=1&labelSelector=app")),
        get(&things("?continue=nonsense")),
        get(&things("?limit=1&continue=<continue 1>&resourceVersion=<revision 1>")),
        get(&things("?labelSelector=app%20in%20(web")),
        get(&things("?labelSelector=app!%3Dweb")),
        get(&things("?fieldSelector=metadata.name%3Db")),
        get(&things("?fieldSelector=spec.colour%3DBlue")),
        get(&things("?fieldSelector=nonsense")),
        get(&things("?resourceVersionMatch=Exact")),
        get(&things("?resourceVersionMatch=Nearly&resourceVersion=1")),
        get(&things("?resourceVersion=<revision 1>&resourceVersionMatch=Exact")),
        // A revision of the future is not among them: kube's client tries again for minutes (504, `retryAfterSeconds`).
        get(&things("?resourceVersion=yesterday")),
        Step {
            accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            ..get(&things("?limit=1"))
        },
    ]
}

fn tables() -> Vec<Step> {
    let table = |path: &str| Step {
        accept: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        ..get(path)
    };
    vec![
        table(THINGS),
        post(THINGS, thing("web-0")),
        patch(&things("/web-0/status"), json!({ "status": { "phase": "Done", "epoch": 3 } })),
        table(THINGS),
        table(&things("/web-0?includeObject=None")),
    ]
}

fn watches() -> Vec<Step> {
    let watch = |query: &str| get(&things(&format!("?watch=1&timeoutSeconds=1&{query}")));
    vec![
        post(THINGS, thing("a")),
        post(THINGS, thing("b")),
        patch(&things("/a"), json!({ "metadata": { "labels": { "x": "y" } } })),
        delete(&things("/b"), Value::Null),
        watch("resourceVersion=<revision 1>"),
        watch("resourceVersion=<revision 1>&labelSelector=x"),
        watch("resourceVersion=0"),
        watch("sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"),
        watch("sendInitialEvents=true"),
        watch("resourceVersionMatch=Exact&resourceVersion=1"),
        watch("resourceVersion=1"),
        watch("fieldSelector=spec.colour%3DBlue"),
    ]
}

fn schema() -> Vec<Step> {
    let bad = |changes: &[(&str, Value)]| post(THINGS, with(thing("bad"), changes));
    vec![
        bad(&[("/spec", Value::Null)]),
        bad(&[("/spec/color", json!("Green"))]),
        bad(&[("/spec/color", json!(7))]),
        bad(&[("/spec/note", json!("123456789"))]),
        bad(&[("/spec/note", json!("123456789")), ("/spec/color", json!("Green"))]),
        bad(&[("/spec/tags", json!(["", "a"]))]),
        bad(&[("/spec/tags", json!(["a", "b", "c"]))]),
        bad(&[("/spec/tags", json!("a"))]),
        bad(&[("/spec/owner", json!({ "kind": "StatefulSet" }))]),
        bad(&[("/spec/owner", json!("web"))]),
        bad(&[("/spec/count", json!(-1))]),
        bad(&[("/spec/count", json!(11))]),
        bad(&[("/spec/count", json!("three"))]),
        bad(&[("/spec/count", json!(1.5))]),
    ]
}

fn rules() -> Vec<Step> {
    let owner = json!({ "kind": "StatefulSet", "name": "web" });
    vec![
        post(THINGS, thing("forbidden")),
        post(THINGS, with(thing("a"), &[("/spec/note", json!("bad"))])),
        post(THINGS, with(thing("a"), &[("/spec/owner", owner)])),
        patch(&things("/a"), json!({ "spec": { "owner": null } })),
        patch(&things("/a"), json!({ "spec": { "owner": null, "note": "bad" } })),
        patch(&things("/a/status"), json!({ "status": { "phase": "Done" } })),
        patch(&things("/a/status"), json!({ "status": { "phase": "Done", "epoch": 2 } })),
        patch(&things("/a/status"), json!({ "status": { "epoch": 1 } })),
        patch(&things("/a/status"), json!({ "status": { "epoch": -1 } })),
        get(&things("?fieldSelector=status.phase%3DDone,spec.color%3DRed")),
        get(&things("?fieldSelector=status.phase!%3DDone")),
    ]
}

/// What the embedded API says otherwise on purpose, or for want of a reason to do better: the case, how the request begins
/// (after the collection's path), and why. Of these only the code must agree.
const OTHERWISE: [(&str, &str, &str); 6] = [
    (
        "create",
        "POST {\"apiVersion\":\"seam.eni-ipam.dev/v1\",\"kind\":\"Other\"",
        "says which kind is wanted",
    ),
    ("delete", "DELETE", "a removed object is shown with the revision of its removal"),
    ("finalizers", "PATCH/web-0 {\"metadata\":{\"finalizers\":null}}", "likewise"),
    ("replace", "PUT/web-0 {", "no key of etcd in the words about a UID"),
    (
        "schema",
        "POST {\"apiVersion\":\"seam.eni-ipam.dev/v1\",\"kind\":\"Thing\",\"metadata\":{\"name\":\"bad\"},\"spec\":{\"count\":1.5}",
        "no types of Go",
    ),
    ("watch", "GET?watch=1&timeoutSeconds=1&resourceVersionMatch=Exact", "one of the two reasons is enough"),
];

/// What of two answers must agree when one is not kube-apiserver's: all of it, but for [`OTHERWISE`], for the words about a
/// request that is no good in itself (ours say what to do instead), and for what [`tidied`] leaves out.
pub fn comparable(case: &str, given: &Answer, wanted: &Answer) -> (Answer, Answer) {
    let request = wanted.request.replacen(&format!(" {THINGS}"), "", 1);
    let otherwise = OTHERWISE.iter().any(|(of, start, _)| *of == case && request.starts_with(start));
    let part = |answer: &Answer| {
        let refused_as_such = matches!(answer.code, 400 | 405 | 410 | 415 | 500 | 504);
        let body = match &answer.body {
            _ if otherwise => Value::Null,
            body if refused_as_such => body.get("reason").cloned().unwrap_or_default(),
            // Where there is no such resource, kube-apiserver has nothing to say in JSON.
            Value::String(_) => Value::Null,
            body if answer.code == 404 && body["details"].is_null() => Value::Null,
            body => tidied(body),
        };
        Answer { body, ..answer.clone() }
    };
    (part(given), part(wanted))
}

/// An answer, [`tidied`].
pub fn tidied_answer(answer: &Answer) -> Answer {
    Answer { body: tidied(&answer.body), ..answer.clone() }
}

/// Without what says nothing or is another each time: how far the server has come, empty continue tokens and which is which,
/// causes named twice and their order, ages, what columns are about, the order of verbs, hashes.
fn tidied(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let mut fields = fields.clone();
            if fields.get("kind") == Some(&json!("Status")) && fields.get("code") == Some(&json!(410)) {
                return json!({ "code": 410, "reason": fields["reason"] });
            }
            if let Some(Value::Array(causes)) = fields.get_mut("causes") {
                causes.sort_by_key(ToString::to_string);
                causes.dedup();
            }
            // Of several causes the message has the words again, in any order.
            let causes = body.pointer("/details/causes").and_then(Value::as_array);
            let mut causes = causes.cloned().unwrap_or_default();
            causes.dedup();
            if causes.len() > 1 {
                fields.remove("message");
            }
            if let Some(Value::Array(verbs)) = fields.get_mut("verbs") {
                verbs.sort_by_key(ToString::to_string);
            }
            if fields.contains_key("resourceVersion") && !fields.contains_key("uid") {
                fields.remove("resourceVersion");
            }
            if let Some(token) = fields.get_mut("continue") {
                *token = json!(token != "");
            }
            if fields.get("continue") == Some(&json!(false)) {
                fields.remove("continue");
            }
            fields.retain(|name, value| {
                !(name == "storageVersionHash"
                    || name == "description"
                    || (name == "object" && value.is_null()))
            });
            fields
                .into_iter()
                .map(|(name, value)| (name, tidied(&value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        // Bookmarks come when the server pleases, but for the one that ends the initial events.
        Value::Array(items) => items
            .iter()
            .filter(|it| it["type"] != "BOOKMARK" || !it["object"]["metadata"]["annotations"].is_null())
            .map(tidied)
            .collect(),
        Value::String(text) if is_age(text) => "<age>".into(),
        other => other.clone(),
    }
}

/// Such as `12s`, as tables have it.
fn is_age(text: &str) -> bool {
    text.strip_suffix('s')
        .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}
