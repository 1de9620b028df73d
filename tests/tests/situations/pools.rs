//! No address is free, or not yet, or somebody outside has it.

use std::time::{Duration, Instant};

use ipam_agent::api::{ClaimPhase, IpPhase, NodeENIConfig, VpcIP};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::{FaultKind, SubnetConfig, When};
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::{ControlPlane, SUBNET_TAG};
use ipam_lab::lab::patience::patient;
use ipam_lab::story::STATIC;
use kube::{Api, ResourceExt};

use crate::tools::*;

/// Room for two pods on each node, and a controller that does not look again by itself within the test.
fn tight() -> ControllerConfig {
    ControllerConfig {
        max_enis: Some(1),
        max_ips_per_eni: Some(2),
        retry: Duration::from_secs(600),
        ..ControlPlane::config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_an_address_in_use_outside_the_cluster_is_set_aside_and_another_given() {
    let (plane, _dir) = plane().await;
    let small = SubnetConfig {
        id: "subnet-small".into(),
        zone: "zone-9".into(),
        cidr: "10.0.9.0/26".parse().unwrap(),
        cidr_v6: None,
    };
    plane.cloud.add_subnet(small);
    plane.cloud.tag_subnet("subnet-small", SUBNET_TAG.0, SUBNET_TAG.1);
    plane.add_node("apart", "zone-9", (2, 10), 110).await.unwrap();
    // Somebody outside the cluster has every address but two: one for the ENI, one for a pod.
    for last in (2..=62u8).filter(|last| ![20, 21].contains(last)) {
        plane.cloud.take_address([10, 0, 9, last]);
    }
    plane.start_controller(None).unwrap();
    let pod = create_pod(&plane.client, "named", "apart", &[(NOMINATED, "10.0.9.30")]).await;
    let words = reason(&plane.client, "named", "AddressConflict").await;
    assert!(!words.is_empty());
    assert_eq!(pod.name_any(), "named");
    let ip = plane.pod("plain", "apart", false).await.unwrap();
    assert!(["10.0.9.20", "10.0.9.21"].contains(&ip.as_str()), "{ip}");
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
async fn s15_a_subnet_that_is_removed_keeps_what_is_in_it_and_gets_nothing_new() {
    let (plane, _dir) = plane().await;
    let other = SubnetConfig {
        id: "subnet-b".into(),
        zone: "zone-1".into(),
        cidr: "10.0.2.0/26".parse().unwrap(),
        cidr_v6: None,
    };
    plane.cloud.add_subnet(other);
    plane.cloud.tag_subnet("subnet-b", SUBNET_TAG.0, SUBNET_TAG.1);
    plane.start_controller(None).unwrap();
    // The larger one comes first.
    let kept = plane.pod("kept", "node-a", true).await.unwrap();
    let live = plane.pod("live", "node-a", true).await.unwrap();
    assert!(kept.starts_with("10.0.1.") && live.starts_with("10.0.1."), "{kept} {live}");
    plane.end_pod("kept", &kept).await.unwrap();
    plane.cloud.remove_subnet("subnet-a");
    // Another process has nothing from before.
    plane.kill_controller().await;
    plane.start_controller(None).unwrap();
    let necs = Api::<NodeENIConfig>::all(plane.client.clone());
    let told = async || {
        let status = necs.get("node-a").await.unwrap().status.unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|known| known.reason == "SubnetRemoved" && known.message.contains("subnet-a"))
            && status.enis.len() == 1
            && status.enis[0].subnet_cidr == "10.0.1.0/24"
    };
    eventually("the node to say that its subnet is gone, and to keep its ENI", told).await.unwrap();
    assert_eq!(address(&plane.client, &live).await.unwrap().phase, IpPhase::Bound);
    assert_eq!(address(&plane.client, &kept).await.unwrap().phase, IpPhase::Retained);
    let new = plane.pod("new", "node-a", false).await.unwrap();
    assert!(new.starts_with("10.0.2."), "{new}");
    assert_eq!(plane.pod("kept", "node-a", true).await.unwrap(), kept, "served where its ENI is");
    // On a node without such an ENI it waits, and says why.
    plane.end_pod("live", &live).await.unwrap();
    let moved = create_pod(&plane.client, "live", "node-b", &[STATIC]).await;
    let words = reason(&plane.client, "live", "SubnetRemoved").await;
    assert!(words.contains(&live) && words.contains("subnet-a"), "{words}");
    assert_eq!(
        plane
            .cloud
            .snapshot()
            .holder(live.parse::<std::net::IpAddr>().unwrap())
            .map(|eni| eni.subnet.clone()),
        Some("subnet-a".into())
    );
    let again = SubnetConfig {
        id: "subnet-a".into(),
        zone: "zone-1".into(),
        cidr: "10.0.1.0/24".parse().unwrap(),
        cidr_v6: None,
    };
    plane.cloud.add_subnet(again);
    assert_eq!(bound(&plane.client, &moved).await, live);
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s16_who_waits_for_room_is_told_the_counts_and_woken_at_once() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(tight(), None).unwrap();
    plane.pod("kept", "node-a", true).await.unwrap();
    let going = plane.pod("going", "node-a", false).await.unwrap();
    // The second asks later, and sorts first by its name. Claims tell their age in whole seconds.
    let mut waiting = Vec::new();
    for name in ["waiting-b", "waiting-a"] {
        waiting.push(create_pod(&plane.client, name, "node-a", &[]).await);
        let message = reason(&plane.client, name, "PoolExhausted").await;
        assert!(message.ends_with("2 bound, 0 retained, 0 cooling"), "{message}");
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let mut leaving = ("going", going);
    for (nth, pod) in waiting.iter().enumerate() {
        delete_pod(&plane.client, leaving.0).await;
        let start = Instant::now();
        let ip = bound(&plane.client, pod).await;
        // Mostly within 100 ms; on a machine that does much else it takes longer. Nothing is tried again by itself within ten
        // minutes.
        let limit = patient(Duration::from_secs(10));
        assert!(start.elapsed() < limit, "woken after {:?}", start.elapsed());
        println!("{} released, {ip} bound after {:?}", leaving.1, start.elapsed());
        for younger in &waiting[nth + 1..] {
            let status = claim(&plane.client, &younger.name_any()).await.unwrap();
            assert_ne!(status.phase, ClaimPhase::Bound, "{} has overtaken", younger.name_any());
        }
        leaving = (pod.metadata.name.as_deref().unwrap(), ip);
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn s22_a_pod_whose_second_family_fails_has_none_and_keeps_the_first_for_its_next_try() {
    let (plane, _dir) = plane().await;
    let no = FaultKind::Error { code: "UnauthorizedOperation".into(), message: "no IPv6 today".into() };
    plane.cloud.faults().add(Some("AssignIpv6Addresses"), When::Always, no);
    let config = ControllerConfig { families: "ipv4,ipv6".parse().unwrap(), ..ControlPlane::config() };
    plane.start_controller_with(config, None).unwrap();
    let pod = create_pod(&plane.client, "web-0", "node-a", &[STATIC]).await;
    let message = reason(&plane.client, "web-0", "CloudError").await;
    assert!(message.contains("no IPv6 today"), "{message}");
    let first = || async {
        let all = Api::<VpcIP>::all(plane.client.clone()).list(&Default::default()).await.unwrap();
        let of_pods = all.into_iter().filter(|ip| ip.spec.claim_ref.is_some());
        of_pods.map(|ip| (ip.spec.ip.clone(), ip.state().phase)).collect::<Vec<_>>()
    };
    let before = first().await;
    assert_eq!(before.len(), 2, "one of each family: {before:?}");
    assert!(before.iter().all(|(_, phase)| *phase != IpPhase::Bound), "all or none: {before:?}");
    plane.cloud.faults().clear();
    let ip = bound(&plane.client, &pod).await;
    assert!(before.iter().any(|(known, _)| *known == ip), "the first try's: {before:?}");
    let held = claim(&plane.client, "web-0").await.unwrap().addresses;
    assert!(before.iter().all(|(known, _)| held.contains(known)), "{before:?} {held:?}");
    plane.settled().await.unwrap();
}
