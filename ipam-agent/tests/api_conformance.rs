//! The conformance suite of the API seam, on the embedded API: in this process, and through its listener.

#[path = "api_seam/suite.rs"]
mod suite;

use ipam_agent::embedded::{Access, CustomKind, EmbeddedApi, Options};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use suite::conformance_cases;
use suite::exchanges::{self, thing::Thing};

/// Runs a case on a new file.
async fn here<F: Future<Output = ()>>(case: impl FnOnce(Client) -> F) {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    case(api.client()).await;
    api.close().await;
}

/// Runs a case on a new file, with a client that knows nothing but a kubeconfig.
async fn there<F: Future<Output = ()>>(case: impl FnOnce(Client) -> F) {
    let directory = tempfile::tempdir().expect("directory");
    let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    let access = Access::new(&["127.0.0.1".to_owned()]).expect("access");
    let kubeconfig = directory.path().join("kubeconfig");
    access.write_kubeconfig(&kubeconfig, &address).expect("kubeconfig");
    let served = api.clone();
    tokio::spawn(async move { served.serve(listener, &access, std::future::pending()).await });
    let file = Kubeconfig::read_from(&kubeconfig).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    case(Client::try_from(config).expect("client")).await;
    api.close().await;
}

mod in_process {
    super::conformance_cases!(crate::here);
}

mod over_the_listener {
    super::conformance_cases!(crate::there);
}

/// What a kube-apiserver was recorded to answer, the embedded API answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_a_kube_apiserver() {
    let directory = tempfile::tempdir().expect("directory");
    let kinds = vec![CustomKind::of::<Thing>()];
    // So few that a watch from the first revision comes too late, as it does on a server that was started anew.
    let options = Options { log_capacity: 30, ..Options::default() };
    let api = EmbeddedApi::open_with(&directory.path().join("api.redb"), kinds, options);
    let api = api.expect("opens");
    exchanges::check(exchanges::play(&api.client()).await, None);
    api.close().await;
}
