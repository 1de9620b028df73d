//! What runs in a test kernel: this machine's tools with their libraries, and the tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::archive::Tree;
use super::plan::{self, Run};
use crate::binaries::{Executable, binary};

/// The first process.
const INIT: &str = include_str!("init.sh");
/// Tools of the lab (see `setup/catalog.rs`); busybox has the rest.
const TOOLS: [&str; 12] = [
    "bpftool",
    "ethtool",
    "ip",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "nft",
    "ping",
    "tc",
];
const TOOL_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Libraries that are opened by name, in a library folder.
const PLUGINS: &str = "xtables";
/// Tables that the C library and the tools look names up in, and the authorities that every TLS client reads.
const TABLES: [&str; 4] =
    ["/etc/iproute2", "/etc/protocols", "/etc/services", "/etc/ssl/certs/ca-certificates.crt"];
/// Binaries that the tests and the first process start.
const BINARIES: [&str; 4] = ["ipam-agent", "ipam-cni", "ipamctl", "kernel_probe"];

/// Everything that is the same for all kernels: tools, libraries, tests. `patience` is the factor for the
/// tests' waits.
///
/// # Errors
/// A tool is missing, or a file cannot be read.
pub fn tree(built: &[Executable], runs: &[Run], patience: u32, folder: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.link(Path::new("/").join(name), Path::new("usr").join(name));
    }
    for path in ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/proc", "/sys", "/dev", "/run", "/tmp"] {
        tree.directory(path);
    }
    tree.link("/var/run", "/run");
    tree.text("/init", INIT);
    let mut files = Vec::new();
    add(&mut tree, &mut files, &tool("busybox")?)?;
    // What the kernel starts to load a module.
    tree.link("/usr/sbin/modprobe", "/bin/busybox");
    for name in TOOLS {
        add(&mut tree, &mut files, &tool(name)?)?;
    }
    for table in TABLES.map(Path::new).iter().filter(|path| path.exists()) {
        if table.is_dir() { tree.copy_all(table, table)? } else { tree.copy(table, *table) }
    }
    for (path, executable) in executables(built, runs)? {
        let slim = strip(&executable, folder)?;
        tree.copy(path, &slim);
        files.push(slim);
    }
    tree.copy("/lab/ipam-ebpf", binary(built, "ipam-ebpf")?);
    libraries(&mut tree, &files)?;
    let mut environment = String::new();
    for (name, value) in [
        ("IPAM_BIN_DIR", "/lab/bin"),
        ("CARGO_MANIFEST_DIR", "/lab"),
        ("IPAM_LAB_PATIENCE", &patience.to_string()),
        ("IPAM_CASES", plan::CASES),
    ] {
        writeln!(environment, "export {name}={value}")?;
    }
    tree.text("/lab/environment", environment);
    Ok(tree)
}

/// Where each executable goes.
fn executables(built: &[Executable], runs: &[Run]) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for name in BINARIES {
        found.push((Path::new("/lab/bin").join(name), binary(built, name)?.to_owned()));
    }
    for run in runs {
        let path = plan::path(run);
        if !found.iter().any(|(known, _)| *known == path) {
            let executable = built.iter().find(|it| it.integration && it.target == run.program);
            let executable = executable.with_context(|| format!("cargo built no test `{}`", run.program))?;
            found.push((path, executable.path.clone()));
        }
    }
    Ok(found)
}

fn tool(name: &str) -> Result<PathBuf> {
    TOOL_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .with_context(|| format!("`{name}` is not installed: cargo xtask setup"))
}

/// A tool at its real place, and a link from where it is looked for (`iptables` is one by two more).
fn add(tree: &mut Tree, files: &mut Vec<PathBuf>, tool: &Path) -> Result<()> {
    let real = fs::canonicalize(tool)?;
    let name = tool.file_name().context("a tool has a name")?;
    tree.copy(&real, &real);
    if real != Path::new("/usr/sbin").join(name) && real != Path::new("/usr/bin").join(name) {
        tree.link(Path::new("/usr/sbin").join(name), &real);
    }
    files.push(real);
    Ok(())
}

/// Without debug information, which is nine tenths of a test: it would have to fit into the machine's memory.
fn strip(executable: &Path, folder: &Path) -> Result<PathBuf> {
    let slim = folder.join(executable.file_name().context("an executable has a name")?);
    let newer = |a: &Path, b: &Path| {
        Some(fs::metadata(a).ok()?.modified().ok()? > fs::metadata(b).ok()?.modified().ok()?)
    };
    if newer(&slim, executable) != Some(true) {
        let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&slim).arg(executable).status();
        ensure!(status.context("strip (binutils)")?.success(), "cannot strip {}", executable.display());
    }
    Ok(slim)
}

/// The dynamic libraries of these files and the plugins of iptables.
fn libraries(tree: &mut Tree, files: &[PathBuf]) -> Result<()> {
    let mut found = BTreeSet::new();
    for file in files {
        found.extend(needs(file)?);
    }
    let folders: BTreeSet<PathBuf> = found.iter().filter_map(|it| Some(it.parent()?.to_owned())).collect();
    for plugins in folders.iter().map(|folder| folder.join(PLUGINS)).filter(|it| it.is_dir()) {
        // Folders of libraries may be links (`/lib`).
        let plugins = fs::canonicalize(plugins)?;
        tree.copy_all(&plugins, &plugins)?;
        for plugin in fs::read_dir(&plugins)? {
            found.extend(needs(&plugin?.path())?);
        }
    }
    for library in found {
        // `/lib64` and `/lib` are links into `/usr` here too.
        let place = fs::canonicalize(library.parent().context("a library has a folder")?)?;
        tree.copy(
            place.join(library.file_name().context("a library has a name")?),
            fs::canonicalize(&library)?,
        );
    }
    Ok(())
}

/// What `ldd` names: `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`. A static file
/// needs nothing.
fn needs(file: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(file).output().context("ldd")?;
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.filter(|path| !path.ends_with(':')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::parse_ldd;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse_ldd(text);
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
                .map(Into::<std::path::PathBuf>::into)
        );
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
