//! The controller, killed between every two writes and refused at every call of the cloud: what it does
//! afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, select};
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::control_plane::ControlPlane;

/// A static pod that moves, and a plain one: every step there is.
async fn story(plane: &ControlPlane) -> anyhow::Result<()> {
    let web = plane.pod("web-0", "node-a", true).await?;
    let job = plane.pod("job-0", "node-a", false).await?;
    anyhow::ensure!(web != job, "{web} has two owners");
    plane.end_pod("web-0", &web).await?;
    plane.end_pod("job-0", &job).await?;
    let again = plane.pod("web-0", "node-b", true).await?;
    anyhow::ensure!(again == web, "web-0 had {web} and came back with {again}");
    plane.settled().await
}

/// Runs the story with a controller that is killed after so many writes, and a new one after it. `false` when
/// the story ended before that.
async fn killed_after(writes: i64) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    let left = plane.start_controller(Some(writes)).unwrap();
    let told = std::pin::pin!(story(&plane));
    let revived = std::pin::pin!(async {
        while left.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        plane.kill_controller().await;
        plane.start_controller(None).unwrap();
    });
    let (outcome, killed) = match select(told, revived).await {
        Either::Left((outcome, _)) => (outcome, false),
        Either::Right(((), told)) => (told.await, true),
    };
    outcome.unwrap_or_else(|error| panic!("killed after write {writes}: {error:#}"));
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_every_two_writes() {
    let mut writes = 0;
    while killed_after(writes + 1).await {
        writes += 1;
    }
    println!("killed after each of {writes} writes");
    assert!(writes > 15, "the story has more writes than {writes}");
}

/// Every call of the cloud fails once, in each of the ways a cloud fails: the story still ends well.
#[tokio::test(flavor = "multi_thread")]
async fn refused_at_every_call_of_the_cloud() {
    let kinds = [
        FaultKind::Throttle,
        FaultKind::Http500,
        FaultKind::TimeoutAfterSuccess,
        FaultKind::TornAnswer,
        FaultKind::StaleDescribe(Duration::from_millis(40)),
        FaultKind::PartialBatch,
        FaultKind::Error { code: "UnauthorizedOperation".into(), message: "not now".into() },
        FaultKind::Error {
            code: "LimitExceeded.NetworkInterfaceLimitExceeded".into(),
            message: "quota".into(),
        },
    ];
    for kind in kinds {
        let mut nth = 1;
        while refused_at(nth, &kind).await {
            nth += 1;
        }
        println!("{kind:?}: at each of {} calls", nth - 1);
        assert!(nth > 8, "the story has more calls than {}", nth - 1);
    }
}

/// Runs the story with one fault. `false` when the story has fewer calls.
async fn refused_at(nth: u64, kind: &FaultKind) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let plane = ControlPlane::new(dir.path()).await.unwrap();
    plane.cloud.faults().add(None, When::Nth(nth), kind.clone());
    plane.start_controller(None).unwrap();
    story(&plane).await.unwrap_or_else(|error| panic!("{kind:?} at call {nth}: {error:#}"));
    plane.cloud.calls().len() as u64 >= nth
}
