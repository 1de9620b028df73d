//! Create, replace and patch.

use super::*;
use ipam_agent::api::{ClaimPhase, DeletePolicy, VpcIPClaimStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ApiResource;
use kube::core::DynamicObject;

pub async fn create_sets_identity_and_refuses_a_second(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    assert!(made.uid().is_some_and(|uid| uid.len() == 36), "{made:?}");
    assert!(made.creation_timestamp().is_some() && revision(&made) > 0);
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(api.get("web-0").await.expect("get"), made);
    let again = api.create(&PostParams::default(), &claim("web-0")).await;
    assert_eq!(refusal(again), refused(409, "AlreadyExists"));
}

pub async fn generate_name_finds_a_free_name(client: Client) {
    let api = claims(&client).await;
    let mut wanted = claim("x");
    wanted.metadata = ObjectMeta { generate_name: Some("web-".to_owned()), ..ObjectMeta::default() };
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = api.create(&PostParams::default(), &wanted).await.expect("create");
        assert!(made.name_any().starts_with("web-") && made.name_any().len() == 9, "{}", made.name_any());
        assert!(names.insert(made.name_any()));
    }
    wanted.metadata.generate_name = None;
    assert_eq!(refusal(api.create(&PostParams::default(), &wanted).await), refused(422, "Invalid"));
}

pub async fn stale_replace_conflicts(client: Client) {
    let api = claims(&client).await;
    let first = created(&api, "web-0").await;
    let mut newer = first.clone();
    newer.spec.delete_policy = DeletePolicy::Never;
    let newer = api.replace("web-0", &PostParams::default(), &newer).await.expect("replace");
    assert!(revision(&newer) > revision(&first));
    let mut stale = first.clone();
    stale.spec.expired_duration = Some("10m".to_owned());
    let answer = api.replace("web-0", &PostParams::default(), &stale).await;
    assert_eq!(refusal(answer), refused(409, "Conflict"));
    assert_eq!(api.get("web-0").await.expect("get"), newer);
    stale.metadata.resource_version = newer.resource_version();
    stale.metadata.uid = Some("00000000-0000-0000-0000-000000000000".to_owned());
    let answer = api.replace("web-0", &PostParams::default(), &stale).await;
    assert_eq!(refusal(answer), refused(409, "Conflict"), "another uid is another object");
}

pub async fn replace_needs_a_revision(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    let answer = api.replace("web-0", &PostParams::default(), &claim("web-0")).await;
    assert_eq!(refusal(answer), refused(422, "Invalid"));
}

pub async fn patch_preconditions_are_checked(client: Client) {
    let api = claims(&client).await;
    let first = created(&api, "web-0").await;
    let patched = merge(&api, "web-0", json!({ "spec": { "expiredDuration": "10m" } })).await.expect("patch");
    assert_eq!(patched.spec.expired_duration.as_deref(), Some("10m"));
    let with = |revision: Option<String>| json!({ "metadata": { "resourceVersion": revision, "uid": first.uid() }, "spec": { "expiredDuration": "20m" } });
    let answer = merge(&api, "web-0", with(first.resource_version())).await;
    assert_eq!(refusal(answer), refused(409, "Conflict"));
    let status =
        json!({ "metadata": { "resourceVersion": first.resource_version() }, "status": { "epoch": 1 } });
    let answer = api.patch_status("web-0", &PatchParams::default(), &Patch::Merge(status)).await;
    assert_eq!(refusal(answer), refused(409, "Conflict"));
    merge(&api, "web-0", with(patched.resource_version())).await.expect("patch with the current revision");
}

pub async fn json_patch_tests_and_changes(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    let patch = |old: &str, new: &str| -> json_patch::Patch {
        serde_json::from_value(json!([
            { "op": "test", "path": "/spec/deletePolicy", "value": old },
            { "op": "replace", "path": "/spec/deletePolicy", "value": new },
        ]))
        .expect("is a patch")
    };
    let apply = async |patch| api.patch("web-0", &PatchParams::default(), &Patch::<()>::Json(patch)).await;
    let patched = apply(patch("Immediate", "Never")).await.expect("patch");
    assert_eq!(patched.spec.delete_policy, DeletePolicy::Never);
    assert_eq!(refusal(apply(patch("Immediate", "Never")).await), refused(422, "Invalid"));
}

pub async fn patch_without_effect_changes_nothing(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    let same = merge(&api, "web-0", json!({ "spec": { "deletePolicy": "Immediate" } })).await.expect("patch");
    assert_eq!(same, made);
    let same = api.replace("web-0", &PostParams::default(), &made).await.expect("replace");
    assert_eq!(same.resource_version(), made.resource_version());
}

pub async fn status_is_written_by_its_subresource_only(client: Client) {
    let api = claims(&client).await;
    let mut wanted = claim("web-0");
    wanted.status = Some(VpcIPClaimStatus { epoch: 9, ..VpcIPClaimStatus::default() });
    let made = api.create(&PostParams::default(), &wanted).await.expect("create");
    assert_eq!(made.status, None, "create ignores the status");
    let patched = merge(&api, "web-0", json!({ "status": { "epoch": 9 } })).await.expect("patch");
    assert_eq!(patched, made, "a patch ignores the status");

    let both = json!({ "spec": { "deletePolicy": "Never" }, "status": { "phase": "Bound", "epoch": 1 } });
    let bound =
        api.patch_status("web-0", &PatchParams::default(), &Patch::Merge(both)).await.expect("status");
    assert_eq!(bound.spec, made.spec, "the status ignores the spec");
    assert_eq!(bound.metadata.generation, made.metadata.generation);
    let status = bound.status.clone().expect("has a status");
    assert_eq!((status.phase, status.epoch), (ClaimPhase::Bound, 1));

    let mut replaced = bound.clone();
    replaced.spec.delete_policy = DeletePolicy::Never;
    replaced.status = None;
    let replaced = api.replace("web-0", &PostParams::default(), &replaced).await.expect("replace");
    assert_eq!(replaced.status, bound.status, "replace keeps the status");
    assert_eq!(api.get_status("web-0").await.expect("get").status, bound.status);
    let stale = api.replace_status("web-0", &PostParams::default(), &bound).await;
    assert_eq!(refusal(stale), refused(409, "Conflict"));
}

