//! The demo's story, step by step.

use ipam_lab::story;

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_holds() {
    let (_stage, steps) = story::tell("story", |_, told| {
        if let Some(told) = told {
            println!("{} {}: {:#?}", if told.ok { "ok" } else { "NOT OK" }, told.title, told.lines);
        }
    })
    .await
    .unwrap();
    let failed: Vec<_> = steps.iter().filter(|step| !step.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(steps.len(), 12, "the story was told to its end");
}
