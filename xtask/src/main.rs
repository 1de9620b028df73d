//! Every developer command: `cargo xtask setup|build|image|generate|test|demo|kernels`.

mod binaries;
mod demo;
mod generate;
mod image;
mod kernels;
mod setup;
mod test;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, test and show the ENI dataplane")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building and testing need
    Setup {
        /// Only report; exit status 1 when something is missing
        #[arg(long)]
        check: bool,
    },
    /// Build ipam-agent, ipamctl and ipam-cni, and print their sizes
    Build {
        /// Optimised and stripped, as shipped
        #[arg(long)]
        release: bool,
    },
    /// Write an OCI image layout with static binaries, and check that they run from an empty root
    Image(image::Args),
    /// Write the files that are made from code: the CRDs under `deploy/`
    Generate,
    /// Run the tests, all of them or the named groups
    Test(test::Args),
    /// Tell the story: static pods on two nodes, with real packets, each step checked
    Demo(demo::Args),
    /// Run programs and tests in Debian's 5.10, 6.1, 6.12 and newest kernels, under QEMU
    Kernels(kernels::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup { check } => setup::run(check),
        Command::Build { release } => binaries::run(release),
        Command::Image(args) => image::run(&args),
        Command::Generate => generate::run(),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Kernels(args) => kernels::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The folder of the workspace.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Fails with the remedy when not root: network namespaces and eBPF need it.
fn require_root(what: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "{what} makes network namespaces and loads eBPF programs, which needs root: run it again as root"
    );
    Ok(())
}
