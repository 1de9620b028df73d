//! `ipamctl`: static pod IPs, their ENIs and their packets, where kubectl is not at hand or not enough.

use std::process::ExitCode;

use clap::Parser as _;
use ipam_agent::ipamctl;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match ipamctl::run(ipamctl::Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ipamctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
