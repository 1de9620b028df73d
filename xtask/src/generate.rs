//! `cargo xtask generate`: writes the committed files that are made from code.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::binaries::cargo;
use crate::setup::{self, Scope};

/// The test that compares the copy of the CRDs with the code.
const TEST: &str = "crds::tests::deploy_copy_is_current";
/// Makes that test write instead.
const WRITE: &str = "ENI_IPAM_GENERATE";

/// The definitions of the custom resources, under `deploy/base/crds`. The test that tells when they are stale is what
/// writes them, so that nothing but its build is needed.
///
/// # Errors
/// The build or the writing failed.
pub fn run() -> Result<ExitCode> {
    setup::ensure(Scope::Build)?;
    let status = cargo()
        .args(["test", "--quiet", "--package", "ipam-agent", "--lib"])
        // As `cargo xtask test` builds it, so that nothing is built twice.
        .args(["--features", "failpoints"])
        .args(["--", "--exact", TEST])
        .env(WRITE, "1")
        .status()?;
    ensure!(status.success(), "the files were not written");
    println!("deploy/base/crds is as the code has it");
    Ok(ExitCode::SUCCESS)
}
