//! Programs that are started wrongly, or against an API that is not made for them: what they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, StatusCode, Uri};
use ipam_agent::client::Target;
use ipam_agent::crds;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::{ControlPlane, Difference, Replica, Script};
use ipam_lab::lab::process::binary;
use kube::ResourceExt as _;
use serde_json::{Value, json};

#[test]
fn wrong_flags_end_with_the_usage_and_status_2() {
    for (args, said) in [
        (&[][..], "Usage: ipam-agent"),
        (&["contoller"], "contoller"),
        (&["controller", "--no-such-flag"], "--no-such-flag"),
        (&["controller", "--max-enis=many"], "--max-enis"),
        (&["controller", "--claim-expired-duration=1m"], "at least 5m"),
        (&["controller", "--default-delete-policy=Sometimes"], "Immediate or Never"),
        (&["controller", "--provider=tencent", "--tencent-vpc=v"], "--tencent-region"),
        (&["standalone", "--provider=tencent", "--tencent-region=r"], "--tencent-vpc"),
        (&["controller", "--provider=aws"], "--aws-region"),
        (&["controller", "--leader-elect-renew-deadline=20s"], "--leader-elect-lease-duration"),
        (&["controller", "--metrics-address=9471"], "127.0.0.1:9470"),
        (&["node", "--stack-cidr=10.96.0.0/33"], "--stack-cidr"),
        (&["node", "--stuck-after=soon"], "--stuck-after"),
        (&["node", "--kubeconfig=k", "--embedded=e"], "cannot be used with"),
    ] {
        let done = Command::new(binary("ipam-agent").unwrap()).args(args).env_clear().output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(said) && text.contains("Usage: ipam-agent"), "{args:?}: {text}");
        assert!(done.stdout.is_empty());
    }
}

async fn controller(plane: &ControlPlane, dir: &std::path::Path, script: Script) -> Replica {
    let different = Difference { script: Some(script), ..Difference::default() };
    plane.replica(dir, "controller", different).await.unwrap()
}

fn failure(code: u16, reason: &str, message: String) -> Option<(StatusCode, Value)> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    Some((StatusCode::from_u16(code).unwrap(), status))
}

/// Answers for the definitions as a kube-apiserver does.
fn definitions(change: impl Fn(&str, &mut Value) + Send + Sync + 'static) -> Script {
    Arc::new(move |_: &Method, uri: &Uri| {
        let name = uri.path().strip_prefix("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/")?;
        let crd = crds::definitions().into_iter().find(|crd| crd.name_any() == name)?;
        let mut crd = serde_json::to_value(crd).unwrap();
        change(name, &mut crd);
        Some((StatusCode::OK, crd))
    })
}

async fn ends_with(mut controller: Replica, sentences: &[&str]) {
    assert_eq!(controller.ended().await.unwrap().code(), Some(1), "{}", controller.log());
    let log = controller.log();
    for said in sentences {
        assert!(log.contains(said), "{said:?} is not in: {log}");
    }
    assert!(controller.lease_writes().is_empty() && controller.writes().is_empty(), "it wrote nevertheless");
}

const REMEDY: &str = "ipam-agent crds | kubectl apply --server-side -f -";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_the_definitions_is_told_what_to_apply() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let none: Script = Arc::new(|_, uri| {
        let ours = uri.path().contains("eni-ipam.dev");
        ours.then(|| failure(404, "NotFound", "not found".into())).flatten()
    });
    ends_with(controller(&plane, dir.path(), none).await, &["does not know vpcips.eni-ipam.dev", REMEDY])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_another_version_are_told_by_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let older = definitions(|name, crd| {
        if name == "vpcips.eni-ipam.dev" {
            let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            schema["properties"]["status"]["properties"].as_object_mut().unwrap().remove("epoch").unwrap();
        }
    });
    let said = ["vpcips.eni-ipam.dev of another version: it has no .status.epoch", REMEDY];
    ends_with(controller(&plane, dir.path(), older).await, &said).await;
    let unserved = definitions(|_, crd| crd["spec"]["versions"][0]["name"] = "v1alpha1".into());
    ends_with(controller(&plane, dir.path(), unserved).await, &["it has no version v1", REMEDY]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_this_version_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let controller = controller(&plane, dir.path(), definitions(|_, _| {})).await;
    controller.wait_until_leading().await.unwrap();
    plane.pod("web-0", "node-a", true).await.unwrap();
}

/// Refused again and again, told of once each, and it goes on as soon as it may.
#[tokio::test(flavor = "multi_thread")]
async fn missing_permissions_are_named_once() {
    const MISSING: [&str; 2] = ["list nodes", "create vpcipclaims.eni-ipam.dev"];
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let granted = Arc::new(AtomicBool::new(false));
    let refused = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let script: Script = Arc::new({
        let (granted, refused) = (granted.clone(), refused.clone());
        move |method: &Method, uri: &Uri| {
            let target = Target::of(method, uri)?;
            // The claims' turn comes when the nodes have been listed.
            let lists = refused.lock().unwrap().iter().filter(|it| *it == MISSING[0]).count();
            let missing = if lists < 4 { MISSING[0] } else { MISSING[1] };
            if granted.load(Ordering::SeqCst) || target.to_string() != missing {
                return None;
            }
            refused.lock().unwrap().push(target.to_string());
            let (user, verb) = ("system:serviceaccount:kube-system:eni-ipam-controller", target.verb);
            let (resource, group) = (&target.resource, &target.group);
            let said = format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?}");
            failure(403, "Forbidden", said)
        }
    });
    let controller = controller(&plane, dir.path(), script).await;
    let count = |what: &str| refused.lock().unwrap().iter().filter(|it| *it == what).count();
    let asked = async {
        eventually("every permission to be asked for again and again", async || {
            MISSING.iter().all(|missing| count(missing) >= 4)
        })
        .await
        .unwrap();
        granted.store(true, Ordering::SeqCst);
    };
    let (bound, ()) = tokio::join!(plane.pod("web-0", "node-a", true), asked);
    bound.unwrap_or_else(|error| panic!("{error:#}\n{}", controller.log()));
    let log = controller.log();
    for missing in MISSING {
        let told = log
            .matches(&format!("missing permission: {missing}; apply deploy/base/controller-rbac.yaml"))
            .count();
        assert_eq!(told, 1, "{missing} was refused {} times: {log}", count(missing));
        assert_eq!(log.matches(&format!("the permission is there now: {missing}")).count(), 1, "{log}");
    }
    assert_eq!(log.matches("cannot create resource").count(), 1, "told by others too: {log}");
    assert_eq!(log.matches("cannot list resource").count(), 1, "told by others too: {log}");
}
