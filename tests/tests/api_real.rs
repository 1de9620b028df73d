//! The conformance suite of the API seam on a real kube-apiserver, when the environment names one.

#[path = "../../ipam-agent/tests/api_seam/suite.rs"]
mod suite;

use ipam_lab::real_api::RealApi;
use kube::{Client, CustomResourceExt};
use suite::conformance_cases;
use suite::exchanges::{self, thing::Thing};

/// Runs a case on the kube-apiserver that the environment names.
async fn real<F: Future<Output = ()>>(case: impl FnOnce(Client) -> F) {
    let api = RealApi::shared().await.expect("a kube-apiserver");
    case(api.client().await.expect("client")).await;
}

conformance_cases!(
    crate::real,
    ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test api`"
);

/// Records the answers of the server, or holds it to those that were recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test api`"]
async fn answers_are_those_that_were_recorded() {
    let api = RealApi::shared().await.expect("a kube-apiserver");
    let client = api.client().await.expect("client");
    api.define(&[Thing::crd()]).await.expect("the resource of the cases");
    exchanges::check(exchanges::play(&client).await, Some(api.version()));
}
