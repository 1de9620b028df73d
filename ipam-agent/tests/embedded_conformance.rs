//! The conformance suite of the API seam, on the embedded API.

#[path = "api_seam/suite.rs"]
mod suite;

use ipam_agent::embedded::EmbeddedApi;
use suite::conformance_cases;

/// Runs a case on a new file.
async fn on_a_new_file<F: Future<Output = ()>>(case: impl FnOnce(kube::Client) -> F) {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    case(api.client()).await;
    api.close().await;
}

conformance_cases!(crate::on_a_new_file);
