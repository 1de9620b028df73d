//! What kubelets are told: who is alive, who is ready. Parts are stopped by failpoints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipam_lab::cluster::{Cluster, eventually};
use ipam_lab::control_plane::{ControlPlane, Difference, Replica};
use ipam_lab::lab::patience::patient;
use ipam_lab::scrape;

/// After this a part counts as stuck. Much longer than any step takes here, busy as the machine may be.
fn stuck_after() -> Duration {
    patient(Duration::from_secs(6))
}

async fn start(plane: &ControlPlane, dir: &Path, name: &str, failpoints: &'static str) -> Replica {
    let different = Difference {
        args: vec![
            format!("--stuck-after={}s", stuck_after().as_secs()),
            // A look at the lease that is not answered is given up earlier than that.
            "--leader-elect-renew-deadline=5s".into(),
        ],
        env: vec![("FAILPOINTS", failpoints)],
        script: None,
    };
    plane.replica(dir, name, different).await.unwrap()
}

async fn becomes(replica: &Replica, path: &str, code: u16) -> String {
    let mut said = String::new();
    let what = format!("{path} to be {code}");
    let became = eventually(&what, async || {
        let Some((now, body)) = replica.tells(path).await else { return false };
        said = body;
        now == code
    });
    became.await.unwrap_or_else(|error| panic!("{error}: {said}\n{}", replica.log()));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_and_who_stands_by_are_ready() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let leader = start(&plane, dir.path(), "leader", "").await;
    leader.wait_until_leading().await.unwrap();
    let standby = start(&plane, dir.path(), "standby", "").await;
    for (replica, leads) in [(&leader, "1"), (&standby, "0")] {
        assert_eq!(becomes(replica, "/readyz", 200).await, "ok\n");
        assert_eq!(becomes(replica, "/healthz", 200).await, "ok\n");
        let metrics = becomes(replica, "/metrics", 200).await;
        assert!(metrics.contains(&format!("eni_ipam_leading {leads}\n")), "{metrics}");
    }
    plane.pod("web-0", "node-a", true).await.unwrap();
    // Nobody is unwell for want of work, nor because the API does not answer.
    standby.cut_off();
    let since = Instant::now();
    while since.elapsed() < stuck_after() * 2 {
        for replica in [&leader, &standby] {
            assert_eq!(replica.tells("/healthz").await.unwrap(), (200, "ok\n".into()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciler_that_is_stuck_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let controller = start(&plane, dir.path(), "controller", "stuck-claims=return").await;
    becomes(&controller, "/readyz", 200).await;
    assert_eq!(becomes(&controller, "/healthz", 200).await, "ok\n");
    let pod = tokio::time::timeout(stuck_after() * 3, plane.pod("web-0", "node-a", true));
    let (said, bound) = tokio::join!(becomes(&controller, "/healthz", 503), pod);
    assert!(said.starts_with("the reconciler of claims: has been at one step for"), "{said}");
    assert!(bound.is_err(), "nothing was stuck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_stuck_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let controller = start(&plane, dir.path(), "controller", "stuck-watch-vpcips=return").await;
    controller.wait_until_leading().await.unwrap();
    let said = becomes(&controller, "/healthz", 503).await;
    assert!(said.starts_with("watch of vpcips: not heard of for"), "{said}");
    assert_eq!(said.lines().count(), 1, "the others are well: {said}");
    let said = becomes(&controller, "/readyz", 503).await;
    assert!(said.contains("waits for the first list of every kind"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_agent_is_ready_when_it_can_take_pods() {
    let stuck_after = format!("--stuck-after={}s", stuck_after().as_secs());
    let mut cluster = Cluster::builder("probes")
        .subnet("subnet-a", "zone-1", "10.0.1.0/24")
        .node("node-a", "zone-1")
        .agent_args(&[&stuck_after])
        .start()
        .await
        .unwrap();
    let ask = |cluster: &Cluster, path: &str| {
        let address = SocketAddr::from(([127, 0, 0, 1], 9470));
        let stream = cluster.node("node-a").machine().ns().connect(address, Duration::from_secs(5)).ok()?;
        scrape::get(stream, path).ok().map(|(code, _, body)| (code, body))
    };
    let ready = async || ask(&cluster, "/readyz") == Some((200, "ok\n".into()));
    eventually("the agent to be ready", ready).await.unwrap();
    assert_eq!(ask(&cluster, "/healthz"), Some((200, "ok\n".into())));

    // Its socket goes: nobody could ask it for a pod's network.
    std::fs::remove_file(cluster.node("node-a").machine().socket()).unwrap();
    let (code, said) = ask(&cluster, "/readyz").unwrap();
    assert!(code == 503 && said.contains("STATUS"), "{code} {said}");

    let node = cluster.node_mut("node-a");
    node.agent().kill9().unwrap();
    node.start_agent(&[("FAILPOINTS", "stuck-repair=return")]).unwrap();
    let mut said = String::new();
    let noticed = eventually("the stuck repair to be noticed", async || match ask(&cluster, "/healthz") {
        Some((code, body)) => {
            said = body;
            // Its loop is silent a moment before its step is too long.
            code == 503 && said.contains("the repair: has been at one step")
        }
        None => false,
    });
    noticed.await.unwrap_or_else(|error| panic!("{error:#}: {said}"));
}
