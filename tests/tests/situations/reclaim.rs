//! What a controller takes back, and what it must not.

use std::net::IpAddr;
use std::time::Duration;

use ipam_agent::api::{ClaimPhase, IpPhase, VpcIP, VpcIPClaim};
use ipam_agent::cloud::EniProvider as _;
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use ipam_lab::story::STATIC;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::tools::*;

/// The controller dies after each of the writes of an ADD: `tests/restart.rs` does the same to the node agent.
#[tokio::test(flavor = "multi_thread")]
async fn s08_a_controller_killed_within_a_bind_leaves_one_address_and_no_more() {
    for writes in 1..=8 {
        let (plane, _dir) = plane().await;
        let left = plane.start_controller(Some(writes)).unwrap();
        let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC]).await;
        for _ in 0..200 {
            if left.load(std::sync::atomic::Ordering::SeqCst) <= 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        plane.kill_controller().await;
        plane.start_controller(None).unwrap();
        let ip = bound(&plane.client, &pod).await;
        assert_eq!(address(&plane.client, &ip).await.unwrap().epoch, 1, "bound once, killed after {writes}");
        plane.settled().await.unwrap_or_else(|error| panic!("killed after {writes}: {error:#}"));
    }
}

/// The cloud moved an address, and the controller died before it could write that down. The next pod of the claim comes
/// up on a third node.
#[tokio::test(flavor = "multi_thread")]
async fn s08_an_address_that_moved_without_a_record_is_found_and_moved_on() {
    let (plane, _dir) = running_plane().await;
    plane.add_node("node-c", "zone-1", (4, 10), 110).await.unwrap();
    let ip = plane.pod("web-0", "node-a", true).await.unwrap();
    // So that node-b has an ENI.
    let other = plane.pod("web-1", "node-b", true).await.unwrap();
    plane.end_pod("web-0", &ip).await.unwrap();
    in_phase(&plane.client, &ip, IpPhase::Retained).await;
    let holder = |ip: &str| plane.cloud.snapshot().holder(ip.parse::<IpAddr>().unwrap()).unwrap().id.clone();
    let (from, to) = (holder(&ip), holder(&other));
    plane.provider().unwrap().migrate_ip(&from, &to, ip.parse().unwrap()).await.unwrap();
    assert_eq!(plane.pod("web-0", "node-c", true).await.unwrap(), ip);
    assert!(![from, to].contains(&holder(&ip)));
    plane.settled().await.unwrap();
}

/// A wall clock far ahead makes every retention look over; a new controller has watched none of them. The properties
/// of the decision are in `ipam/retention.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn s13_a_clock_that_jumps_ahead_reclaims_nothing() {
    let (plane, _dir) = running_plane().await;
    let short = ("eni-ipam.dev/claim-expired-duration", "5m");
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC, short]).await;
    let ip = bound(&plane.client, &pod).await;
    plane.end_pod("web-0", &ip).await.unwrap();
    let expire_at = claim(&plane.client, "web-0").await.unwrap().expire_at.expect("a retention that ends");
    assert!(expire_at.0 > jiff::Timestamp::now());
    plane.kill_controller().await;
    // To a clock that is a year ahead, this is what the object says.
    let long_ago =
        json!({ "status": { "detachedAt": "2019-12-31T23:55:00Z", "expireAt": "2020-01-01T00:00:00Z" } });
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    claims.patch_status("web-0", &PatchParams::default(), &Patch::Merge(long_ago)).await.unwrap();
    plane.start_controller(None).unwrap();
    // Enough for the new controller to have decided: it binds another pod meanwhile.
    plane.pod("witness", "node-b", false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(address(&plane.client, &ip).await.unwrap().phase, IpPhase::Retained);
    assert_eq!(plane.pod("web-0", "node-b", true).await.unwrap(), ip);
}

/// All that a wall clock can say has been said; the API server's says otherwise for a while.
#[tokio::test(flavor = "multi_thread")]
async fn s13_an_address_expires_when_all_clocks_agree_and_not_before() {
    let (plane, _dir) = running_plane().await;
    let short = ("eni-ipam.dev/claim-expired-duration", "5m");
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC, short]).await;
    let ip = bound(&plane.client, &pod).await;
    plane.end_pod("web-0", &ip).await.unwrap();
    plane.kill_controller().await;
    let over =
        json!({ "status": { "detachedAt": "2019-12-31T23:55:00Z", "expireAt": "2020-01-01T00:00:00Z" } });
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    claims.patch_status("web-0", &PatchParams::default(), &Patch::Merge(over)).await.unwrap();
    plane.quirks.date_behind(Duration::from_secs(3600));
    let config = ControllerConfig { observation: Duration::from_millis(300), ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    still_waits("the address", free(&plane.client, &ip), 1500).await;
    plane.quirks.date_behind(Duration::ZERO);
    free(&plane.client, &ip).await;
    assert!(claims.get_opt("web-0").await.unwrap().is_none());
    plane.settled().await.unwrap();
}

