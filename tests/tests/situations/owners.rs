//! Whose address it is: scaled, recreated, contested, of the same name elsewhere.

use futures::future::join_all;
use ipam_agent::api::{IpPhase, VpcIP, VpcIPClaim};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use ipam_lab::story::STATIC;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::tools::*;

#[tokio::test(flavor = "multi_thread")]
async fn s04_scaled_down_and_up_again_the_ordinal_has_its_address() {
    let (plane, _dir) = running_plane().await;
    let zero = plane.pod("web-0", "node-a", true).await.unwrap();
    let one = plane.pod("web-1", "node-b", true).await.unwrap();
    plane.end_pod("web-1", &one).await.unwrap();
    assert_eq!(address(&plane.client, &one).await.unwrap().phase, IpPhase::Retained);
    assert_eq!(plane.pod("web-1", "node-a", true).await.unwrap(), one);
    assert_eq!(address(&plane.client, &zero).await.unwrap().epoch, 1, "the other ordinal was left alone");
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_addresses_outlive_the_workload_until_their_claims_are_deleted() {
    let (plane, _dir) = running_plane().await;
    let ip = plane.pod("web-0", "node-a", true).await.unwrap();
    plane.end_pod("web-0", &ip).await.unwrap();
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    claims.delete("web-0", &DeleteParams::default()).await.unwrap();
    free(&plane.client, &ip).await;
    assert!(claims.get_opt("web-0").await.unwrap().is_none());
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_recreated_workload_takes_over_by_name_with_the_next_epoch() {
    let (plane, _dir) = running_plane().await;
    let owned_by = async |uid: &str| {
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
        let pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-0",
                "annotations": { STATIC.0: STATIC.1 },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": uid, "controller": true }],
            },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
        }));
        let pod = pods.create(&Default::default(), &pod.unwrap()).await.unwrap();
        bound(&plane.client, &pod).await
    };
    let ip = owned_by("first").await;
    plane.end_pod("web-0", &ip).await.unwrap();
    assert_eq!(owned_by("second").await, ip);
    assert_eq!(address(&plane.client, &ip).await.unwrap().epoch, 2);
    let claim = Api::<VpcIPClaim>::default_namespaced(plane.client.clone()).get("web-0").await.unwrap();
    assert_eq!(claim.spec.owner.unwrap().uid, "second");
}

