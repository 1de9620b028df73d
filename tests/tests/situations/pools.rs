//! No address is free, or not yet, or somebody outside has it.

use std::time::{Duration, Instant};

use ipam_agent::api::{IpPhase, VpcIP};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::control_plane::ControlPlane;
use kube::{Api, ResourceExt};

use crate::tools::*;

/// Room for two pods on each node, and a controller that does not look again by itself within the test.
fn tight() -> ControllerConfig {
    ControllerConfig {
        max_enis: 1,
        max_ips_per_eni: 2,
        retry: Duration::from_secs(600),
        ..ControlPlane::config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_an_address_in_use_outside_the_cluster_is_set_aside_and_another_given() {
    let (plane, _dir) = plane().await;
    // Somebody outside the cluster has every address but three: one for the ENI, two for pods.
    for last in 2..=254u8 {
        if ![20, 21, 22].contains(&last) {
            plane.cloud.take_address([10, 0, 1, last].into());
        }
    }
    plane.start_controller(None).unwrap();
    let pod = create_pod(&plane.client, "named", "node-a", &[(NOMINATED, "10.0.1.99")]).await;
    let words = reason(&plane.client, "named", "AddressConflict").await;
    assert!(!words.is_empty());
    assert_eq!(pod.name_any(), "named");
    let ip = plane.pod("plain", "node-a", false).await.unwrap();
    assert!(["10.0.1.20", "10.0.1.21", "10.0.1.22"].contains(&ip.as_str()), "{ip}");
    let quarantined: Vec<String> = Api::<VpcIP>::all(plane.client.clone())
        .list(&Default::default())
        .await
        .unwrap()
        .into_iter()
        .filter(|ip| ip.state().phase == IpPhase::Quarantined)
        .map(|ip| ip.name_any())
        .collect();
    assert!(!quarantined.is_empty(), "a foreign address was met, and nobody gets it for a while");
    assert!(plane.cloud.snapshot().violations.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn s16_who_waits_for_room_is_told_the_counts_and_woken_within_a_second() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(tight(), None).unwrap();
    plane.pod("kept", "node-a", true).await.unwrap();
    let going = plane.pod("going", "node-a", false).await.unwrap();
    let waiting = create_pod(&plane.client, "waiting", "node-a", &[]).await;
    let message = reason(&plane.client, "waiting", "PoolExhausted").await;
    assert!(message.ends_with("2 bound, 0 retained, 0 cooling"), "{message}");
    delete_pod(&plane.client, "going").await;
    let start = Instant::now();
    let ip = bound(&plane.client, &waiting).await;
    assert!(start.elapsed() < Duration::from_secs(1), "woken after {:?}", start.elapsed());
    println!("{going} released, {ip} bound after {:?}", start.elapsed());
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s20_a_released_address_rests_for_the_whole_cooldown_also_across_a_restart() {
    let (plane, _dir) = plane().await;
    let config = || ControllerConfig { cooldown: Duration::from_secs(2), ..ControlPlane::config() };
    plane.start_controller_with(config(), None).unwrap();
    let first = create_pod(&plane.client, "first", "node-a", &[(NOMINATED, "10.0.1.50")]).await;
    assert_eq!(bound(&plane.client, &first).await, "10.0.1.50");
    delete_pod(&plane.client, "first").await;
    in_phase(&plane.client, "10.0.1.50", IpPhase::Cooldown).await;
    let start = Instant::now();
    let second = create_pod(&plane.client, "second", "node-b", &[(NOMINATED, "10.0.1.50")]).await;
    still_waits("the second pod", bound(&plane.client, &second), 1000).await;
    plane.kill_controller().await;
    plane.start_controller_with(config(), None).unwrap();
    assert_eq!(bound(&plane.client, &second).await, "10.0.1.50");
    assert!(start.elapsed() > Duration::from_millis(1900), "rested only {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn s24_a_rolling_update_with_as_many_addresses_as_pods_goes_through() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(tight(), None).unwrap();
    let mut old: Vec<(String, String)> = Vec::new();
    for n in 0..2 {
        let name = format!("old-{n}");
        let ip = plane.pod(&name, "node-a", false).await.unwrap();
        old.push((name, ip));
    }
    // maxSurge: the new pod comes first and waits; that must not keep the old one from going.
    for (n, (name, ip)) in old.iter().enumerate() {
        let surge = create_pod(&plane.client, &format!("new-{n}"), "node-a", &[]).await;
        reason(&plane.client, &surge.name_any(), "PoolExhausted").await;
        plane.end_pod(name, ip).await.unwrap();
        bound(&plane.client, &surge).await;
    }
    plane.settled().await.unwrap();
}
