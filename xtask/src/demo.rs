//! `cargo xtask demo`: build, then hand over to the lab's story.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::setup::{self, Scope};
use crate::{binaries, require_root};

/// Flags of the demo, passed on as they are.
#[derive(clap::Args)]
pub struct Args {
    /// Leave the lab standing and print how to look around
    #[arg(long)]
    keep: bool,
    /// One JSON document with all steps, for scripts
    #[arg(long)]
    json: bool,
    /// Remove the labs that --keep left standing, and do nothing else
    #[arg(long)]
    clean: bool,
}

/// Becomes the demo: its exit status is ours.
///
/// # Errors
/// Not root, something cannot be installed, or the build failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    require_root("the demo")?;
    setup::ensure(Scope::Lab)?;
    let packages = ["--package", "ipam-agent", "--package", "ipam-cni", "--package", "ipam-lab"];
    let built = binaries::cargo_build(&[&packages[..], &["--bins"]].concat())?;
    let mut demo = Command::new(binaries::binary(&built, "demo")?);
    demo.env("IPAM_BIN_DIR", binaries::folder(&built)?);
    demo.args(
        [(args.keep, "--keep"), (args.json, "--json"), (args.clean, "--clean")]
            .into_iter()
            .filter(|it| it.0)
            .map(|it| it.1),
    );
    Err(demo.exec()).context("cannot start the demo")
}
