//! What a controller takes back, and what it must not.

use std::time::Duration;

use ipam_agent::api::{IpPhase, VpcIP, VpcIPClaim};
use ipam_agent::controller::ControllerConfig;
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

/// A wall clock far ahead makes every retention look over; a new controller has watched none of them. The properties
/// of the decision are in `ipam/retention.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn s13_a_clock_that_jumps_ahead_reclaims_nothing() {
    let (plane, _dir) = running_plane().await;
    let short = ("eni-ipam.dev/claim-expired-duration", "5m");
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC, short]).await;
    let ip = bound(&plane.client, &pod).await;
    plane.end_pod("web-0", &ip).await.unwrap();
    let expire_at = address(&plane.client, &ip).await.unwrap().expire_at.expect("a retention that ends");
    assert!(expire_at.0 > jiff::Timestamp::now());
    plane.kill_controller().await;
    // To a clock that is a year ahead, this is what the object says.
    let long_ago = json!({ "status": { "expireAt": "2020-01-01T00:00:00Z" } });
    let ips = Api::<VpcIP>::all(plane.client.clone());
    ips.patch_status(&ip, &PatchParams::default(), &Patch::Merge(long_ago)).await.unwrap();
    plane.start_controller(None).unwrap();
    // Enough for the new controller to have decided: it binds another pod meanwhile.
    plane.pod("witness", "node-b", false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(address(&plane.client, &ip).await.unwrap().phase, IpPhase::Retained);
    assert_eq!(plane.pod("web-0", "node-b", true).await.unwrap(), ip);
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
