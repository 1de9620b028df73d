//! The server takes everything in `deploy/`.

use crate::site::{OVERLAY, Site, overlays};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn each_overlay_is_taken_without_a_warning() {
    let site = Site::clear().await.expect("a server");
    // The definitions are there already, and kubectl warns of what it has not applied itself.
    site.apply(OVERLAY, &[]).expect("applied");
    let mut tried = 0;
    for entry in std::fs::read_dir(overlays()).expect("deploy/overlays") {
        let overlay = entry.expect("entry").file_name().into_string().expect("UTF-8");
        let said = site.apply(&overlay, &["--dry-run=server"]).expect(&overlay);
        for line in said.lines() {
            assert!(line.ends_with(" (server dry run)"), "{overlay}: {line}");
        }
        assert!(said.lines().count() > 10, "{overlay}: {said}");
        tried += 1;
    }
    assert!(tried > 1);
}

/// What would be applied again is what is there: no default of the server is fought over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn what_is_applied_is_what_is_there() {
    let site = Site::clear().await.expect("a server");
    site.apply(OVERLAY, &[]).expect("applied");
    let folder = overlays().join(OVERLAY).display().to_string();
    site.api.kubectl(&["diff", "-k", &folder]).expect("no difference");
}
