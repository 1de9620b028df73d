//! Builds the TC programs (`ipam-ebpf`) for the eBPF target and leaves the object in `OUT_DIR/ipam-ebpf`.
//!
//! No compiler ships `core` for that target, so one with the library's source is needed: a rustup `nightly` with
//! `rust-src`, or Debian's compiler, which rustup knows as the toolchain `debian`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// A toolchain that may be able to build `core`.
struct Candidate {
    name: &'static str,
    /// Not a nightly: unstable options of cargo need `RUSTC_BOOTSTRAP`.
    stable: bool,
}

const CANDIDATES: [Candidate; 2] =
    [Candidate { name: "nightly", stable: false }, Candidate { name: "debian", stable: true }];

/// Variables of cargo that the nested cargo shall keep: where it stores and fetches things, and the job server.
const KEPT: [&str; 5] = ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];

/// Variables that `aya-build` reads itself.
const READ: [&str; 2] = ["CARGO_CFG_TARGET_ENDIAN", "CARGO_CFG_TARGET_ARCH"];

fn main() -> Result<()> {
    let workspace = workspace()?;
    for input in ["ipam-common/src", "ipam-common/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTUP_HOME");

    let Some(toolchain) = CANDIDATES.into_iter().find(has_library_source) else {
        bail!(
            "no compiler can build the eBPF programs: neither a rustup `nightly` with `rust-src` nor a rustup \
             toolchain `debian` with library source was found; run `cargo xtask setup`"
        );
    };
    // Features of this package that are also the programs'.
    let shared = [("CARGO_FEATURE_EBPF_LOG", "log"), ("CARGO_FEATURE_NEXT_ABI", "next-abi")];
    let features: Vec<&str> =
        shared.iter().filter(|(ours, _)| env::var_os(ours).is_some()).map(|(_, theirs)| *theirs).collect();
    clean_environment(toolchain.stable);
    let root_dir = workspace.join("ipam-ebpf");
    let package = Package {
        name: "ipam-ebpf",
        root_dir: root_dir.to_str().context("the path of the workspace is not UTF-8")?,
        features: &features,
        ..Default::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain.name)).with_context(|| {
        format!(
            "cannot build the eBPF programs with the rustup toolchain `{}`; if `bpf-linker` or the library \
             source is missing, run `cargo xtask setup`",
            toolchain.name
        )
    })
}

fn workspace() -> Result<PathBuf> {
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    Ok(manifest_dir.parent().context("ipam-agent has no parent directory")?.to_owned())
}

fn has_library_source(candidate: &Candidate) -> bool {
    let output = Command::new("rustup")
        .args(["run", candidate.name, "rustc", "--print", "sysroot"])
        .env_remove("RUSTC")
        .output();
    let Ok(output) = output else { return false };
    let Ok(sysroot) = String::from_utf8(output.stdout) else { return false };
    output.status.success()
        && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// Removes what the outer cargo, clippy or the user's shell set for the outer build (flags, wrappers, profiles,
/// target), which would change or break the nested one, and opens cargo's unstable options to it if needed.
fn clean_environment(stable: bool) {
    let foreign = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| {
        let of_the_build = name.starts_with("CARGO") || name.starts_with("RUSTC") || name == "RUSTFLAGS";
        let kept = KEPT.iter().any(|kept| name.starts_with(kept)) || READ.contains(&name.as_str());
        // Cargo puts the outer toolchain's libraries there, which another compiler must not load.
        (of_the_build && !kept) || name == "LD_LIBRARY_PATH"
    });
    for name in foreign.collect::<Vec<_>>() {
        // SAFETY: this process has one thread.
        unsafe { env::remove_var(name) };
    }
    // Thin LTO, which the workspace's release profile asks for, is of no use to bpf-linker, which links bitcode.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_PROFILE_RELEASE_LTO", "off") };
    // aya-build turns each line of the nested cargo into a warning: errors are worth one, progress is not.
    // SAFETY: as above.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    if stable {
        // SAFETY: as above.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
}
