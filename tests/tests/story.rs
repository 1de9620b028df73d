//! The demo's story, step by step, in either cloud.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use ipam_lab::caller::Door;
use ipam_lab::story;

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_holds() {
    holds(Door::Tencent, "story").await;
}

/// The same client that runs in AWS, with an address that moves between nodes by `AllowReassignment`.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_holds_on_aws() {
    let stage = holds(Door::Aws, "story-aws").await;
    let moves =
        stage.cluster.cloud.calls().into_iter().filter(|call| call.params["AllowReassignment"] == "true");
    assert!(moves.count() > 0, "the static pod's address was moved");
}

async fn holds(door: Door, test: &str) -> story::Stage {
    let (stage, steps) = story::tell(door, test, |_, told| {
        if let Some(told) = told {
            println!("{} {}: {:#?}", if told.ok { "ok" } else { "NOT OK" }, told.title, told.lines);
        }
    })
    .await
    .unwrap();
    let failed: Vec<_> = steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(steps.len(), 12, "the story was told to its end");
    stage
}