/// Two controllers that both believe to be the only one.
#[tokio::test(flavor = "multi_thread")]
async fn s12_two_controllers_at_once_give_no_address_twice() {
    let (plane, _dir) = plane().await;
    for _ in 0..2 {
        plane.start_controller(None).unwrap();
    }
    let names: Vec<String> = (0..12).map(|n| format!("web-{n}")).collect();
    let ips = join_all(names.iter().enumerate().map(async |(n, name)| {
        let node = if n % 2 == 0 { "node-a" } else { "node-b" };
        plane.pod(name, node, true).await.unwrap()
    }))
    .await;
    let moved = join_all(names.iter().zip(&ips).map(async |(name, ip)| {
        plane.end_pod(name, ip).await.unwrap();
        plane.pod(name, "node-b", true).await.unwrap()
    }))
    .await;
    assert_eq!(moved, ips, "each kept its own");
    let distinct: std::collections::BTreeSet<_> = ips.iter().collect();
    assert_eq!(distinct.len(), ips.len(), "an address has two owners");
    let violations = plane.cloud.snapshot().violations;
    assert!(violations.is_empty(), "{violations:?}");
    // Whoever lost a race has left no claim with two addresses, and none was ever bound that its claim does not name.
    let held = async || {
        let all = Api::<VpcIP>::all(plane.client.clone()).list(&Default::default()).await.unwrap();
        let mut held: Vec<String> =
            all.into_iter().filter(|ip| ip.spec.claim_ref.is_some()).map(|ip| ip.spec.ip).collect();
        held.sort();
        held
    };
    let mut wanted = ips.clone();
    wanted.sort();
    eventually("the losers' addresses to be given back", async || held().await == wanted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_of_two_pods_that_want_one_address_the_second_waits_and_then_has_it() {
    let (plane, _dir) = running_plane().await;
    let wishes = [(NOMINATED, "10.0.1.50")];
    let pods = [
        create_pod(&plane.client, "first", "node-a", &wishes),
        create_pod(&plane.client, "second", "node-b", &wishes),
    ];
    let pods = join_all(pods).await;
    in_phase(&plane.client, "10.0.1.50", IpPhase::Bound).await;
    let holder = address(&plane.client, "10.0.1.50").await.unwrap().pod_uid;
    let (winner, loser) = if pods[0].metadata.uid == holder { (0, 1) } else { (1, 0) };
    let name = pods[loser].metadata.name.as_deref().unwrap();
    let message = reason(&plane.client, name, "AddressConflict").await;
    assert!(message.contains("10.0.1.50 is taken"), "{message}");
    assert_eq!(claim(&plane.client, name).await.unwrap().address, None, "nothing half-done");
    delete_pod(&plane.client, pods[winner].metadata.name.as_deref().unwrap()).await;
    assert_eq!(bound(&plane.client, &pods[loser]).await, "10.0.1.50");
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s18_a_finished_pod_keeps_its_address_for_its_successor() {
    let (plane, _dir) = running_plane().await;
    let ip = plane.pod("job-0", "node-a", true).await.unwrap();
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
    let patch = Patch::Merge(json!({ "status": { "phase": "Succeeded" } }));
    pods.patch_status("job-0", &PatchParams::default(), &patch).await.unwrap();
    in_phase(&plane.client, &ip, IpPhase::Retained).await;
    create_pod(&plane.client, "thief", "node-b", &[(NOMINATED, &ip)]).await;
    let message = reason(&plane.client, "thief", "AddressConflict").await;
    assert!(message.contains("is taken"), "{message}");
    delete_pod(&plane.client, "job-0").await;
    assert_eq!(plane.pod("job-0", "node-b", true).await.unwrap(), ip);
}

#[tokio::test(flavor = "multi_thread")]
async fn s19_a_changed_wish_counts_for_the_next_pod_and_frees_the_old_address() {
    let (plane, _dir) = plane().await;
    // ENIs first: their own addresses are picked at random.
    plane.start_controller_with(ControllerConfig { min_enis: 1, ..ControlPlane::config() }, None).unwrap();
    eventually("an ENI for each node", async || plane.cloud.snapshot().pod_enis() == 2).await.unwrap();
    let wish = |last| plane.cloud.snapshot().free_from([10, 0, 1, last]).to_string();
    let (first, others, second) = (wish(50), wish(60), wish(70));
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC, (NOMINATED, &first)]).await;
    assert_eq!(bound(&plane.client, &pod).await, first);
    let taken = create_pod(&plane.client, "other", "node-b", &[STATIC, (NOMINATED, &others)]).await;
    assert_eq!(bound(&plane.client, &taken).await, others);
    // A wish that cannot be granted costs nothing.
    delete_pod(&plane.client, "web-0").await;
    in_phase(&plane.client, &first, IpPhase::Retained).await;
    create_pod(&plane.client, "web-0", "node-a", &[STATIC, (NOMINATED, &others)]).await;
    reason(&plane.client, "web-0", "AddressConflict").await;
    // For longer than an address that is given back, or has lost its claim, stays.
    let ControllerConfig { cooldown, orphan_period, retry, .. } = ControlPlane::config();
    tokio::time::sleep(cooldown + 2 * orphan_period + 2 * retry).await;
    let held = address(&plane.client, &first).await.expect("the old address was lost");
    assert_eq!((held.phase, held.epoch), (IpPhase::Retained, 1));
    assert_eq!(claim(&plane.client, "web-0").await.unwrap().address, Some(first.clone()));
    // One that can be: the new address is there, and the old one is not held for ever.
    delete_pod(&plane.client, "web-0").await;
    let pod = create_pod(&plane.client, "web-0", "node-b", &[STATIC, (NOMINATED, &second)]).await;
    assert_eq!(bound(&plane.client, &pod).await, second);
    free(&plane.client, &first).await;
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s25_pods_of_one_name_in_two_namespaces_have_nothing_in_common() {
    let (plane, _dir) = running_plane().await;
    let here = plane.pod("web-0", "node-a", true).await.unwrap();
    let pod = create_pod_in(&plane.client, "team", "web-0", "node-a", &[STATIC]).await;
    let there = bound(&plane.client, &pod).await;
    assert_ne!(here, there);
    plane.end_pod("web-0", &here).await.unwrap();
    Api::<VpcIPClaim>::default_namespaced(plane.client.clone())
        .delete("web-0", &DeleteParams::default())
        .await
        .unwrap();
    free(&plane.client, &here).await;
    let status = address(&plane.client, &there).await.unwrap();
    assert_eq!((status.phase, status.epoch), (IpPhase::Bound, 1), "the other namespace's was left alone");
    plane.settled().await.unwrap();
}
