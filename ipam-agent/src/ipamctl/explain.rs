//! `ipamctl explain pod`: gathers what is known of a pod, and says what is wrong.

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::bail;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::json;
use tokio::time::timeout;

use super::{Output, agent, inside, pod_id};
use crate::{
    api::{NodeENIConfig, VpcIP, VpcIPClaim},
    explain::{ApiView, Severity, View, findings, render},
    inspect::{Answer, NodeView, PodId, Question, Target},
};

/// How long API and agent have, each.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which pod, and how to print.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The pod.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = pod_id)]
    pod: PodId,
    /// Also say what each program does with a packet to there (TCP to a port, else an echo), without sending one.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = target)]
    to: Option<Target>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn target(text: &str) -> Result<Target, String> {
    if let Ok(ip) = text.parse() {
        return Ok(Target { ip, port: None });
    }
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "write an address such as 10.0.1.7, 10.0.1.7:80 or [fd00::7]:80".to_owned())?;
    Ok(Target { ip: address.ip(), port: Some(address.port()) })
}

/// Explains a pod. The exit code is 1 when there is a fault.
///
/// # Errors
/// The output cannot be written.
pub async fn run(
    client: anyhow::Result<Client>,
    socket: &Path,
    args: &ExplainArgs,
) -> anyhow::Result<ExitCode> {
    let api = async {
        match client {
            Ok(client) => within(api_view(&client, &args.pod)).await,
            Err(error) => Err(format!("{error:#}")),
        }
    };
    let (api, node) = tokio::join!(api, within(node_view(socket, args)));
    let attachment = node.as_ref().ok().and_then(|node| node.attachments.first());
    let inside = attachment.map(|attachment| inside::look(attachment).map_err(|error| format!("{error:#}")));
    let view = View { id: args.pod.clone(), api, node, inside };
    let found = findings(&view);
    match args.output {
        Output::Text => print!("{}", render(&view, &found)),
        Output::Json => {
            let healthy = found.iter().all(|finding| finding.severity != Severity::Fault);
            println!("{:#}", json!({ "healthy": healthy, "findings": found, "view": view }));
        }
    }
    let fault = found.iter().any(|finding| finding.severity == Severity::Fault);
    Ok(if fault { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn api_view(client: &Client, id: &PodId) -> anyhow::Result<ApiView> {
    let PodId { namespace, name } = id;
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).get_opt(name).await?;
    let claim = Api::<VpcIPClaim>::namespaced(client.clone(), namespace).get_opt(name).await?;
    let of_claim = format!("spec.claimRef.namespace={namespace},spec.claimRef.name={name}");
    let addresses = Api::<VpcIP>::all(client.clone()).list(&ListParams::default().fields(&of_claim)).await?;
    let node = match pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.as_deref()) {
        Some(node) => Api::<NodeENIConfig>::all(client.clone()).get_opt(node).await?,
        None => None,
    };
    Ok(ApiView { pod, claim, addresses: addresses.items, node })
}

async fn node_view(socket: &Path, args: &ExplainArgs) -> anyhow::Result<NodeView> {
    let question = Question::Pod { pod: args.pod.clone(), to: args.to };
    match agent::ask(socket, &question).await?.next().await? {
        Some(Answer::Pod(view)) => Ok(*view),
        Some(_) => bail!("the agent answers another question"),
        None => bail!("the agent has ended"),
    }
}