pub async fn generation_counts_changes_of_the_spec(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    let labelled =
        merge(&api, "web-0", json!({ "metadata": { "labels": { "a": "b" } } })).await.expect("patch");
    assert_eq!(labelled.metadata.generation, Some(1));
    let changed = merge(&api, "web-0", json!({ "spec": { "deletePolicy": "Never" } })).await.expect("patch");
    assert_eq!(changed.metadata.generation, Some(2));
}

pub async fn identity_is_immutable(client: Client) {
    let api = claims(&client).await;
    let made = created(&api, "web-0").await;
    let renamed = merge(&api, "web-0", json!({ "metadata": { "name": "web-1" } })).await;
    assert_eq!(refusal(renamed), refused(400, "BadRequest"));
    let moved = merge(&api, "web-0", json!({ "metadata": { "namespace": "elsewhere" } })).await;
    assert_eq!(refusal(moved).0, 400);
    let aged = json!({
        "metadata": { "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 77, "deletionTimestamp": null }
    });
    merge(&api, "web-0", aged).await.expect("patch");
    assert_eq!(api.get("web-0").await.expect("get"), made);
}

pub async fn bad_objects_are_refused_by_field(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    match merge(&api, "web-0", json!({ "spec": { "deletePolicy": "Sometimes" } })).await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
            assert!(status.message.contains("spec.deletePolicy"), "{}", status.message);
            let details = status.details.as_ref().expect("details");
            assert_eq!(details.causes[0].field, "spec.deletePolicy");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        refusal(api.create(&PostParams::default(), &claim("Not_A_Name")).await),
        refused(422, "Invalid")
    );
    let namespace = api.get("web-0").await.expect("get").namespace().expect("namespace");
    let path = format!("/apis/eni-ipam.dev/v1/namespaces/{namespace}/vpcipclaims");
    let torn =
        http::Request::post(&path).header("content-type", "application/json").body(b"{\"spec\"".to_vec());
    let answer = client.request_text(torn.expect("request")).await;
    assert_eq!(refusal(answer), refused(400, "BadRequest"));
    let typo = json!({ "apiVersion": "eni-ipam.dev/v1", "kind": "VpcIPClaim", "metadata": { "name": "t" },
        "spec": { "deletePolicey": "Never" } });
    let body = serde_json::to_vec(&typo).expect("json");
    let strict = http::Request::post(format!("{path}?fieldValidation=Strict")).body(body);
    let answer = client.request_text(strict.expect("request")).await;
    assert_eq!(refusal(answer), refused(400, "BadRequest"));
}

pub async fn unknown_things_are_not_found(client: Client) {
    let api = claims(&client).await;
    assert_eq!(refusal(api.get("nobody").await), refused(404, "NotFound"));
    assert_eq!(api.get_opt("nobody").await.expect("answers"), None);
    assert_eq!(refusal(merge(&api, "nobody", json!({})).await).0, 404);
    assert_eq!(refusal(api.delete("nobody", &Default::default()).await).0, 404);
    let mut nobody = claim("nobody");
    nobody.metadata.resource_version = Some("1".to_owned());
    assert_eq!(refusal(api.replace("nobody", &PostParams::default(), &nobody).await).0, 404);
    let resource = ApiResource {
        group: "eni-ipam.dev".to_owned(),
        version: "v1".to_owned(),
        api_version: "eni-ipam.dev/v1".to_owned(),
        kind: "Other".to_owned(),
        plural: "others".to_owned(),
    };
    let others = Api::<DynamicObject>::all_with(client.clone(), &resource);
    assert_eq!(refusal(others.list(&Default::default()).await).0, 404);
}

pub async fn unsupported_patches_are_refused(client: Client) {
    let api = claims(&client).await;
    created(&api, "web-0").await;
    // A custom resource has no strategic merge patch in kube-apiserver either.
    let patch = Patch::Strategic(json!({ "spec": {} }));
    let answer = api.patch("web-0", &PatchParams::default(), &patch).await;
    assert_eq!(refusal(answer), refused(415, "UnsupportedMediaType"));
}

pub async fn dry_run_writes_nothing(client: Client) {
    let api = claims(&client).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &claim("web-0")).await.expect("dry run");
    assert_eq!(api.get_opt("web-0").await.expect("get"), None);
    created(&api, "web-0").await;
    assert_eq!(refusal(api.create(&dry, &claim("web-0")).await).0, 409);
}

pub async fn revisions_grow_with_every_write(client: Client) {
    let namespace = namespace(&client).await;
    let (claims, pods) = (
        Api::<VpcIPClaim>::namespaced(client.clone(), &namespace),
        Api::<Pod>::namespaced(client, &namespace),
    );
    let first = created(&claims, "web-0").await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "web-0" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
    }))
    .expect("pod");
    let pod = pods.create(&PostParams::default(), &pod).await.expect("pod");
    assert!(revision(&pod) > revision(&first), "one revision counts all kinds");
    assert_eq!(pod.status.expect("status").phase.as_deref(), Some("Pending"));
    let list = claims.list(&Default::default()).await.expect("list");
    assert!(
        list.metadata.resource_version.expect("revision").parse::<u64>().expect("number") >= revision(&first)
    );
}