/// Agents say when they let an address go by their own clocks, which nobody compares with another.
#[tokio::test(flavor = "multi_thread")]
async fn s13_a_node_whose_clock_is_wrong_neither_shortens_nor_lengthens_a_retention() {
    let (plane, _dir) = plane().await;
    // The agent's word comes unasked.
    let patience = Duration::from_secs(600);
    let config =
        ControllerConfig { observation: Duration::from_millis(300), patience, ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    let short = ("eni-ipam.dev/claim-expired-duration", "5m");
    let year = jiff::SignedDuration::from_hours(365 * 24);
    let mut kept = Vec::new();
    for (name, ahead) in [("behind-0", -year), ("ahead-0", year)] {
        let ip =
            bound(&plane.client, &create_pod(&plane.client, name, "node-a", &[STATIC, short]).await).await;
        delete_pod(&plane.client, name).await;
        let before = jiff::Timestamp::now();
        let word =
            json!({ "status": { "phase": "Retained", "detached": { "epoch": 1, "at": before + ahead } } });
        let ips = Api::<VpcIP>::all(plane.client.clone());
        ips.patch_status(&ip, &PatchParams::default(), &Patch::Merge(word)).await.unwrap();
        eventually("the claim to be retained", async || {
            claim(&plane.client, name).await.is_some_and(|claim| claim.phase == ClaimPhase::Retained)
        })
        .await
        .unwrap();
        let expire_at = claim(&plane.client, name).await.unwrap().expire_at.unwrap().0;
        let keep = jiff::SignedDuration::from_mins(5);
        let late = jiff::SignedDuration::from_secs(60);
        assert!(
            expire_at + jiff::SignedDuration::from_secs(1) >= before + keep
                && expire_at <= before + keep + late,
            "{name}: {expire_at}"
        );
        kept.push(ip);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for ip in &kept {
        assert_eq!(address(&plane.client, ip).await.unwrap().phase, IpPhase::Retained);
    }
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_address_is_kept_for_longer_when_its_claim_says_so() {
    let (plane, _dir) = running_plane().await;
    let short = ("eni-ipam.dev/claim-expired-duration", "5m");
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC, short]).await;
    let ip = bound(&plane.client, &pod).await;
    plane.end_pod("web-0", &ip).await.unwrap();
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    let expires_after = async || {
        let status = claim(&plane.client, "web-0").await.unwrap();
        Some((status.expire_at?.0.duration_since(status.detached_at.unwrap().0)).as_mins())
    };
    assert_eq!(expires_after().await, Some(5));
    for (keep, minutes) in [("2h", Some(120)), ("1h", Some(120)), ("never", None)] {
        let keep = json!({ "spec": { "expiredDuration": keep } });
        claims.patch("web-0", &PatchParams::default(), &Patch::Merge(keep)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        eventually("the claim to say until when", async || expires_after().await == minutes).await.unwrap();
    }
    assert_eq!(address(&plane.client, &ip).await.unwrap().phase, IpPhase::Retained);
}

#[tokio::test(flavor = "multi_thread")]
async fn s23_an_orphan_goes_only_after_a_whole_period_and_nothing_else_does() {
    let (plane, _dir) = running_plane().await;
    let kept = plane.pod("kept", "node-a", true).await.unwrap();
    plane.end_pod("kept", &kept).await.unwrap();
    let orphan = plane.pod("web-0", "node-a", true).await.unwrap();
    // Somebody takes the claim away by force while no controller runs.
    plane.kill_controller().await;
    let claims = Api::<VpcIPClaim>::default_namespaced(plane.client.clone());
    let no_finalizers = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    delete_pod(&plane.client, "web-0").await;
    claims.patch("web-0", &PatchParams::default(), &no_finalizers).await.unwrap();
    claims.delete("web-0", &DeleteParams::default()).await.unwrap();
    let config = ControllerConfig { orphan_period: Duration::from_secs(2), ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        address(&plane.client, &orphan).await.unwrap().phase,
        IpPhase::Bound,
        "seen once is not enough"
    );
    free(&plane.client, &orphan).await;
    assert_eq!(address(&plane.client, &kept).await.unwrap().phase, IpPhase::Retained);
    plane.settled().await.unwrap();
}
