//! Many pods at once, in every order, and wishes that cannot be granted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use ipam_agent::api::{VpcIP, VpcIPClaim};
use ipam_lab::cluster::{Cluster, eventually};
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

const PING: Duration = Duration::from_secs(2);

async fn big_cluster(test: &str) -> Cluster {
    let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.0.0/22").limits(3, 15);
    builder.node("node-a", "zone-1").node("node-b", "zone-1").start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_adds_at_once() {
    let cluster = big_cluster("thirty").await;
    let names: Vec<String> = (0..30).map(|n| format!("pod-{n}")).collect();
    let before = cluster.cloud.calls().len();
    let pods =
        try_join_all(names.iter().map(|name| cluster.run_pod(name, "node-a", &[STATIC]))).await.unwrap();
    let ips: BTreeSet<Ipv4Addr> = pods.iter().map(|pod| pod.ip()).collect();
    assert_eq!(ips.len(), 30, "an address was given out twice");
    let assigns = cluster
        .cloud
        .calls()
        .iter()
        .skip(before)
        .filter(|call| call.action == "AssignPrivateIpAddresses")
        .count();
    println!("30 pods cost {assigns} calls of AssignPrivateIpAddresses");
    let other = cluster.run_pod("other", "node-b", &[]).await.unwrap();
    for pod in &pods {
        ping(pod.sandbox.ns(), other.ip(), PING).unwrap();
        pod.check().await.unwrap();
    }
    let enis = cluster.cloud.snapshot().enis.into_iter().filter(|eni| {
        !eni.primary && eni.attachment.as_ref().is_some_and(|(instance, _)| instance == "ins-node-a")
    });
    let mut full: Vec<usize> = enis.map(|eni| eni.addresses.len() - 1).collect();
    full.sort_unstable();
    assert_eq!(full, [15, 15], "packed: the fullest ENI first");
    try_join_all(pods.into_iter().map(|pod| cluster.end_pod(pod))).await.unwrap();
    cluster.node("node-a").wait_until_clean().await.unwrap();
}

/// Random sandboxes come and go at the same time, as a runtime that restarts everything makes them; at the end
/// what should be there is there, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn adds_and_dels_in_any_order() {
    let cluster = big_cluster("any_order").await;
    let seed: u64 =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut pods = Vec::new();
    for n in 0..8 {
        pods.push(cluster.create_pod(&format!("pod-{n}"), "node-a", &[STATIC]).await.unwrap());
    }
    let lives = join_all(pods.iter().enumerate().map(async |(n, pod)| {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed.wrapping_add(n as u64));
        let mut sandboxes = Vec::new();
        for _ in 0..random.random_range(3..8) {
            if random.random_bool(0.6) || sandboxes.is_empty() {
                let sandbox = cluster.sandbox(pod, "node-a").await.unwrap();
                if random.random_bool(0.2) {
                    // The runtime's patience ends: DEL while ADD runs.
                    let (_, del) = tokio::join!(sandbox.add(), sandbox.del());
                    del.unwrap();
                    sandbox.del().await.unwrap();
                } else {
                    sandbox.add().await.unwrap();
                    sandboxes.push(sandbox);
                }
            } else {
                sandboxes.shuffle(&mut random);
                sandboxes.pop().unwrap().del().await.unwrap();
            }
        }
        // The last sandbox is the pod's; older ones are taken down after it, as kubelet does.
        let last = cluster.add_sandbox(pod, "node-a").await.unwrap();
        for old in sandboxes {
            old.del().await.unwrap();
        }
        last
    }))
    .await;
    let other = cluster.run_pod("other", "node-b", &[]).await.unwrap();
    let ips: BTreeSet<Ipv4Addr> = lives.iter().map(|pod| pod.ip()).collect();
    assert_eq!(ips.len(), lives.len());
    for pod in &lives {
        ping(other.sandbox.ns(), pod.ip(), PING).unwrap_or_else(|error| panic!("{}: {error:#}", pod.ip()));
        pod.check().await.unwrap();
    }
    assert_eq!(cluster.node("node-a").dump("POD_ROUTES_V4").unwrap().len(), lives.len());
    for pod in lives {
        cluster.end_pod(pod).await.unwrap();
    }
    cluster.node("node-a").wait_until_clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nominated_address_is_given_or_refused_with_the_reason() {
    let cluster = Cluster::two_nodes("nominated").await.unwrap();
    // ENIs first: their own addresses are picked at random.
    eventually("an ENI for each node", async || cluster.cloud.snapshot().pod_enis() == 2).await.unwrap();
    let ip = cluster.cloud.snapshot().free_from([10, 0, 1, 77]);
    let (text, refusal) = (ip.to_string(), format!("{ip} is taken"));
    let wish = ("tke.cloud.tencent.com/nominated-vpc-ip", text.as_str());
    let first = cluster.run_pod("first", "node-a", &[wish, STATIC]).await.unwrap();
    assert_eq!(first.ip(), ip);
    for (name, value, words) in [
        ("taken", text.as_str(), refusal.as_str()),
        ("outside", "192.168.7.7", "lies in no configured subnet"),
        ("gateway", "10.0.1.1", "reserved by the cloud"),
    ] {
        cluster.create_pod(name, "node-b", &[(wish.0, value)]).await.unwrap();
        let claims = cluster.api::<VpcIPClaim>();
        eventually(&format!("{name} to be refused"), async || {
            let status =
                claims.get_opt(name).await.ok().flatten().and_then(|claim| claim.status).unwrap_or_default();
            status
                .conditions
                .iter()
                .any(|condition| condition.reason == "AddressConflict" && condition.message.contains(words))
        })
        .await
        .unwrap();
        assert!(claims.get(name).await.unwrap().status.unwrap().address.is_none(), "nothing half-done");
    }
    assert_eq!(
        Api::<VpcIP>::all(cluster.client.clone()).get(&text).await.unwrap().spec.claim_ref.unwrap().name,
        "first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_annotations_keep_the_address_and_tell() {
    let cluster = Cluster::two_nodes("nonsense").await.unwrap();
    let nonsense = [
        ("eni-ipam.dev/vpc-ip-claim-delete-policy", "Perhaps"),
        ("eni-ipam.dev/claim-expired-duration", "soon"),
    ];
    let pod = cluster.run_pod("odd", "node-a", &nonsense).await.unwrap();
    let ip = pod.ip();
    let events = Api::<Event>::namespaced(cluster.client.clone(), "default");
    eventually("events that name both annotations", async || {
        let notes: Vec<String> = events
            .list(&Default::default())
            .await
            .into_iter()
            .flatten()
            .filter_map(|event| event.note)
            .collect();
        ["\"Perhaps\" is no policy", "\"soon\" is no duration"]
            .iter()
            .all(|words| notes.iter().any(|note| note.contains(words)))
    })
    .await
    .unwrap();
    cluster.end_pod(pod).await.unwrap();
    let again = cluster.run_pod("odd", "node-b", &nonsense).await.unwrap();
    assert_eq!(again.ip(), ip, "an unreadable policy keeps the address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_sandbox_is_made_anew_keeps_address_and_epoch() {
    let cluster = Cluster::two_nodes("sandbox").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[]).await.unwrap();
    let first = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    // The new sandbox comes before the old one is taken down.
    let second = cluster.add_sandbox(&pod, "node-a").await.unwrap();
    assert_eq!(first.ip(), second.ip());
    first.del().await.unwrap();
    ping(second.sandbox.ns(), cluster.lab.ctl().ip(), PING).unwrap();
    second.check().await.unwrap();
    let epoch =
        Api::<VpcIP>::all(cluster.client.clone()).get(&second.ip().to_string()).await.unwrap().state().epoch;
    assert_eq!(epoch, 1);
}
