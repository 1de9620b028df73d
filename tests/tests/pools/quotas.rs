//! A VPC's quota of ENIs, a node's limits, a subnet's size: what is shown when they are reached, what it costs to wait, and
//! that it heals.

use std::time::Duration;

use ipam_agent::api::IpPhase;
use ipam_agent::api::condition::READY;
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use kube::ResourceExt;

use crate::tools::*;

/// What the seed document shows of it, then what it leaves to the reader.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_reached_is_told_and_heals_when_it_grows() {
    let (plane, _dir) = plane().await;
    plane.cloud.set_eni_quota(0);
    plane.start_controller_with(eager(), None).unwrap();
    let note = event(&plane, "node-a", "ENILimit").await;
    assert!(note.contains("the VPC may have 0 ENIs"), "{note}");
    says(&plane, "node-a", READY, "ENILimit").await;
    says(&plane, "node-b", READY, "ENILimit").await;
    let status = nec(&plane, "node-a").await.unwrap().status.unwrap();
    assert!(status.enis.is_empty() && status.eni_count == 0, "nec.status: {status:?}");
    let waiting = async || {
        let all = primaries(&plane).await;
        let shown = |ip: &&ipam_agent::api::VpcIP| {
            let status = ip.state();
            status.phase == IpPhase::Attaching
                && status.message.contains("LimitExceeded.NetworkInterfaceLimitExceeded")
                && status.eni_id.is_none()
        };
        all.iter().filter(shown).count() == 2 && all.len() == 2
    };
    eventually("an Attaching address with the cloud's error for each node", waiting).await.unwrap();
    let before: Vec<String> = primaries(&plane).await.iter().map(ResourceExt::name_any).collect();

    plane.cloud.set_eni_quota(10);
    for node in ["node-a", "node-b"] {
        let status = has_enis(&plane, node, 1).await.status.unwrap();
        assert_eq!((status.message.as_str(), status.enis[0].subnet_cidr.as_str()), ("", "10.0.1.0/24"));
        assert!(before.contains(&status.enis[0].primary_ip), "the address that was shown became the ENI's");
        says(&plane, node, READY, "ENIsReady").await;
    }
    eventually("the primary addresses to be bound", async || {
        let all = primaries(&plane).await;
        all.len() == 2
            && all.iter().all(|ip| ip.state().phase == IpPhase::Bound && ip.state().message.is_empty())
    })
    .await
    .unwrap();
    plane.pod("web-0", "node-a", true).await.unwrap();
    plane.settled().await.unwrap();
}

/// Asking for what cannot be had costs less the longer it lasts, though pods ask all the time.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_quota_costs_few_calls() {
    let (plane, _dir) = plane().await;
    plane.cloud.set_eni_quota(0);
    plane.start_controller_with(ControlPlane::config(), None).unwrap();
    for n in 0..5 {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": format!("pod-{n}") },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "main", "image": "none" }] },
        }))
        .unwrap();
        let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
        pods.create(&Default::default(), &pod).await.unwrap();
    }
    says(&plane, "node-a", READY, "ENILimit").await;
    let (before, began) = (plane.cloud.calls().len(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let calls = calls_since(&plane, before);
    println!("5 pods that wait {:?} cost {calls:?}", began.elapsed());
    // A claim asks every 100 ms; the pauses grow from 100 ms to 1 s.
    let creates = calls.get("CreateNetworkInterface").copied().unwrap_or(0);
    assert!((1..=8).contains(&creates), "{calls:?}");
    plane.cloud.set_eni_quota(1);
    has_enis(&plane, "node-a", 1).await;
    eventually("the pods to be bound", async || {
        let ips = plane.cloud.snapshot().enis;
        ips.first().is_some_and(|eni| eni.addresses.len() == 6)
    })
    .await
    .unwrap();
    plane.settled().await.unwrap();
}

/// The seed's example: a /23 and nodes of 29 + 1 addresses.
#[tokio::test(flavor = "multi_thread")]
async fn seventeen_nodes_reserve_a_subnet_of_23_and_the_eighteenth_waits_for_another() {
    let (plane, _dir) = plane().await;
    add_subnet(&plane, "subnet-23", "zone-9", "10.9.0.0/23");
    for n in 1..=17 {
        plane.add_node(&format!("node-{n:02}"), "zone-9", (2, 30), 110).await.unwrap();
    }
    let config = || ControllerConfig { reserve_eni_quota: true, ..eager() };
    plane.start_controller_with(config(), None).unwrap();
    for n in 1..=17 {
        has_enis(&plane, &format!("node-{n:02}"), 1).await;
    }
    plane.add_node("node-18", "zone-9", (2, 30), 110).await.unwrap();
    let note = event(&plane, "node-18", "PoolExhausted").await;
    let numbers = "subnet subnet-23 (10.9.0.0/23) has 512 addresses, of which 17 ENIs reserve 510; one more ENI reserves 30";
    assert!(note.contains(numbers), "{note}");
    assert!(says(&plane, "node-18", READY, "PoolExhausted").await.contains(numbers));
    assert!(enis_on(&plane, "node-18").is_empty());
    // Another process counts the same.
    plane.kill_controller().await;
    plane.start_controller_with(config(), None).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(enis_on(&plane, "node-18").is_empty());

    add_subnet(&plane, "subnet-more", "zone-9", "10.9.2.0/24");
    let status = has_enis(&plane, "node-18", 1).await.status.unwrap();
    assert_eq!(status.enis[0].subnet_id, "subnet-more");
    says(&plane, "node-18", READY, "ENIsReady").await;
}
