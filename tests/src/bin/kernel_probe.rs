//! What this machine's kernel makes of the dataplane: how programs are attached, and how many instructions its verifier
//! walks through for each. `cargo xtask kernels` runs it and reads its lines.
//!
//! `kernel_probe OBJECT`, with the object that the agent is built with. Needs root and a bpffs at `/sys/fs/bpf`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use ipam_agent::dataplane::{Attachment, Dataplane};
use ipam_lab::verifier;

fn main() -> anyhow::Result<()> {
    let object = std::env::args_os().nth(1).context("kernel_probe OBJECT")?;
    let object = fs::read(&object).with_context(|| object.display().to_string())?;
    let pins = PathBuf::from(format!("/sys/fs/bpf/kernel-probe-{}", std::process::id()));
    let probed = probe(&object, &pins);
    fs::remove_dir_all(&pins).or_else(|error| if pins.exists() { Err(error) } else { Ok(()) })?;
    probed
}

fn probe(object: &[u8], pins: &std::path::Path) -> anyhow::Result<()> {
    let dataplane = Dataplane::open(pins)?;
    let attachment = match dataplane.attachment() {
        Attachment::Tcx => "tcx",
        Attachment::Clsact => "clsact",
    };
    println!("@@ attach {attachment}");
    for (program, count) in verifier::instructions(object)? {
        println!("@@ program {program} {count}");
    }
    drop(dataplane);
    Ok(())
}
