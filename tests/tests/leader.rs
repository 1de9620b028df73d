//! Several controllers, of which one acts: killed, stopped, frozen, cut off.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::path::Path;
use std::time::{Duration, Instant};

use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::{ControlPlane, Difference, Replica};
use ipam_lab::lab::patience::patient;
use rustix::process::Signal;

/// Short, yet long enough for a machine that does other things too.
fn times(lease: u64, deadline: u64) -> [String; 3] {
    let seconds = |seconds| patient(Duration::from_secs(seconds)).as_secs();
    [
        format!("--leader-elect-lease-duration={}s", seconds(lease)),
        format!("--leader-elect-renew-deadline={}s", seconds(deadline)),
        "--leader-elect-retry-period=500ms".to_owned(),
    ]
}

async fn start(plane: &ControlPlane, dir: &Path, name: &str, times: &[String]) -> Replica {
    let different = Difference { args: times.to_vec(), ..Difference::default() };
    plane.replica(dir, name, different).await.unwrap()
}

/// One that leads, and one that stands by.
async fn pair(plane: &ControlPlane, dir: &Path, times: &[String]) -> (Replica, Replica) {
    let first = start(plane, dir, "first", times).await;
    first.wait_until_leading().await.unwrap();
    let second = start(plane, dir, "second", times).await;
    eventually("the second to stand by", async || second.log().contains("standing by")).await.unwrap();
    (first, second)
}

fn stood_by(replica: &Replica) {
    assert!(!replica.leads(), "{}", replica.log());
    let wrote = [replica.writes(), replica.lease_writes()].concat();
    assert!(wrote.is_empty(), "one that stands by wrote {wrote:?}");
    assert!(replica.cloud_calls().is_empty(), "one that stands by called the cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let times = times(6, 4);
    let (mut first, second) = pair(&plane, dir.path(), &times).await;
    let web = plane.pod("web-0", "node-a", true).await.unwrap();
    stood_by(&second);
    first.signal(Signal::KILL).unwrap();
    first.ended().await.unwrap();
    let killed = Instant::now();
    plane.end_pod("web-0", &web).await.unwrap();
    assert_eq!(plane.pod("web-0", "node-b", true).await.unwrap(), web);
    println!("killed; the other's first write after {:?}", second.writes()[0].at - killed);
    plane.settled().await.unwrap();
    let third = start(&plane, dir.path(), "third", &times).await;
    eventually("the third to stand by", async || third.log().contains("standing by")).await.unwrap();
    stood_by(&third);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    // Nobody waits for this lease to be over.
    let (mut first, second) = pair(&plane, dir.path(), &times(600, 300)).await;
    let job = plane.pod("job-0", "node-a", false).await.unwrap();
    let asked = Instant::now();
    first.signal(Signal::TERM).unwrap();
    assert!(first.ended().await.unwrap().success(), "{}", first.log());
    second.wait_until_leading().await.unwrap();
    println!("stopped; the other leads after {:?}", asked.elapsed());
    plane.end_pod("job-0", &job).await.unwrap();
    assert!(!second.writes().is_empty());
}

/// The leader is frozen while the cloud works for it, another takes over, and it wakes up with the cloud's answer in
/// its hands: it does nothing with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_past_its_lease_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let (mut first, second) = pair(&plane, dir.path(), &times(6, 4)).await;
    let late = FaultKind::Late(patient(Duration::from_secs(2)));
    plane.cloud.faults().add(Some("CreateNetworkInterface"), When::Nth(1), late);
    let frozen = async {
        let creates = async || first.cloud_calls().iter().any(|call| call.action == "CreateNetworkInterface");
        eventually("the first to ask for an ENI", creates).await.unwrap();
        first.signal(Signal::STOP).unwrap();
        // What it had sent by then is on its way still.
        tokio::time::sleep(patient(Duration::from_millis(300))).await;
        (first.writes().len(), first.lease_writes().len(), first.cloud_calls().len())
    };
    let (bound, before) = tokio::join!(plane.pod("web-0", "node-a", true), frozen);
    bound.unwrap();
    plane.settled().await.unwrap();
    assert!(second.leads(), "{}", second.log());
    first.signal(Signal::CONT).unwrap();
    let ended = first.ended().await.unwrap();
    assert!(!ended.success(), "a leader without a lease ends with an error");
    let after = (first.writes().len(), first.lease_writes().len(), first.cloud_calls().len());
    assert_eq!(before, after, "API, lease, cloud: {}", first.log());
    assert!(first.log().contains("nothing is written any more"), "{}", first.log());
    plane.settled().await.unwrap();
}

/// The leader loses the API, not the cloud, in the midst of calls that the cloud refuses and that it therefore repeats.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let (mut first, second) = pair(&plane, dir.path(), &times(6, 4)).await;
    plane.cloud.faults().add(Some("CreateNetworkInterface"), When::Always, FaultKind::Throttle);
    let cut = async {
        let creates = async || first.cloud_calls().iter().any(|call| call.action == "CreateNetworkInterface");
        eventually("the first to ask for an ENI", creates).await.unwrap();
        first.cut_off();
        let before = first.cloud_calls().len();
        assert!(!first.ended().await.unwrap().success(), "a leader without a lease ends with an error");
        println!("cut off, it called the cloud {} more times", first.cloud_calls().len() - before);
        second.wait_until_leading().await.unwrap();
        plane.cloud.faults().clear();
    };
    let (bound, ()) = tokio::join!(plane.pod("web-0", "node-a", true), cut);
    bound.unwrap();
    plane.settled().await.unwrap();
    let (last, begun) = (first.cloud_calls().last().unwrap().at, second.cloud_calls()[0].at);
    println!("the last call of the one was {:?} before the first of the other", begun.duration_since(last));
    assert!(last < begun, "both called the cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_writes_nothing_but_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let (first, second) = pair(&plane, dir.path(), &times(6, 4)).await;
    plane.pod("web-0", "node-a", true).await.unwrap();
    plane.settled().await.unwrap();
    // What a pod brings about may still be going on for a moment.
    let mut wrote = first.writes().len();
    let mut renewals = first.lease_writes().len();
    eventually("six renewals without another write", async || {
        if first.writes().len() != wrote {
            (wrote, renewals) = (first.writes().len(), first.lease_writes().len());
        }
        first.lease_writes().len() >= renewals + 6
    })
    .await
    .unwrap();
    stood_by(&second);
}
