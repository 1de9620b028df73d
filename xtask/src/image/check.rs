//! What is checked of every image: that its programs need nothing but the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::elf;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::layer::Files;

/// Whether a program needs no loader and so no library. (A static program may have a dynamic section: it relocates itself.)
///
/// # Errors
/// It needs one, or is no program of this machine.
pub fn is_static(program: &[u8]) -> Result<()> {
    let head = elf::FileHeader64::<object::Endianness>::parse(program)?;
    let endian = head.endian()?;
    for part in head.program_headers(endian, program)? {
        ensure!(part.p_type(endian) != elf::PT_INTERP, "it asks for a loader: it is not static");
    }
    Ok(())
}

/// Runs the programs with nothing but the image's files around them: no library, no `/dev`, no `/proc`.
///
/// # Errors
/// One does not do what it should.
pub fn runs_from_nothing(files: &Files) -> Result<()> {
    let root = tempfile::tempdir()?;
    for (path, file) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().context("a path has a folder")?)?;
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let run = |command: &[&str], variables: &[(&str, &str)]| -> Result<String> {
        let mut unshare = Command::new("unshare");
        // A user namespace, so that it is no matter who runs this.
        unshare.args(["--map-root-user", "--root"]).arg(root.path()).args(command).env_clear();
        let done = unshare
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.to_vec())
            .output()?;
        ensure!(
            done.status.success(),
            "{command:?} from an empty root: {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8(done.stdout)?)
    };
    let version = run(&["/ipam-agent", "--version"], &[])?;
    ensure!(
        version.trim() == format!("ipam-agent {}", env!("CARGO_PKG_VERSION")),
        "ipam-agent --version: {version}"
    );
    let crds = run(&["/ipam-agent", "crds"], &[])?;
    ensure!(crds.matches("kind: CustomResourceDefinition").count() == 3, "ipam-agent crds: {crds}");
    let cni = run(&["/ipam-cni"], &[("CNI_COMMAND", "VERSION")])?;
    ensure!(cni.contains("supportedVersions") && cni.contains("1.1.0"), "ipam-cni VERSION: {cni}");
    run(&["/ipamctl", "--help"], &[])?;
    println!("the programs are static and run from an empty root");
    Ok(())
}
