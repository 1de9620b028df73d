//! `ipam-agent`: controller, node agent and standalone mode.

use std::io::IsTerminal;

use clap::Parser;
use ipam_agent::cli::Cli;
use tracing_subscriber::EnvFilter;

/// What is logged unless `IPAM_LOG` says otherwise. What befalls a watch is told by whoever uses it, and once.
const LOGGED: &str = "info,kube_runtime::watcher=off";

/// Runs what the command line says.
pub fn main() -> std::process::ExitCode {
    // Crash tests arm points by FAILPOINTS; without the feature `failpoints` there are none to arm.
    let _failpoints = fail::FailScenario::setup();
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Of a wrong value the parser tells without the usage.
            if error.use_stderr() && !error.to_string().contains("Usage:") {
                eprintln!("\n{}", Cli::usage(std::env::args().nth(1).as_deref()));
            }
            return u8::try_from(error.exit_code()).unwrap_or(2).into();
        }
    };
    let filter = EnvFilter::try_from_env("IPAM_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
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
