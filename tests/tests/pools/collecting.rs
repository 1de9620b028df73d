//! ENIs that nobody needs: leaked, left behind, stuck.

use std::net::IpAddr;
use std::time::Duration;

use ipam_agent::cloud::{EniProvider, NewEni};
use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::tools::*;

async fn gone(plane: &ControlPlane, eni: &str) {
    eventually(&format!("{eni} to be collected"), async || plane.cloud.snapshot().eni(eni).is_none())
        .await
        .unwrap();
}

/// The machine and its Node object go.
async fn lose(plane: &ControlPlane, node: &str) {
    plane.cloud.remove_instance(&format!("ins-{node}")).await.unwrap();
    Api::<Node>::all(plane.client.clone()).delete(node, &Default::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn enis_of_a_node_that_is_gone_are_collected_but_not_those_that_hold_an_address() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(watchful(), None).unwrap();
    let kept = plane.pod("kept", "node-a", true).await.unwrap();
    let plain = plane.pod("plain", "node-a", false).await.unwrap();
    let eni = enis_on(&plane, "node-a")[0].clone();
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(plane.client.clone());
    for name in ["kept", "plain"] {
        pods.delete(name, &Default::default()).await.unwrap();
    }
    lose(&plane, "node-a").await;
    let note = event(&plane, "node-a", "ENIKept").await;
    assert!(note.contains(&eni.id), "{note}");
    eventually("the plain pod's address to leave it", async || {
        plane.cloud.snapshot().holder(plain.parse::<IpAddr>().unwrap()).is_none()
    })
    .await
    .unwrap();
    // Several looks later it is still there: the address is nobody else's.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(plane.cloud.snapshot().holder(kept.parse::<IpAddr>().unwrap()).unwrap().id, eni.id);
    assert_eq!(plane.pod("kept", "node-b", true).await.unwrap(), kept);
    gone(&plane, &eni.id).await;
    eventually("its primary address to be free", async || primaries(&plane).await.len() == 1).await.unwrap();
    plane.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_eni_is_collected_and_one_of_another_cluster_is_not() {
    let (plane, _dir) = plane().await;
    let provider = plane.provider().unwrap();
    let leaked = |cluster: &str| NewEni {
        name: format!("{cluster}-leaked"),
        subnet_id: "subnet-a".into(),
        cluster_id: cluster.into(),
        node: "node-a".into(),
        primary_ip: None,
    };
    let ours = provider.create_eni(&leaked("default")).await.unwrap();
    let theirs = provider.create_eni(&leaked("other")).await.unwrap();
    let began = std::time::Instant::now();
    plane.start_controller_with(watchful(), None).unwrap();
    gone(&plane, &ours.id).await;
    assert!(began.elapsed() >= PERIOD, "at first sight");
    event(&plane, "node-a", "ENICollected").await;
    assert!(plane.cloud.snapshot().eni(&theirs.id).is_some(), "not ours to touch");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eni_that_does_not_arrive_is_replaced() {
    for action in ["CreateNetworkInterface", "AttachNetworkInterface"] {
        let (plane, _dir) = plane().await;
        plane.cloud.faults().add(Some(action), When::First(1), FaultKind::Stuck);
        plane.start_controller_with(watchful(), None).unwrap();
        plane.pod("web-0", "node-a", true).await.unwrap_or_else(|error| panic!("{action}: {error:#}"));
        let note = event(&plane, "node-a", "ENIStuck").await;
        println!("{action}: {note}");
        eventually("one ENI to be left", async || plane.cloud.snapshot().enis.len() == 1).await.unwrap();
        plane.settled().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_taken_off_behind_our_back_is_put_back() {
    let (plane, _dir) = plane().await;
    plane.start_controller_with(watchful(), None).unwrap();
    let ip: IpAddr = plane.pod("web-0", "node-a", true).await.unwrap().parse().unwrap();
    let eni = plane.cloud.snapshot().holder(ip).unwrap().id.clone();
    plane.cloud.unassign_out_of_band(&eni, ip).await.unwrap();
    assert!(plane.cloud.snapshot().holder(ip).is_none());
    let note = event(&plane, "node-a", "AddressLost").await;
    assert!(note.contains(&ip.to_string()) && note.contains("put back"), "{note}");
    plane.settled().await.unwrap();
}

/// An ENI that somebody attached by hand, or that another cluster's CNI left, has addresses of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_eni_of_somebody_else_gets_no_pods_and_keeps_what_it_has() {
    let (plane, _dir) = plane().await;
    let provider = plane.provider().unwrap();
    let other = NewEni {
        name: "by-hand".into(),
        subnet_id: "subnet-a".into(),
        cluster_id: "another".into(),
        node: "node-a".into(),
        primary_ip: None,
    };
    let theirs = provider.create_eni(&other).await.unwrap().id;
    provider.attach_eni(&theirs, "ins-node-a").await.unwrap();
    let kept: IpAddr = "10.0.1.200".parse().unwrap();
    provider.assign_ips(&theirs, &[kept]).await.unwrap();
    let config = ControllerConfig { warm_patience: Duration::from_millis(200), ..eager() };
    plane.start_controller_with(config, None).unwrap();
    let ip: IpAddr = plane.pod("web-0", "node-a", true).await.unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let of_theirs = || plane.cloud.snapshot().eni(&theirs).unwrap().secondary_ips();
    assert_eq!(of_theirs(), [kept]);
    // The machine takes four ENIs: its own, theirs, and two for pods, of nine addresses each.
    for n in 1..18 {
        plane.pod(&format!("web-{n}"), "node-a", false).await.unwrap();
    }
    let one_more = tokio::time::timeout(Duration::from_secs(2), plane.pod("one-more", "node-a", false)).await;
    assert!(one_more.is_err(), "{one_more:?}");
    assert_eq!(of_theirs(), [kept]);
    assert_ne!(ip, kept);
    assert!(plane.cloud.snapshot().violations.is_empty());
}
