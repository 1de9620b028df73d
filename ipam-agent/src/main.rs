//! `ipam-agent`: controller, node agent and standalone mode.

use std::io::IsTerminal;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> std::process::ExitCode {
    // Crash tests arm points by FAILPOINTS; without the feature `failpoints` there are none to arm.
    let _failpoints = fail::FailScenario::setup();
    let cli = ipam_agent::cli::Cli::parse();
    let filter = EnvFilter::try_from_env("IPAM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match ipam_agent::cli::run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
