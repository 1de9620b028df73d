//! Looking at the machine. Everything here is quick: each command of this project does it first.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::catalog::{ITEMS, Item, Kind};
use super::plan::{
    Compiler, DEBIAN, DEBIAN_COMPILER, Family, Host, LINKER_LLVMS, Linker, State, llvm_packages,
};

/// Programs of the administrator are often not on a user's `PATH`.
const MORE_PATH: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
/// TCX links came with this kernel (Linux 6.6).
const KERNEL: (u32, u32) = (6, 6);

/// Looks at everything. Versions of tools are left to [`versions`]: asking podman for its own takes 80 ms.
pub fn probe() -> Host {
    let family = family();
    let mut host = Host {
        family,
        root: rustix::process::geteuid().is_root(),
        rustup_offline: false,
        nightly: rustup_toolchain("nightly"),
        debian: rustup_toolchain(DEBIAN),
        linker: linker(),
        apt_lists: true,
        offered: BTreeSet::new(),
        found: ITEMS.iter().filter_map(|item| Some((item.name, place(item)?))).collect::<BTreeMap<_, _>>(),
    };
    let incomplete = ITEMS.iter().any(|item| matches!(host.state(item), State::Missing(_)));
    if family == Family::Apt && incomplete {
        (host.apt_lists, host.offered) = apt_offers();
    }
    host
}

/// Puts versions in the place of paths, for the report.
pub fn versions(host: &mut Host) {
    for item in ITEMS {
        let Kind::Command(_, arguments) = item.kind else { continue };
        let Some(path) = host.found.get_mut(item.name) else { continue };
        if let Some(version) = output(Command::new(&*path).args(arguments)) {
            *path = version.lines().next().unwrap_or_default().trim().to_owned();
        }
    }
}

fn family() -> Family {
    [("apt-get", Family::Apt), ("dnf", Family::Dnf), ("pacman", Family::Pacman), ("zypper", Family::Zypper)]
        .into_iter()
        .find(|(command, _)| on_path(command).is_some())
        .map_or(Family::Other, |(_, family)| family)
}

/// Where an item is, or what there is to say of it; `None` if missing or if it is the compiler or the linker.
fn place(item: &Item) -> Option<String> {
    let path = match item.kind {
        Kind::Command(command, _) => on_path(command)?,
        Kind::StaticBusybox => on_path("busybox").filter(|path| is_static(path))?,
        Kind::CniPlugins => {
            CNI_FOLDERS.map(Path::new).into_iter().find(|folder| folder.join("loopback").exists())?.to_owned()
        }
        Kind::Component(_, program) => component(program)?,
        Kind::BpfFs => return bpffs(),
        Kind::Kernel => return kernel(),
        Kind::Compiler | Kind::Linker => return None,
    };
    Some(path.display().to_string())
}

fn on_path(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(MORE_PATH.map(PathBuf::from))
        .map(|folder| folder.join(command))
        .find(|candidate| candidate.is_file())
}

/// The folder of rustup's own proxies has every component's program, installed or not: ask the toolchain's folder,
/// which is where the cargo that started us is.
fn component(program: &str) -> Option<PathBuf> {
    match env::var_os("CARGO") {
        Some(cargo) => Some(Path::new(&cargo).with_file_name(program)).filter(|path| path.is_file()),
        None => on_path(program),
    }
}

/// A static executable names no dynamic loader; the name would be right behind the headers.
fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| {
        let head = &bytes[..bytes.len().min(4096)];
        !head.windows(4).any(|window| window == b"/ld-")
    })
}

fn bpffs() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounted = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    };
    mounts.lines().any(mounted).then(|| "/sys/fs/bpf".to_owned())
}

fn kernel() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?);
    (version >= KERNEL).then(|| release.trim().to_owned())
}

/// A toolchain of rustup, from its folder: `rustup` itself would take longer to answer.
fn rustup_toolchain(channel: &str) -> Option<Compiler> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")))?;
    let toolchains = home.join("toolchains");
    let dir = fs::read_dir(&toolchains).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // `nightly-x86_64-…`, not `nightly-2026-05-20-x86_64-…`, which `+nightly` does not mean.
        let host = name.strip_prefix(channel).and_then(|rest| rest.strip_prefix('-'));
        name == channel || host.is_some_and(|host| host.starts_with(env::consts::ARCH))
    })?;
    let about = output(Command::new(dir.join("bin/rustc")).arg("-vV"))?;
    let llvm = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(Compiler {
        version: about.lines().next()?.split(" (").next()?.to_owned(),
        llvm: llvm.split('.').next()?.parse().ok()?,
        source: dir.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists(),
    })
}

fn linker() -> Option<Linker> {
    let path = on_path("bpf-linker")?;
    let version =
        output(Command::new(&path).arg("--version"))?.trim().trim_start_matches("bpf-linker ").to_owned();
    // `libLLVM.so.22.1` or `libLLVM-22.so.1` among the libraries; a static one names none.
    let llvm = output(Command::new("ldd").arg(&path)).and_then(|libraries| {
        let name = libraries.split("libLLVM").nth(1)?.trim_start_matches(|c: char| !c.is_ascii_digit());
        name.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    Some(Linker { version, llvm })
}

/// Whether apt has lists at all, and which of the packages we could want it can install.
fn apt_offers() -> (bool, BTreeSet<String>) {
    let llvms: Vec<String> = LINKER_LLVMS.map(llvm_packages).collect();
    let names = ITEMS
        .iter()
        .map(|item| item.packages.apt)
        .chain([DEBIAN_COMPILER])
        .chain(llvms.iter().map(String::as_str))
        .flat_map(|names| names.split_whitespace());
    // Only lists that came from a repository: without any, apt still offers what is installed.
    let lists = fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    let policy =
        output(Command::new("apt-cache").arg("policy").args(names).env("LC_ALL", "C")).unwrap_or_default();
    let mut offered = BTreeSet::new();
    let mut name = "";
    for line in policy.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            name = package;
        } else if line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)") {
            offered.insert(name.to_owned());
        }
    }
    (lists, offered)
}

/// Standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
