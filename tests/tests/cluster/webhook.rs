//! The webhook as the server calls it: pods that come out prepared, warnings that kubectl prints, and pods that are made
//! without it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipam_agent::api::scheduling::{RESOURCE, WEBHOOK_DISABLED, WEBHOOK_LABEL, ZONE_LABEL};
use ipam_agent::api::{DeletePolicy, VpcIPClaim, VpcIPClaimSpec};
use ipam_agent::cloud::fixed::Fixed;
use ipam_agent::ipam::family::Families;
use ipam_agent::webhook::certificates::CertificateConfig;
use ipam_agent::webhook::{self, WebhookConfig};
use ipam_lab::cluster::eventually;
use ipam_lab::cluster::external::{CONTROLLER, token};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{Site, WEBHOOK};
use crate::tokens::client;

/// Two zones; eight addresses.
const ENIS: &str = include_str!("../../../ipam-agent/tests/webhook/enis.toml");

/// Serves the webhook with what the controller's account may do.
async fn serve(client: Client, listener: TcpListener) -> Result<JoinHandle<()>> {
    let listen = listener.local_addr()?;
    let config = WebhookConfig {
        listen,
        certificates: CertificateConfig {
            namespace: "kube-system".into(),
            secret: WEBHOOK.into(),
            configuration: WEBHOOK.into(),
            hosts: [listen.ip().to_string()].into(),
            clock: Arc::new(jiff::Timestamp::now),
            look: Duration::from_secs(600),
        },
        families: Families::ipv4(),
    };
    let provider = Arc::new(Fixed::parse("enis.toml", ENIS)?);
    let stop = CancellationToken::new();
    Ok(tokio::spawn(async move {
        let _ = webhook::serve(client, provider, config, listener, stop).await;
    }))
}

/// A pod that the server is asked to make and does not keep.
async fn pod(admin: &Client, namespace: &str, spec: &Value, metadata: Value) -> Result<Value> {
    let pod: Pod = serde_json::from_value(json!({ "metadata": metadata, "spec": spec }))?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let pods = Api::<Pod>::namespaced(admin.clone(), namespace);
    Ok(serde_json::to_value(pods.create(&dry_run, &pod).await?)?)
}

fn asks(pod: &Value) -> bool {
    let resources = &pod["spec"]["containers"][0]["resources"];
    resources["limits"][RESOURCE] == "1" && resources["requests"][RESOURCE] == "1"
}

fn zones(pod: &Value) -> Vec<&str> {
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let demands = required["nodeSelectorTerms"][0]["matchExpressions"].as_array().into_iter().flatten();
    demands
        .filter(|demand| demand["key"] == ZONE_LABEL)
        .flat_map(|demand| demand["values"].as_array().into_iter().flatten().filter_map(Value::as_str))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn pods_come_out_prepared_and_are_made_without_the_webhook_too() {
    let site = Site::installed().await.expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    let running = go(&site, listener, address).await.unwrap_or_else(|error| panic!("{error:#}"));
    without(&site, running).await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn go(site: &Site, listener: TcpListener, address: SocketAddr) -> Result<JoinHandle<()>> {
    let admin = site.api.client().await?;
    site.point_webhook_at(address).await?;
    let controller = client(site, &token(&admin, CONTROLLER, None).await?).await;
    let running = serve(controller, listener).await?;
    let container = json!({ "containers": [{ "name": "main", "image": "none" }] });
    let made = async |spec: &Value, metadata| pod(&admin, "default", spec, metadata).await;
    // The server has the caBundle, and the webhook its subnets.
    eventually("pods to come out prepared", async || {
        made(&container, json!({ "generateName": "plain-" })).await.is_ok_and(|pod| asks(&pod))
    })
    .await?;
    let nominated = json!({ "name": "n", "annotations": { "eni-ipam.dev/nominated-vpc-ip": "10.0.2.21" } });
    eventually("the zone of a nominated address", async || {
        made(&container, nominated.clone()).await.is_ok_and(|pod| zones(&pod) == ["zone-2"])
    })
    .await?;

    let claim = VpcIPClaim {
        metadata: ObjectMeta { name: Some("web-0".into()), ..ObjectMeta::default() },
        spec: VpcIPClaimSpec { delete_policy: DeletePolicy::Never, ..VpcIPClaimSpec::default() },
        status: None,
    };
    let claims = Api::<VpcIPClaim>::namespaced(admin.clone(), "default");
    claims.create(&PostParams::default(), &claim).await?;
    let status = json!({ "status": { "phase": "Retained", "address": "10.0.1.22" } });
    claims.patch_status("web-0", &PatchParams::default(), &Patch::Merge(status)).await?;
    let kept = made(&container, json!({ "name": "web-0" })).await?;
    ensure!(asks(&kept) && zones(&kept) == ["zone-1"], "{kept}");
    let other = made(&container, json!({ "name": "web-1" })).await?;
    ensure!(asks(&other) && zones(&other).is_empty(), "{other}");

    let mut on_host = container.clone();
    on_host["hostNetwork"] = true.into();
    ensure!(!asks(&made(&on_host, json!({ "name": "host" })).await?), "on the host's network");
    let out = json!({ "metadata": { "name": "opted-out", "labels": { WEBHOOK_LABEL: WEBHOOK_DISABLED, ipam_lab::real_api::OURS: "" } } });
    Api::<Namespace>::all(admin.clone())
        .create(&PostParams::default(), &serde_json::from_value(out)?)
        .await?;
    for namespace in ["opted-out", "kube-system"] {
        let left = pod(&admin, namespace, &container, json!({ "name": "left-alone" })).await?;
        ensure!(!asks(&left), "{namespace}: {left}");
    }

    let deployment = "create deployment surge --image=none --replicas=8 --dry-run=server";
    let said = site.api.kubectl(&deployment.split(' ').collect::<Vec<_>>())?;
    ensure!(
        said.contains("Warning: a rolling update needs 2 more addresses for its surge, and subnet-a, subnet-b have 0 free"),
        "{said}"
    );
    println!("{}", said.trim());
    // Its owner sees that the Secret is filled, and nothing can read it but the controller.
    let secret =
        site.api.kubectl(&["-n", "kube-system", "get", "secret", WEBHOOK, "-o", "jsonpath={.data}"])?;
    ensure!(secret.contains("ca.crt") && secret.contains("tls.key"), "{secret}");
    Ok(running)
}

/// The webhook is gone, in both ways that there are: nothing listens, and what listens does not answer.
async fn without(site: &Site, running: JoinHandle<()>) -> Result<()> {
    let admin = site.api.client().await?;
    running.abort();
    let _ = running.await;
    let container = json!({ "containers": [{ "name": "main", "image": "none" }] });
    let pods = Api::<Pod>::namespaced(admin.clone(), "default");
    let mute = TcpListener::bind("127.0.0.1:0").await?;
    for name in ["refused", "unanswered"] {
        if name == "unanswered" {
            site.point_webhook_at(mute.local_addr()?).await?;
        }
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": container }))?;
        let start = std::time::Instant::now();
        let made = pods.create(&PostParams::default(), &pod).await.context(name)?;
        println!("{name}: made after {:?}", start.elapsed());
        ensure!(!asks(&serde_json::to_value(&made)?), "{name}: prepared by nobody");
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}
