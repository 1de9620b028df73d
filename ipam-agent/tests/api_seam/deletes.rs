//! Deletion, finalizers and preconditions.

use super::*;
use kube::api::{DeleteParams, ListParams, Preconditions};

pub async fn delete_preconditions_are_checked(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    let with = |uid: Option<&str>, resource_version: Option<&str>| {
        DeleteParams::default().preconditions(Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: resource_version.map(str::to_owned),
        })
    };
    let uid = made.uid().expect("uid");
    let old = made.resource_version().expect("revision");
    let other = "00000000-0000-0000-0000-000000000000";
    assert_eq!(refusal(api.delete("web-0", &with(Some(other), None)).await), refused(409, "Conflict"));
    let newer = merge(&api, "web-0", json!({ "metadata": { "labels": { "a": "b" } } })).await.expect("patch");
    assert_eq!(refusal(api.delete("web-0", &with(Some(&uid), Some(&old))).await), refused(409, "Conflict"));
    let now = newer.resource_version().expect("revision");
    api.delete("web-0", &with(Some(&uid), Some(&now))).await.expect("delete");
    assert_eq!(api.get_opt("web-0").await.expect("get"), None);
}

pub async fn finalizers_hold_a_deleted_object(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    let hold = json!({ "metadata": { "finalizers": ["eni-ipam.dev/in-use", "example.com/b"] } });
    merge(&api, "web-0", hold).await.expect("patch");
    let answer = api.delete("web-0", &DeleteParams::default()).await.expect("delete");
    let marked = answer.left().expect("the object, since it is still there");
    assert!(marked.metadata.deletion_timestamp.is_some());
    let again =
        api.delete("web-0", &DeleteParams::default()).await.expect("delete").left().expect("still there");
    assert_eq!(again, marked, "a second deletion changes nothing");
    let status = json!({ "status": { "epoch": 3 } });
    api.patch_status("web-0", &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("status still works");

    let one = json!({ "metadata": { "finalizers": ["example.com/b"], "deletionTimestamp": null } });
    let held = merge(&api, "web-0", one).await.expect("patch");
    assert_eq!(held.metadata.deletion_timestamp, marked.metadata.deletion_timestamp, "cannot be taken back");
    merge(&api, "web-0", json!({ "metadata": { "finalizers": null } })).await.expect("patch");
    assert_eq!(api.get_opt("web-0").await.expect("get"), None);
}

pub async fn no_finalizer_on_a_deleted_object(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    merge(&api, "web-0", json!({ "metadata": { "finalizers": ["example.com/a"] } })).await.expect("patch");
    api.delete("web-0", &DeleteParams::default()).await.expect("delete");
    let more = json!({ "metadata": { "finalizers": ["example.com/a", "example.com/b"] } });
    assert_eq!(refusal(merge(&api, "web-0", more).await), refused(422, "Invalid"));
    merge(&api, "web-0", json!({ "metadata": { "finalizers": [] } })).await.expect("patch");
}

pub async fn delete_collection_takes_what_is_selected(client: Client) {
    let api = claims(&client).await;
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
        created(&api, name).await;
        merge(&api, name, json!({ "metadata": { "labels": { "app": app } } })).await.expect("label");
    }
    let web = ListParams::default().labels("app=web");
    api.delete_collection(&DeleteParams::default(), &web).await.expect("delete");
    let left = api.list(&ListParams::default()).await.expect("list");
    assert_eq!(left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
}

pub async fn a_name_can_be_used_again(client: Client) {
    let api = claims(&client).await;
    let first = created(&api, "web-0").await;
    api.delete("web-0", &DeleteParams::default()).await.expect("delete");
    let second = created(&api, "web-0").await;
    assert_ne!(first.uid(), second.uid());
    assert!(revision(&second) > revision(&first));
}
