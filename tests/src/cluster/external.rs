//! A cluster's API that is a real kube-apiserver, and the identities that `deploy/` gives the programs there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::API_PORT;
use crate::lab::Lab;
use crate::real_api::{RealApi, Relay, through, with_token, write_kubeconfig};

/// Where `deploy/` puts everything.
pub const NAMESPACE: &str = "kube-system";
/// Names of the workloads, their accounts and their roles.
pub const CONTROLLER: &str = "eni-ipam-controller";
/// As [`CONTROLLER`].
pub const AGENT: &str = "eni-ipam-node";

/// The way to the server from the lab, and what the programs get in with.
#[derive(Debug)]
pub struct External {
    kubeconfig: Kubeconfig,
    dir: PathBuf,
    _relay: Relay,
}

impl External {
    /// Makes the server reachable on the controller's machine, and writes the administrator's kubeconfig there.
    pub(super) fn open(api: &RealApi, lab: &Lab, admin: &Path) -> Result<Self> {
        let address = (lab.ctl().ip(), API_PORT).into();
        let relay = Relay::start(lab.ctl().ns().listen(address)?, api.kubeconfig())?;
        let kubeconfig = through(api.kubeconfig(), address)?;
        write_kubeconfig(&kubeconfig, admin)?;
        Ok(Self { kubeconfig, dir: lab.ctl().dir(), _relay: relay })
    }

    /// The controller's kubeconfig: the token of a pod of the Deployment.
    pub(super) async fn controller(&self, client: &Client) -> Result<PathBuf> {
        let deployment = Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get(CONTROLLER).await?;
        let template = deployment.spec.context("the Deployment has no spec")?.template;
        self.identity(client, template, CONTROLLER, None).await
    }

    /// The kubeconfig of a node's agent: the token of a pod of the DaemonSet on that node.
    pub(super) async fn agent(&self, client: &Client, node: &str) -> Result<PathBuf> {
        let set = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).get(AGENT).await?;
        let template = set.spec.context("the DaemonSet has no spec")?.template;
        self.identity(client, template, AGENT, Some(node)).await
    }

    async fn identity(
        &self,
        client: &Client,
        template: PodTemplateSpec,
        account: &str,
        node: Option<&str>,
    ) -> Result<PathBuf> {
        let pod = pod_of(client, template, account, node).await?;
        let token = token(client, account, Some(&pod)).await?;
        let file = self.dir.join(format!("{}.kubeconfig", pod.name_any()));
        write_kubeconfig(&with_token(&self.kubeconfig, account, &token)?, &file)?;
        Ok(file)
    }
}

/// The pod that the workload's controller and the scheduler would have made.
async fn pod_of(
    client: &Client,
    template: PodTemplateSpec,
    workload: &str,
    node: Option<&str>,
) -> Result<Pod> {
    let mut spec = template.spec.context("the template has no spec")?;
    spec.node_name = node.map(str::to_owned);
    let metadata = ObjectMeta {
        generate_name: Some(format!("{workload}-")),
        labels: template.metadata.and_then(|metadata| metadata.labels),
        ..ObjectMeta::default()
    };
    let pod = Pod { metadata, spec: Some(spec), status: None };
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("a pod of {workload}"))
}

/// A token of a service account as a kubelet asks for it: for a pod, or for nothing.
///
/// # Errors
/// There is no such account.
pub async fn token(client: &Client, account: &str, pod: Option<&Pod>) -> Result<String> {
    let bound =
        pod.map(|pod| json!({ "kind": "Pod", "apiVersion": "v1", "name": pod.name_any(), "uid": pod.uid() }));
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "boundObjectRef": bound } }))?;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("no token in the answer")?.token)
}

/// The token of a node's agent, whose pod is made for it.
///
/// # Errors
/// `deploy/` has not been applied.
pub async fn agent_token(client: &Client, node: &str) -> Result<String> {
    let set = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).get(AGENT).await?;
    let template = set.spec.context("the DaemonSet has no spec")?.template;
    let pod = pod_of(client, template, AGENT, Some(node)).await?;
    token(client, AGENT, Some(&pod)).await
}
