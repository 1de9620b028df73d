//! What the tokens of the programs may do and what not, by the server's word.

use ipam_agent::api::{IpPhase, VpcIP, VpcIPClaim, VpcIPSpec, VpcIPStatus, VpcIPType};
use ipam_lab::cluster::eventually;
use ipam_lab::cluster::external::{AGENT, CONTROLLER, agent_token, token};
use ipam_lab::real_api::{OURS, with_token};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::site::Site;

/// Who denies what the roles alone would allow. Its sentences are tested with the manifests.
const DENIED: &str = "ValidatingAdmissionPolicy 'eni-ipam-node' with binding 'eni-ipam-node' denied request";

/// A client with a token.
pub async fn client(site: &Site, token: &str) -> Client {
    let kubeconfig = with_token(site.api.kubeconfig(), "someone", token).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("config")).expect("client")
}

/// An address of a node in a phase.
async fn address(admin: &Client, ip: &str, node: &str, phase: IpPhase) {
    let spec =
        VpcIPSpec { type_: VpcIPType::Eni, ip: ip.to_owned(), subnet_id: "subnet-a".into(), claim_ref: None };
    let vips = Api::<VpcIP>::all(admin.clone());
    vips.create(&PostParams::default(), &VpcIP::new(ip, spec)).await.expect("create");
    let status = VpcIPStatus {
        phase,
        node_name: Some(node.to_owned()),
        eni_id: Some("eni-1".to_owned()),
        epoch: 3,
        ..VpcIPStatus::default()
    };
    let patch = Patch::Merge(json!({ "status": status }));
    vips.patch_status(ip, &PatchParams::default(), &patch).await.expect("status");
}

async fn node(admin: &Client, name: &str) {
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": name, "labels": { OURS: "" } } }))
        .expect("node");
    Api::<Node>::all(admin.clone()).create(&PostParams::default(), &node).await.expect("create");
}

fn acknowledgement() -> Value {
    json!({ "status": { "detached": { "epoch": 3, "at": "2026-01-02T00:00:00Z" } } })
}

async fn patch(client: &Client, ip: &str, status: &Value) -> Result<VpcIP, kube::Error> {
    let vips = Api::<VpcIP>::all(client.clone());
    vips.patch_status(ip, &PatchParams::default(), &Patch::Merge(status)).await
}

/// The sentence of a refusal.
fn refusal<T: std::fmt::Debug>(answer: kube::Result<T>) -> String {
    match answer {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("should be refused, is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn an_agent_writes_its_own_acknowledgements_and_nothing_else() {
    let site = Site::installed().await.expect("a server");
    let admin = site.api.client().await.expect("client");
    for name in ["node-a", "node-b"] {
        node(&admin, name).await;
    }
    address(&admin, "198.51.100.1", "node-a", IpPhase::Detaching).await;
    address(&admin, "198.51.100.2", "node-b", IpPhase::Detaching).await;
    address(&admin, "198.51.100.3", "node-a", IpPhase::Bound).await;
    let agent = client(&site, &agent_token(&admin, "node-a").await.expect("token")).await;

    let mut last = String::new();
    eventually("the policy to be in force", async || {
        match patch(&agent, "198.51.100.2", &json!({ "status": { "message": "x" } })).await {
            Err(kube::Error::Api(status)) => last = status.message.clone(),
            other => last = format!("{other:?}"),
        }
        last.contains("the address is not on the node of this agent")
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {last}"));

    let of_another = refusal(patch(&agent, "198.51.100.2", &acknowledgement()).await);
    assert!(of_another.contains("the address is not on the node of this agent"), "{of_another}");
    let bound = refusal(patch(&agent, "198.51.100.3", &acknowledgement()).await);
    assert!(bound.contains(DENIED), "{bound}");
    let mut taken = acknowledgement();
    taken["status"]["phase"] = "Free".into();
    let freed = refusal(patch(&agent, "198.51.100.1", &taken).await);
    assert!(!freed.is_empty());
    taken["status"]["phase"] = "Cooldown".into();
    let freed = refusal(patch(&agent, "198.51.100.1", &taken).await);
    assert!(freed.contains(DENIED), "{freed}");
    let own = patch(&agent, "198.51.100.1", &acknowledgement()).await.expect("its own");
    assert_eq!(own.status.and_then(|status| status.detached).map(|detached| detached.epoch), Some(3));

    let vips = Api::<VpcIP>::all(agent.clone());
    for refused in [
        refusal(vips.delete("198.51.100.1", &DeleteParams::default()).await),
        refusal(Api::<VpcIPClaim>::all(agent.clone()).list(&ListParams::default()).await),
        refusal(Api::<Secret>::namespaced(agent.clone(), "kube-system").list(&ListParams::default()).await),
    ] {
        assert!(refused.contains("system:serviceaccount:kube-system:eni-ipam-node"), "{refused}");
    }
    assert_eq!(vips.list(&ListParams::default()).await.expect("reads").items.len(), 3);

    // A token that was not made for a pod says nothing of a node.
    let loose = client(&site, &token(&admin, AGENT, None).await.expect("token")).await;
    let refused = refusal(patch(&loose, "198.51.100.1", &acknowledgement()).await);
    assert!(refused.contains("the token names no node"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn the_controller_reads_no_secrets_and_changes_no_pods() {
    let site = Site::installed().await.expect("a server");
    let admin = site.api.client().await.expect("client");
    let controller = client(&site, &token(&admin, CONTROLLER, None).await.expect("token")).await;
    let secrets = Api::<Secret>::namespaced(controller.clone(), "kube-system");
    let refused = refusal(secrets.list(&ListParams::default()).await);
    assert!(refused.contains("cannot list resource \"secrets\""), "{refused}");
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(controller.clone(), "default");
    let refused = refusal(pods.delete("web-0", &DeleteParams::default()).await);
    assert!(refused.contains("cannot delete resource \"pods\""), "{refused}");
    Api::<VpcIP>::all(controller).list(&ListParams::default()).await.expect("reads addresses");
}
