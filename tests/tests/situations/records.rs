//! S26: the journal of a node, or the API's records, are lost while pods live.

use std::time::Duration;

use ipam_agent::api::{IpPhase, VpcIP};
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::lab::traffic::{UdpStream, ping};
use ipam_lab::story::STATIC;
use kube::Api;
use kube::api::DeleteParams;

use crate::tools::*;

const PING: Duration = Duration::from_secs(2);

/// Packets a second of each stream.
const RATE: u32 = 1000;

/// Numbered packets from everywhere to a pod of node-a and from it.
fn streams(cluster: &Cluster, here: &RunningPod, beside: &RunningPod, there: &RunningPod) -> Vec<UdpStream> {
    let start = |from: &RunningPod, to: &RunningPod, port: u16| {
        UdpStream::start(from.sandbox.ns(), to.sandbox.ns(), (to.ip(), port).into(), RATE).unwrap()
    };
    assert!(ping(cluster.lab.ctl().ns(), here.ip(), PING).is_ok());
    vec![start(here, there, 7001), start(there, here, 7002), start(beside, here, 7003)]
}

fn none_lost(streams: Vec<UdpStream>) {
    for stream in streams {
        let report = stream.stop().unwrap();
        assert!(report.sent > 100 && report.lost == 0, "{report}");
    }
}

/// Kills the agent, takes its journal away and starts it anew.
async fn lose_journal(cluster: &mut Cluster) {
    let node = cluster.node_mut("node-a");
    node.agent().kill9().unwrap();
    std::fs::remove_file(node.machine().journal()).unwrap();
    node.start_agent(&[]).unwrap();
    node.wait_until_served().await.unwrap();
    let mut ready = || node.agent().log().matches("ready for calls").count() >= 2;
    eventually("the agent to be ready", async || ready()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s26_a_lost_journal_cuts_no_pod() {
    let mut cluster = Cluster::two_nodes("s26_journal").await.unwrap();
    let here = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    let there = cluster.run_pod("there", "node-b", &[]).await.unwrap();
    let routes = cluster.node("node-a").dump("POD_ROUTES_V4").unwrap().len();
    let packets = streams(&cluster, &here, &beside, &there);
    lose_journal(&mut cluster).await;
    // Past the first looks at everything, and a second start, which finds a journal.
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.node_mut("node-a").restart_agent().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    none_lost(packets);
    assert_eq!(cluster.node("node-a").dump("POD_ROUTES_V4").unwrap().len(), routes);
    // The runtime's calls find what they mean.
    for pod in [&here, &beside] {
        pod.check().await.unwrap();
    }
    let ip = here.ip().to_string();
    cluster.end_pod(here).await.unwrap();
    in_phase(&cluster.client, &ip, IpPhase::Retained).await;
    let again = cluster.run_pod("web-0", "node-b", &[STATIC]).await.unwrap();
    assert_eq!(again.ip().to_string(), ip);
    ping(beside.sandbox.ns(), again.ip(), PING).unwrap();
    cluster.end_pod(beside).await.unwrap();
    cluster.node("node-a").wait_until_clean().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s26_a_lost_journal_cuts_no_pod_when_the_api_is_away_too() {
    let mut cluster = Cluster::two_nodes("s26_both").await.unwrap();
    let here = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    let there = cluster.run_pod("there", "node-b", &[]).await.unwrap();
    let packets = streams(&cluster, &here, &beside, &there);
    without_api(&mut cluster).await;
    lose_journal(&mut cluster).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    none_lost(packets);
    here.check().await.unwrap();
    // A DEL is a DEL, and the API hears of it in time.
    let ip = here.ip().to_string();
    here.del().await.unwrap();
    api_returns(&mut cluster).await;
    cluster.delete_pod_object("web-0").await.unwrap();
    in_phase(&cluster.client, &ip, IpPhase::Retained).await;
    ping(there.sandbox.ns(), beside.ip(), PING).unwrap();
    beside.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s26_lost_records_of_live_pods_are_made_again_and_no_address_is_given_out_twice() {
    let cluster = Cluster::two_nodes("s26_records").await.unwrap();
    let retained = cluster.run_pod("kept-0", "node-a", &[STATIC]).await.unwrap();
    let kept = retained.ip().to_string();
    cluster.end_pod(retained).await.unwrap();
    in_phase(&cluster.client, &kept, IpPhase::Retained).await;
    let here = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let beside = cluster.run_pod("beside", "node-a", &[]).await.unwrap();
    let there = cluster.run_pod("there", "node-b", &[]).await.unwrap();
    let packets = streams(&cluster, &here, &beside, &there);

    let live = [&here, &beside, &there].map(|pod| pod.ip().to_string());
    let ips = Api::<VpcIP>::all(cluster.client.clone());
    let mut before = Vec::new();
    for ip in live.iter().chain([&kept]) {
        before.push(ips.get(ip).await.unwrap());
        ips.delete(ip, &DeleteParams::default()).await.unwrap();
    }
    // New pods come in the same moment.
    let mut new = Vec::new();
    for n in 0..6 {
        let node = if n % 2 == 0 { "node-a" } else { "node-b" };
        new.push(cluster.run_pod(&format!("new-{n}"), node, &[]).await.unwrap());
    }
    for lost in &before {
        let ip = lost.metadata.name.clone().unwrap();
        let wanted = lost.state();
        let status = in_phase(&cluster.client, &ip, wanted.phase).await;
        assert_eq!((status.epoch, &status.pod_uid), (wanted.epoch, &wanted.pod_uid), "{ip}");
        assert_eq!((&status.node_name, &status.eni_id), (&wanted.node_name, &wanted.eni_id), "{ip}");
        let made = ips.get(&ip).await.unwrap();
        assert_eq!(made.spec, lost.spec, "{ip}");
        assert_ne!(made.metadata.uid, lost.metadata.uid, "{ip}");
    }
    let mut all: Vec<String> = new.iter().map(|pod| pod.ip().to_string()).collect();
    all.extend(live.iter().chain([&kept]).cloned());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 10, "an address was given out twice");
    none_lost(packets);
    assert!(cluster.cloud.snapshot().violations.is_empty());
    here.check().await.unwrap();
    // And life goes on with the new records.
    let ip = here.ip().to_string();
    cluster.end_pod(here).await.unwrap();
    in_phase(&cluster.client, &ip, IpPhase::Retained).await;
    let again = cluster.run_pod("kept-0", "node-b", &[STATIC]).await.unwrap();
    assert_eq!(again.ip().to_string(), kept);
    ping(beside.sandbox.ns(), again.ip(), PING).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s26_what_a_claim_names_is_nobody_elses_while_its_record_is_lost() {
    let (plane, _dir) = running_plane().await;
    let kept = plane.pod("kept-0", "node-a", true).await.unwrap();
    plane.end_pod("kept-0", &kept).await.unwrap();
    // The controller cannot make the record again yet.
    plane.quirks.break_down(Some(&format!("/vpcips/{kept}")));
    Api::<VpcIP>::all(plane.client.clone()).delete(&kept, &DeleteParams::default()).await.unwrap();
    assert_ne!(plane.pod("new-0", "node-a", false).await.unwrap(), kept);
    plane.quirks.break_down(None);
    in_phase(&plane.client, &kept, IpPhase::Retained).await;
    plane.settled().await.unwrap();
}
