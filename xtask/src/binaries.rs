//! Building, through cargo, and what came out of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::setup::{self, Scope};
use crate::workspace;

/// Most that the stripped plugin may weigh, in bytes: it is exec'ed twice for each pod.
const PLUGIN_LIMIT: u64 = 2 << 20;

/// The object with the eBPF programs, as `binary` knows it.
pub const EBPF_OBJECT: &str = "ipam-ebpf";

/// An executable that cargo built.
#[derive(Debug)]
pub struct Executable {
    /// Name of its target: the binary, the library or the file under `tests/`.
    pub target: String,
    /// Folder of its package.
    pub package: PathBuf,
    /// It is a test harness.
    pub test: bool,
    /// It belongs to a file under `tests/`, not to a library or a binary.
    pub integration: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// `cargo xtask build`.
///
/// # Errors
/// The build failed, or the plugin of a release is heavier than promised.
pub fn run(release: bool) -> Result<ExitCode> {
    setup::ensure(Scope::Build)?;
    let (agent, plugin) = (["--package", "ipam-agent"], ["--package", "ipam-cni"]);
    let built = if release {
        let mut built = cargo_build(&[&agent[..], &["--bins", "--release"]].concat())?;
        built.extend(cargo_build(&[&plugin[..], &["--bins", "--profile", "plugin"]].concat())?);
        built
    } else {
        cargo_build(&[&agent[..], &plugin, &["--bins"]].concat())?
    };
    for executable in &built {
        let size = fs::metadata(&executable.path).context(executable.path.display().to_string())?.len();
        println!("{:10} {:7} KiB  {}", executable.target, size >> 10, executable.path.display());
        if release && executable.target == "ipam-cni" && size > PLUGIN_LIMIT {
            bail!("ipam-cni is {} KiB, more than the {} KiB it may be", size >> 10, PLUGIN_LIMIT >> 10);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The cargo that runs us, or the one on `PATH`, in the workspace's folder and with no standard input.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).stdin(Stdio::null());
    // `cargo xtask` sets these for us. ring's build script takes them for its own, and would build it and all that
    // needs it anew whenever they come and go.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The part of cargo's `compiler-artifact` message that we read.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    package_id: Option<String>,
    out_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The agent, the plugin and the command line with no dynamic library, by the C library of this machine. Paths of this
/// machine are not in them, so that they are the same elsewhere.
///
/// # Errors
/// The build failed.
pub fn static_build(release: bool) -> Result<Vec<Executable>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let flags = format!(
        "-C target-feature=+crt-static --remap-path-prefix={}=/src --remap-path-prefix={}=/cargo",
        workspace().display(),
        home.display()
    );
    // For this target only: build scripts and the eBPF programs are none of it.
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    let build = |arguments: &[&str]| {
        let mut cargo = cargo();
        cargo.env(&variable, &flags).args(["build", "--target", &target]).args(arguments);
        executables(cargo)
    };
    let (agent, plugin) = if release { ("release", "plugin") } else { ("dev", "dev") };
    let mut built = build(&["--package", "ipam-agent", "--bins", "--profile", agent])?;
    built.extend(build(&["--package", "ipam-cni", "--bins", "--profile", plugin])?);
    Ok(built)
}

/// `cargo build` with these arguments: the executables it made. Diagnostics and progress go to the terminal.
///
/// # Errors
/// The build failed.
pub fn cargo_build(arguments: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = cargo();
    cargo.arg("build").args(arguments);
    executables(cargo)
}

/// Runs a build, and lists what it made.
fn executables(mut build: Command) -> Result<Vec<Executable>> {
    let mut child = build
        .args(["--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut executables = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        // Anything else is what a build script printed.
        if line.starts_with('{') {
            let message = serde_json::from_str(&line).with_context(|| format!("cargo said: {line}"))?;
            executables.extend(executable(message));
        }
    }
    if !child.wait()?.success() {
        bail!("{build:?} failed");
    }
    Ok(executables)
}

/// What a message says was made. The object with the eBPF programs is made by the agent's build script.
fn executable(message: Message) -> Option<Executable> {
    if message.reason == "build-script-executed" && message.package_id?.contains("/ipam-agent#") {
        let path = message.out_dir?.join(EBPF_OBJECT);
        let target = EBPF_OBJECT.to_owned();
        return Some(Executable {
            target,
            package: workspace().into(),
            test: false,
            integration: false,
            path,
        });
    }
    let target = message.target.filter(|_| message.reason == "compiler-artifact")?;
    Some(Executable {
        integration: target.kind.iter().any(|kind| kind == "test"),
        target: target.name,
        package: message.manifest_path?.parent()?.to_owned(),
        test: message.profile?.test,
        path: message.executable?,
    })
}

/// The folder with the binaries, for `IPAM_BIN_DIR`: the one where the agent is.
///
/// # Errors
/// The agent is not among them.
pub fn folder(executables: &[Executable]) -> Result<&Path> {
    binary(executables, "ipam-agent")?.parent().context("the agent's path has no folder")
}

/// Where a binary is.
///
/// # Errors
/// It is not among them.
pub fn binary<'a>(executables: &'a [Executable], name: &str) -> Result<&'a Path> {
    let found = executables.iter().find(|executable| !executable.test && executable.target == name);
    Ok(&found.with_context(|| format!("cargo built no binary `{name}`"))?.path)
}
