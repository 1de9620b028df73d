//! A container runtime's habits: it gives up, asks again and again, and forgets nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipam_agent::api::IpPhase;
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::lab::patience::patient;
use ipam_lab::lab::traffic::ping;
use ipam_lab::story::STATIC;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::tools::*;

const PING: Duration = Duration::from_secs(2);

/// A plugin that is killed when the runtime's patience of so many seconds ends.
fn impatient(cluster: &Cluster, sandbox: &mut RunningPod, seconds: f32) -> PathBuf {
    let pod = Arc::get_mut(&mut sandbox.sandbox).expect("nobody else has it");
    let script = cluster.lab.ctl().dir().join("impatient");
    let plugin = pod.plugin.display();
    std::fs::write(&script, format!("#!/bin/sh\nexec timeout -s KILL {seconds} {plugin}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::mem::replace(&mut pod.plugin, script)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_that_the_runtime_gives_up_leaves_nothing_and_its_del_does_not_wait() {
    let cluster = Cluster::two_nodes("gives_up").await.unwrap();
    let unknown: Pod =
        serde_json::from_value(json!({ "metadata": { "name": "web-0", "uid": "u" } })).unwrap();
    let mut sandbox = cluster.sandbox(&unknown, "node-a").await.unwrap();
    let plugin = impatient(&cluster, &mut sandbox, 2.0);
    let adding = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.add().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!adding.is_finished(), "there is no pod that an address could be bound to");
    // Of the runtime's DEL, which comes while the agent still waits for an address on behalf of the ADD.
    let mut del = cluster.sandbox(&unknown, "node-a").await.unwrap();
    let container_id = sandbox.sandbox.container_id.clone();
    Arc::get_mut(&mut del.sandbox).unwrap().container_id = container_id;
    let start = Instant::now();
    del.del().await.unwrap();
    assert!(start.elapsed() < patient(Duration::from_secs(5)), "DEL waited for {:?}", start.elapsed());
    adding.await.unwrap().unwrap_err();
    cluster.node("node-a").wait_until_clean().await.unwrap();

    // The same name comes for good.
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let mut again = cluster.sandbox(&pod, "node-a").await.unwrap();
    Arc::get_mut(&mut again.sandbox).unwrap().plugin = plugin;
    again.add().await.unwrap();
    ping(cluster.lab.ctl().ns(), again.ip(), PING).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_a_sandbox_of_the_former_pod_is_taken_down_after_the_new_one_asked() {
    let cluster = Cluster::two_nodes("s17_two").await.unwrap();
    let former = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    let pod = cluster.create_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let sandbox = cluster.sandbox(&pod, "node-a").await.unwrap();
    let adding = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.add().await }
    });
    reason(&cluster.client, "web-0", "WaitingForDetach").await;
    former.del().await.unwrap();
    adding.await.unwrap().unwrap();
    assert_eq!(sandbox.ip(), former.ip());
    // For ever.
    for _ in 0..5 {
        former.del().await.unwrap();
    }
    sandbox.check().await.unwrap();
    ping(cluster.lab.ctl().ns(), sandbox.ip(), PING).unwrap();
    let status = address(&cluster.client, &sandbox.ip().to_string()).await.unwrap();
    assert_eq!((status.phase, status.epoch), (IpPhase::Bound, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn dels_of_what_is_gone_or_was_never_there_succeed_also_while_the_agent_restarts() {
    let mut cluster = Cluster::two_nodes("dels").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
    let stays = cluster.run_pod("stays", "node-a", &[]).await.unwrap();
    let conf = pod.conf.to_string();
    let del = |env: &[(&str, Option<&str>)]| pod.sandbox.cni("DEL", env, &conf).unwrap().ok().map(drop);
    let unknown = ("CNI_CONTAINERID", Some("0123456789abcdef"));
    let nowhere = ("CNI_NETNS", Some(""));
    let nobody = ("CNI_ARGS", None);
    del(&[unknown]).unwrap();
    for restart in 0..3 {
        // One that ends in an orderly way, and one that does not.
        let agent = cluster.node_mut("node-a").agent();
        match restart {
            0 => _ = agent.terminate(Duration::from_secs(10)).unwrap(),
            _ => _ = agent.kill9().unwrap(),
        }
        cluster.node_mut("node-a").start_agent(&[]).unwrap();
        // As after a reboot: no namespace, no pod, no result of an ADD.
        for env in [vec![unknown], vec![nowhere, nobody], vec![]] {
            del(&env).unwrap_or_else(|error| panic!("restart {restart}, {env:?}: {error:#}"));
        }
    }
    stays.check().await.unwrap();
    ping(cluster.lab.ctl().ns(), stays.ip(), PING).unwrap();
    cluster.delete_pod_object("web-0").await.unwrap();
    in_phase(&cluster.client, &pod.ip().to_string(), IpPhase::Retained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_never_fails_while_the_agent_is_restarted() {
    let mut cluster = Cluster::two_nodes("status_storm").await.unwrap();
    let pod = cluster.run_pod("web-0", "node-a", &[]).await.unwrap();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asking = std::thread::spawn({
        let (stop, answered, pod) = (stop.clone(), answered.clone(), pod.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                status(&pod).ok().map_err(|error| format!("{error:#}"))?;
                answered.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok::<(), String>(())
        }
    });
    for restart in 0..4 {
        let node = cluster.node_mut("node-a");
        match restart % 2 {
            0 => _ = node.agent().terminate(Duration::from_secs(10)).unwrap(),
            _ => _ = node.agent().kill9().unwrap(),
        }
        node.start_agent(&[]).unwrap();
        node.wait_until_served().await.unwrap();
        let before = answered.load(Ordering::Relaxed);
        let more = async || answered.load(Ordering::Relaxed) >= before + 2 || asking.is_finished();
        eventually("STATUS to be answered", more).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    asking.join().unwrap().unwrap_or_else(|error| panic!("STATUS: {error}"));
    cluster.run_pod("next", "node-a", &[]).await.unwrap();
}
