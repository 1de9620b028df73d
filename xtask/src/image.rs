//! `cargo xtask image`: static binaries in an OCI image layout, from nothing, with no daemon.

mod check;
mod layer;
mod layout;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use oci_spec::image::{
    ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_TITLE, ANNOTATION_VERSION, Arch,
};

use crate::binaries::{self, Executable};
use crate::setup::{self, Scope};
use crate::workspace;
use layer::{File, Files};
use layout::Image;

/// Where TLS libraries look for whom to trust, Debian's way.
const ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";

/// What the image is made of.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the layout, made anew; beside it comes the same as one file, `FOLDER.tar`
    #[arg(long, value_name = "FOLDER", default_value = "target/image/eni-ipam")]
    output: PathBuf,
    /// Not optimised: a quicker build, for tests
    #[arg(long)]
    debug: bool,
}

/// Builds, writes and checks.
///
/// # Errors
/// The build failed, a binary is not static, or the image does not do what it should.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Scope::Build)?;
    let built = binaries::static_build(!args.debug)?;
    let folder = workspace().join(&args.output);
    let image = Image {
        files: files(&built)?,
        entrypoint: "/ipam-agent",
        name: "eni-ipam",
        tag: env!("CARGO_PKG_VERSION"),
        labels: vec![
            (ANNOTATION_TITLE, "eni-ipam"),
            (ANNOTATION_DESCRIPTION, "Static pod IPs from ENI pools, on an eBPF dataplane"),
            (ANNOTATION_VERSION, env!("CARGO_PKG_VERSION")),
            (ANNOTATION_LICENSES, "Apache-2.0"),
        ],
        architecture: Arch::from(go_architecture()?),
    };
    let manifest = image.write(&folder)?;
    let file = folder.with_extension("tar");
    layout::pack(&folder, &file)?;
    for (path, content) in &image.files {
        println!("{:>7} KiB  /{path}", content.content.len() >> 10);
    }
    check::runs_from_nothing(&image.files)?;
    println!("{}:{} {}", image.name, image.tag, manifest.digest());
    println!("{}\n{}", folder.display(), file.display());
    Ok(ExitCode::SUCCESS)
}

/// The binaries, and whom they trust: an image from nothing has no certificates.
fn files(built: &[Executable]) -> Result<Files> {
    let mut files = Files::new();
    for name in ["ipam-agent", "ipam-cni", "ipamctl"] {
        let path = binaries::binary(built, name)?;
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        check::is_static(&content).with_context(|| path.display().to_string())?;
        files.insert(name.to_owned(), File { mode: 0o755, content });
    }
    let roots: Vec<String> = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| pem(root)).collect();
    files.insert(ROOTS.to_owned(), File { mode: 0o644, content: roots.concat().into_bytes() });
    Ok(files)
}

fn pem(certificate: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// This machine's architecture, as OCI calls it.
fn go_architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}: x86_64 and aarch64 only"),
    }
}
