//! What is answered to what kube-apiserver sends.

use std::net::SocketAddr;

use anyhow::ensure;
use ipam_agent::api::scheduling::{RESOURCE, ZONE_LABEL};
use ipam_agent::api::{DeletePolicy, VpcIPClaim, VpcIPClaimSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::caller;
use crate::site::{Site, eventually};

/// A review of a new object as kube-apiserver writes one. Metadata and containers are filled in.
pub fn review(kind: &str, object: Value) -> Value {
    let (group, resource) = match kind {
        "Pod" => ("", "pods"),
        "Deployment" => ("apps", "deployments"),
        "StatefulSet" => ("apps", "statefulsets"),
        other => panic!("{other}"),
    };
    let mut object = object;
    object["kind"] = kind.into();
    object["apiVersion"] = if group.is_empty() { "v1".into() } else { format!("{group}/v1").into() };
    object["metadata"]["namespace"] = "default".into();
    let spec = if kind == "Pod" { &mut object["spec"] } else { &mut object["spec"]["template"]["spec"] };
    if spec["containers"].is_null() {
        spec["containers"] = json!([{ "name": "main", "image": "none", "resources": {} }]);
    }
    let gvk = json!({ "group": group, "version": "v1", "kind": kind });
    let gvr = json!({ "group": group, "version": "v1", "resource": resource });
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0c9a8d74-9cb7-44dd-b98e-09fd62def2f4",
            "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
            "name": object["metadata"]["name"].as_str().unwrap_or_default(), "namespace": "default", "operation": "CREATE",
            "userInfo": { "username": "system:serviceaccount:kube-system:statefulset-controller", "groups": ["system:authenticated"] },
            "object": object, "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

/// Asks a replica until it has its certificates, and checks what every answer must be. Gives the response.
pub async fn answer(site: &Site, replica: SocketAddr, review: &Value) -> Value {
    let answer = eventually("an answer", async || site.ask(replica, review).await).await;
    assert_eq!(
        (&answer["kind"], &answer["apiVersion"]),
        (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
    );
    let response = answer["response"].clone();
    assert_eq!(response["uid"], review["request"]["uid"]);
    assert_eq!(response["allowed"], true, "nothing is ever refused");
    response
}

/// The object with the response's patch, as kube-apiserver applies it: its Go takes bytes as numbers, too.
fn patched(review: &Value, response: &Value) -> Value {
    let mut object = review["request"]["object"].clone();
    if let Some(patch) = response.get("patch") {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch: Vec<u8> = serde_json::from_value(patch.clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

fn zones(pod: &Value) -> Vec<String> {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(demand) = required["nodeSelectorTerms"][0]["matchExpressions"].as_array() else {
        return Vec::new();
    };
    let zone = demand.iter().find(|demand| demand["key"] == ZONE_LABEL).unwrap();
    zone["values"].as_array().unwrap().iter().map(|zone| zone.as_str().unwrap().to_owned()).collect()
}

/// The pod that comes of it, when the webhook knows the subnets.
async fn prepared(site: &Site, replica: SocketAddr, object: Value, wanted: &[&str]) -> Value {
    let review = review("Pod", object);
    eventually("the zones", async || {
        let pod = patched(&review, &answer(site, replica, &review).await);
        ensure!(zones(&pod) == wanted, "{pod}");
        Ok(pod)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_asks_for_an_address_and_nothing_else_of_it_changes() {
    let site = Site::new().await;
    let replica = site.replica().await;
    let plain = review("Pod", json!({ "metadata": { "generateName": "web-" } }));
    let response = answer(&site, replica, &plain).await;
    let mut pod = patched(&plain, &response);
    let resources = json!({ "limits": { RESOURCE: "1" }, "requests": { RESOURCE: "1" } });
    assert_eq!(pod["spec"]["containers"][0]["resources"], resources);
    assert!(response.get("warnings").is_none());
    pod["spec"]["containers"][0]["resources"] = json!({});
    assert_eq!(pod, plain["request"]["object"]);

    for spec in [
        json!({ "hostNetwork": true }),
        json!({ "containers": [{ "name": "main", "resources": { "limits": { RESOURCE: "1" }, "requests": { RESOURCE: "1" } } }] }),
    ] {
        let review = review("Pod", json!({ "spec": spec }));
        assert!(answer(&site, replica, &review).await.get("patch").is_none(), "{review}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_goes_where_its_address_can_be() {
    let site = Site::new().await;
    let replica = site.replica().await;
    let named = |name: &str| json!({ "metadata": { "name": name } });
    let annotated = |key: &str, value: &str| json!({ "metadata": { "name": "web-9", "annotations": { format!("eni-ipam.dev/{key}"): value } } });
    prepared(&site, replica, annotated("nominated-vpc-ip", "10.0.2.21"), &["zone-2"]).await;
    prepared(&site, replica, annotated("nominated-eni-subnets", "subnet-a"), &["zone-1"]).await;
    prepared(&site, replica, annotated("nominated-eni-subnets", "subnet-b,subnet-a"), &["zone-1", "zone-2"])
        .await;

    // Of claims, one that keeps an address for the next pod of its name, and one that does not.
    let claims = Api::<VpcIPClaim>::namespaced(site.client.clone(), "default");
    for (name, delete_policy) in [("web-0", DeletePolicy::Never), ("web-1", DeletePolicy::Immediate)] {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let spec = VpcIPClaimSpec { delete_policy, ..VpcIPClaimSpec::default() };
        let mut claim = claims
            .create(&PostParams::default(), &VpcIPClaim { metadata, spec, status: None })
            .await
            .unwrap();
        claim.status.get_or_insert_default().address = Some("10.0.1.22".into());
        claims.replace_status(name, &PostParams::default(), &claim).await.unwrap();
    }
    let disk = json!({ "key": "disk", "operator": "Exists" });
    let mut kept = named("web-0");
    let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [disk.clone()] }] });
    kept["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = terms;
    let pod = prepared(&site, replica, kept, &["zone-1"]).await;
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(required["nodeSelectorTerms"][0]["matchExpressions"][0], disk);
    for elsewhere in [named("web-1"), named("web-2")] {
        prepared(&site, replica, elsewhere, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_a_workload_is_warned() {
    let site = Site::new().await;
    let replica = site.replica().await;
    let bad =
        json!({ "metadata": { "annotations": { "tke.cloud.tencent.com/claim-expired-duration": "soon" } } });
    let response = answer(&site, replica, &review("Pod", bad.clone())).await;
    assert!(response["warnings"][0].as_str().unwrap().contains("\"soon\" is no duration"), "{response}");
    assert!(response.get("patch").is_some(), "the pod is served nevertheless");

    // Eight addresses in all: as many as pods.
    let surge = review("Deployment", json!({ "spec": { "replicas": 8, "template": {} } }));
    let warning = eventually("a warning", async || {
        let response = answer(&site, replica, &surge).await;
        assert!(response.get("patch").is_none());
        response["warnings"][0].as_str().map(str::to_owned).ok_or_else(|| anyhow::anyhow!("none"))
    })
    .await;
    assert!(warning.starts_with("a rolling update needs 2 more addresses for its surge"), "{warning}");
    let fits = review("Deployment", json!({ "spec": { "replicas": 6, "template": {} } }));
    assert!(answer(&site, replica, &fits).await.get("warnings").is_none());
    let set = review("StatefulSet", json!({ "spec": { "replicas": 8, "template": bad } }));
    let warnings = answer(&site, replica, &set).await["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1);
    assert!(
        warnings[0].as_str().unwrap().starts_with("pods of this StatefulSet: annotation tke.cloud"),
        "{warnings}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_answered_with_what_is_wrong() {
    let site = Site::new().await;
    let replica = site.replica().await;
    answer(&site, replica, &review("Pod", json!({}))).await;
    let bundle = site.bundle().await.unwrap();
    let post = async |path: &str, body: String| {
        let answer = caller::post(replica, &bundle, site.now(), path, body).await;
        format!("{:#}", answer.unwrap_err())
    };
    assert!(post("/admit", "{".into()).await.starts_with("400 Bad Request: no AdmissionReview of v1: "));
    assert!(
        post("/admit", json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1" }).to_string())
            .await
            .starts_with("400")
    );
    assert!(post("/mutate", "{}".into()).await.starts_with("404 Not Found: reviews are answered at /admit"));
    // Another authority's caller gets no further than the handshake.
    let foreign = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.pem();
    let refused =
        caller::post(replica, foreign.as_bytes(), site.now(), "/admit", String::new()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("certificate"), "{refused:#}");
}
