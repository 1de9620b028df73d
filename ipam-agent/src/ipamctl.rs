//! The commands of `ipamctl`.

mod agent;
mod drops;
mod explain;
mod get;
mod inside;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::inspect::{DEBUG_SOCKET_NAME, PodId};

/// Look at static pod IPs, their ENIs and their packets.
#[derive(Debug, Parser)]
#[command(name = "ipamctl", version)]
pub struct Args {
    /// Kubeconfig of the API.
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/eni-ipam/kubeconfig", global = true)]
    kubeconfig: PathBuf,
    /// Socket of the node agent on this machine.
    #[arg(long, value_name = "PATH", default_value_os_t = default_socket(), global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List objects of all namespaces.
    Get {
        /// Which, with commas between them.
        #[arg(value_enum, value_delimiter = ',', required = true)]
        kinds: Vec<get::Kind>,
    },
    /// Follow the packets that the programs of this node drop: samples, at most one for each reason, CPU and 10 ms.
    Drops(drops::DropsArgs),
    /// Say why something has no network, or that it has.
    Explain {
        #[command(subcommand)]
        what: Explain,
    },
}

#[derive(Debug, Subcommand)]
enum Explain {
    /// A pod: its claim, address, ENI, interface, programs and routes, and all that is not as it should be.
    Pod(explain::ExplainArgs),
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

fn default_socket() -> PathBuf {
    PathBuf::from(ipam_cni::protocol::DEFAULT_SOCKET).with_file_name(DEBUG_SOCKET_NAME)
}

/// A pod on the command line.
fn pod_id(text: &str) -> Result<PodId, String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or("write NAMESPACE/NAME, such as default/web-0")?;
    Ok(PodId { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Runs a command; the code says whether it found a fault.
///
/// # Errors
/// What keeps it from its work, with the remedy.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Get { kinds } => {
            get::run(&connect(&args.kubeconfig).await?, kinds).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Drops(drops) => {
            drops::run(&args.socket, &drops).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { what: Explain::Pod(explain) } => {
            explain::run(connect(&args.kubeconfig).await, &args.socket, &explain).await
        }
    }
}

async fn connect(kubeconfig: &std::path::Path) -> anyhow::Result<Client> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("TLS provider set twice");
    }
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("--kubeconfig {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_a_namespace_and_a_name() {
        assert_eq!(pod_id("default/web-0").unwrap().to_string(), "default/web-0");
        for wrong in ["web-0", "/web-0", "default/"] {
            assert!(pod_id(wrong).unwrap_err().contains("default/web-0"), "{wrong}");
        }
    }
}
