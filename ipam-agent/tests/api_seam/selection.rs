//! Lists: selectors, pages and revisions.

use super::*;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, VersionMatch};

fn names<K: ResourceExt>(items: &[K]) -> Vec<String> {
    items.iter().map(ResourceExt::name_any).collect()
}

pub async fn labels_select(client: Client) {
    let api = claims(&client).await;
    for (name, labels) in
        [("a", json!({ "app": "web" })), ("b", json!({ "app": "db", "old": "1" })), ("c", json!({}))]
    {
        created(&api, name).await;
        merge(&api, name, json!({ "metadata": { "labels": labels } })).await.expect("label");
    }
    for (selector, wanted) in [
        ("app=web", vec!["a"]),
        ("app!=web", vec!["b", "c"]),
        ("app in (web,db)", vec!["a", "b"]),
        ("app notin (web),old", vec!["b"]),
        ("!app", vec!["c"]),
    ] {
        let list = api.list(&ListParams::default().labels(selector)).await.expect(selector);
        assert_eq!(names(&list.items), wanted, "{selector}");
    }
    let broken = ListParams::default().labels("app in (web");
    assert_eq!(refusal(api.list(&broken).await), refused(400, "BadRequest"));
}

pub async fn fields_select(client: Client) {
    let api = Api::<VpcIP>::all(client.clone());
    let node = format!("node-{}", namespace(&client).await);
    bound(&api, "198.51.100.1", &node).await;
    bound(&api, "198.51.100.2", "other").await;
    let mine = ListParams::default().fields(&format!("status.nodeName={node}"));
    assert_eq!(names(&api.list(&mine).await.expect("list").items), ["198.51.100.1"]);
    let not = ListParams::default().fields(&format!("status.nodeName!={node},metadata.name=198.51.100.2"));
    assert_eq!(names(&api.list(&not).await.expect("list").items), ["198.51.100.2"]);

    let pods = Api::<Pod>::namespaced(client.clone(), &namespace(&client).await);
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        }))
        .expect("pod");
        pods.create(&PostParams::default(), &pod).await.expect("pod");
    }
    let running = json!({ "status": { "phase": "Running" } });
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(running)).await.expect("status");
    for (selector, wanted) in
        [("spec.nodeName=n2", "b"), ("status.phase=Running", "a"), ("metadata.name==a", "a")]
    {
        let list = pods.list(&ListParams::default().fields(selector)).await.expect(selector);
        assert_eq!(names(&list.items), [wanted], "{selector}");
    }
    for ip in ["198.51.100.1", "198.51.100.2"] {
        api.delete(ip, &Default::default()).await.expect("delete");
    }
}

pub async fn unknown_fields_are_refused(client: Client) {
    let api = Api::<VpcIP>::all(client);
    for selector in ["spec.subnetID=a", "metadata.name"] {
        let answer = api.list(&ListParams::default().fields(selector)).await;
        assert_eq!(refusal(answer), refused(400, "BadRequest"), "{selector}");
    }
}

pub async fn pages_are_of_one_revision(client: Client) {
    let api = claims(&client).await;
    for index in 0..7 {
        created(&api, &format!("web-{index}")).await;
    }
    let mut params = ListParams::default().limit(3);
    let first = api.list(&params).await.expect("list");
    assert_eq!(names(&first.items), ["web-0", "web-1", "web-2"]);
    assert_eq!(first.metadata.remaining_item_count, Some(4));
    // What happens between pages is not seen by them.
    api.delete("web-4", &Default::default()).await.expect("delete");
    created(&api, "web-3a").await;
    merge(&api, "web-5", json!({ "metadata": { "labels": { "new": "1" } } })).await.expect("patch");

    params = params.continue_token(&first.metadata.continue_.clone().expect("token"));
    let second = api.list(&params).await.expect("list");
    assert_eq!(names(&second.items), ["web-3", "web-4", "web-5"]);
    assert!(second.items[2].labels().is_empty());
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    params = params.continue_token(&second.metadata.continue_.clone().expect("token"));
    let third = api.list(&params).await.expect("list");
    assert_eq!(names(&third.items), ["web-6"]);
    assert_eq!(third.metadata.continue_.clone().unwrap_or_default(), "");
}

pub async fn lists_honour_revisions(client: Client) {
    let api = claims(&client).await;
    let first = created(&api, "web-0").await;
    created(&api, "web-1").await;
    let at = |revision: String, version_match| ListParams {
        resource_version: Some(revision),
        version_match: Some(version_match),
        ..ListParams::default()
    };
    let then = first.resource_version().expect("revision");
    let exact = api.list(&at(then.clone(), VersionMatch::Exact)).await.expect("list");
    assert_eq!(names(&exact.items), ["web-0"]);
    let fresh = api.list(&at(then, VersionMatch::NotOlderThan)).await.expect("list");
    assert_eq!(names(&fresh.items), ["web-0", "web-1"]);
    let any = api.list(&ListParams::default().match_any()).await.expect("list");
    assert_eq!(names(&any.items), ["web-0", "web-1"]);
}

pub async fn metadata_only_lists(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    let list = api.list_metadata(&ListParams::default()).await.expect("list");
    assert_eq!(list.items[0].metadata, made.metadata);
    assert_eq!(api.get_metadata("web-0").await.expect("get").metadata, made.metadata);
}
