//! The promise: whatever is done to the agent, no packet is lost, and every hook has one program of ours all the time.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam_lab::cluster::Cluster;
use rand::Rng as _;

use crate::hooks::Watch;
use crate::traffic::{RATE, Scene, Total, stop};

const THIS: &str = "ipam-agent";
/// The same with maps of the next ABI version: `cargo build -p ipam-agent --features next-abi --bin ipam-agent-next`.
const NEXT: &str = "ipam-agent-next";

/// Longest time that an agent lives in the test's hundred lives; many end before it is ready.
const LIFE: Duration = Duration::from_millis(300);

async fn random_while(longest: Duration) {
    let nanos = rand::rng().random_range(0..longest.as_nanos() as u64);
    tokio::time::sleep(Duration::from_nanos(nanos)).await;
}

fn version(cluster: &Cluster) -> u64 {
    cluster.node("node-a").dump("ABI").unwrap()[0]["formatted"]["value"].as_u64().unwrap()
}

/// The map of routes, in an order of its own: that of a hash table differs from map to map.
fn routes(cluster: &Cluster) -> BTreeSet<String> {
    let entries = cluster.node("node-a").dump("POD_ROUTES_V4").unwrap();
    entries.iter().map(|entry| entry["formatted"].to_string()).collect()
}

async fn start(cluster: &mut Cluster, build: &str) {
    let node = cluster.node_mut("node-a");
    let ready = node.agent().log().matches("ready for calls").count();
    node.start_build(build, &[]).unwrap();
    ipam_lab::cluster::eventually("the agent to be ready", async || {
        node.agent().log().matches("ready for calls").count() > ready
    })
    .await
    .unwrap();
}

/// Kills, restarts, upgrades and downgrades; nothing else changes.
async fn torment(cluster: &mut Cluster, kills: usize) {
    for _ in 0..kills {
        random_while(LIFE).await;
        let node = cluster.node_mut("node-a");
        node.agent().kill9().unwrap();
        node.start_agent(&[]).unwrap();
    }
    cluster.node_mut("node-a").agent().kill9().unwrap();
    let ours = u64::from(ipam_common::ABI_VERSION);
    for (build, wanted) in [(THIS, ours), (THIS, ours), (NEXT, ours + 1), (THIS, ours), (NEXT, ours + 1)] {
        start(cluster, build).await;
        assert_eq!(version(cluster), wanted, "{build}");
        let ended = cluster.node_mut("node-a").agent().terminate(Duration::from_secs(10)).unwrap();
        assert!(ended.success(), "{build}: {ended}");
    }
    // Killed at any point of a migration, and carried on by either build.
    for build in [THIS, NEXT, THIS, THIS, NEXT, NEXT, THIS, NEXT, THIS, NEXT] {
        let node = cluster.node_mut("node-a");
        node.start_build(build, &[]).unwrap();
        random_while(LIFE / 2).await;
        cluster.node_mut("node-a").agent().kill9().unwrap();
    }
    start(cluster, THIS).await;
    assert_eq!(version(cluster), ours);
}

fn line(what: &str, total: &Total) {
    let Total { sent, lost, gap, rate, .. } = total;
    println!("{what:32} {sent:>9} packets sent, {rate:.0} a second, {lost} lost, longest gap {gap:.1?}");
}

async fn never_down(test: &str, args: &[&str], kills: usize) {
    let mut scene = Scene::new(test, args).await;
    // Flows of services are marked by now.
    let streams = scene.start();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let quiet = stop(streams);

    let routes = routes(&scene.cluster);
    let watch = Watch::start(scene.cluster.node("node-a"));
    let streams = scene.start();
    torment(&mut scene.cluster, kills).await;
    let total = stop(streams);
    let looks = watch.stop();

    println!("\n{test} {args:?}");
    line("no restart", &quiet);
    line(&format!("{kills} kills, upgrades, downgrades"), &total);
    println!("one program on each hook, at {looks} looks\n{}", total.report);
    assert_eq!((quiet.lost, total.lost), (0, 0), "{}{}", quiet.report, total.report);
    // The senders keep their times, whatever else the machine does.
    assert!(total.rate > RATE * 0.95, "{} packets a second instead of {RATE}", total.rate);
    assert!(looks > 1000, "{looks}");
    assert_eq!(self::routes(&scene.cluster), routes, "the map has changed");
    for pod in scene.pods_of_node_a() {
        pod.check().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_kills_a_restart_an_upgrade_and_a_downgrade_lose_no_packet() {
    never_down("never_down", &[], 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_clsact_filters_no_packet_is_lost_either() {
    never_down("never_down_tc", &["--attachment", "clsact"], 10).await;
}
