//! The decision: what was found on the machine → the commands that add the rest. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::catalog::{ITEMS, Item, Kind, Packages, Scope};

/// The version of `bpf-linker`.
pub const LINKER_VERSION: &str = "0.13.0";
/// The LLVMs that it can be built with: its features `llvm-NN`.
pub const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;
/// The LLVM of Debian's `rustc-web`.
const DEBIAN_LLVM: u32 = 22;
/// The packages of Debian's compiler: the one of its browsers, newer than `rustc`, with cargo and library source.
pub const DEBIAN_COMPILER: &str = "rustc-web rust-web-src libstd-rust-web-dev cargo-web";
/// The rustup toolchain that stands for Debian's compiler.
pub const DEBIAN: &str = "debian";

/// How an item stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There; its version or place.
    Found(String),
    /// Not there, or not fit; why.
    Missing(String),
}

/// The package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Debian and its relatives: the only one that installs by itself.
    Apt,
    /// Fedora and its relatives.
    Dnf,
    /// Arch.
    Pacman,
    /// SUSE.
    Zypper,
    /// None of them.
    Other,
}

/// A compiler and whether it can build `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// What it calls itself.
    pub version: String,
    /// Major version of its LLVM.
    pub llvm: u32,
    /// The library's source is there.
    pub source: bool,
}

/// `bpf-linker` as found: one that does not start is not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// Its own version.
    pub version: String,
    /// Major version of the LLVM it is linked with; `None` if that is built in and cannot be told.
    pub llvm: Option<u32>,
}

/// What the machine is and has.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its package manager.
    pub family: Family,
    /// We are root.
    pub root: bool,
    /// A download by rustup has failed in this run.
    pub rustup_offline: bool,
    /// The rustup toolchain `nightly`.
    pub nightly: Option<Compiler>,
    /// The rustup toolchain `debian`.
    pub debian: Option<Compiler>,
    /// `bpf-linker`.
    pub linker: Option<Linker>,
    /// apt has package lists.
    pub apt_lists: bool,
    /// Those packages of the catalogue and of the compilers that apt can install.
    pub offered: BTreeSet<String>,
    /// Found items that are neither compiler nor linker: name → version or place.
    pub found: BTreeMap<&'static str, String>,
}

/// A command that adds something missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What for.
    pub why: String,
    /// Environment, program, arguments.
    pub command: String,
    /// Needs root.
    pub root: bool,
    /// Is a download by rustup: may fail quickly, there is another way.
    pub rustup: bool,
    /// Cannot be run from here: a text, not a command.
    pub advice: bool,
    /// Nobody fails without it.
    pub optional: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.advice { write!(f, "# {}", self.command) } else { f.write_str(&self.command) }
    }
}

impl Step {
    fn new(why: impl Into<String>, command: impl Into<String>) -> Self {
        let (why, command) = (why.into(), command.into());
        Self { why, command, root: false, rustup: false, advice: false, optional: false }
    }
    fn by_root(self) -> Self {
        Self { root: true, ..self }
    }
}

impl Host {
    /// The compiler that `ipam-agent/build.rs` picks, by the same rule: nightly with source, else `debian`.
    pub fn compiler(&self) -> Option<(&'static str, &Compiler)> {
        let usable = |compiler: &&Compiler| compiler.source;
        let nightly = self.nightly.as_ref().filter(usable).map(|it| ("nightly", it));
        nightly.or_else(|| self.debian.as_ref().filter(usable).map(|it| (DEBIAN, it)))
    }

    /// How an item stands.
    pub fn state(&self, item: &Item) -> State {
        match item.kind {
            Kind::Compiler => self.compiler().map_or_else(
                || State::Missing("no rustup toolchain `nightly` or `debian` with library source".into()),
                |(name, it)| State::Found(format!("{name}: {}, LLVM {}", it.version, it.llvm)),
            ),
            Kind::Linker => match &self.linker {
                None => State::Missing("not found, or does not start".into()),
                Some(it) => match self.linker_too_old(it) {
                    Some(why) => State::Missing(why),
                    None => State::Found(it.version.clone()),
                },
            },
            _ => self
                .found
                .get(item.name)
                .map_or_else(|| State::Missing("not found".into()), |it| State::Found(it.clone())),
        }
    }

    fn linker_too_old(&self, linker: &Linker) -> Option<String> {
        let (name, compiler) = self.compiler()?;
        let llvm = linker.llvm.filter(|&llvm| llvm < compiler.llvm)?;
        Some(format!("its LLVM {llvm} cannot read the output of {name}'s LLVM {}", compiler.llvm))
    }

    fn missing(&self, item: &Item) -> bool {
        matches!(self.state(item), State::Missing(_))
    }

    fn offers(&self, packages: &str) -> bool {
        packages.split(' ').all(|package| self.offered.contains(package))
    }
}

/// Commands that bring the machine nearer to having everything of `scope`; none when it has. When some can be
/// known only after others have run (package lists, the LLVM of a compiler), a later round brings them.
pub fn steps(host: &Host, scope: Scope) -> Vec<Step> {
    let wanted: Vec<&Item> = ITEMS.iter().filter(|item| item.scope <= scope && host.missing(item)).collect();
    if wanted.iter().all(|item| item.scope == Scope::Extra && !installable(host, item)) {
        return Vec::new();
    }
    if host.family == Family::Apt && !host.apt_lists {
        return vec![Step::new("package lists are empty", "apt-get update").by_root()];
    }
    let mut steps = packages(host, &wanted);
    for item in &wanted {
        match item.kind {
            Kind::Compiler => steps.extend(compiler(host)),
            Kind::Linker => steps.extend(linker(host)),
            Kind::Component(name, _) => {
                steps.push(Step::new(item.why, format!("rustup component add {name}")));
            }
            Kind::BpfFs => steps.push(Step::new(item.why, "mount -t bpf bpf /sys/fs/bpf").by_root()),
            Kind::Kernel => steps
                .push(Step { advice: true, ..Step::new(item.why, "boot a kernel of version 6.6 or newer") }),
            Kind::Command(..) | Kind::StaticBusybox | Kind::CniPlugins => {}
        }
    }
    steps
}

/// What comes before the first plan when anything is missing: lists that are there may be old, or of fewer sources
/// than are configured by now. Without a network the plan goes on with what they offer.
pub fn refresh(host: &Host, scope: Scope) -> Option<Step> {
    let can = host.root && host.family == Family::Apt;
    (can && !steps(host, scope).is_empty())
        .then(|| Step { optional: true, ..Step::new("package lists may be old", "apt-get update").by_root() })
}

fn installable(host: &Host, item: &Item) -> bool {
    host.root && host.family == Family::Apt && (!host.apt_lists || host.offers(item.packages.apt))
}

/// One installation for all required packages, one for the optional ones.
fn packages(host: &Host, wanted: &[&Item]) -> Vec<Step> {
    let mut steps = Vec::new();
    for optional in [false, true] {
        let (items, unknown): (Vec<&&Item>, Vec<&&Item>) = wanted
            .iter()
            .filter(|item| (item.scope == Scope::Extra) == optional && !item.packages.apt.is_empty())
            .filter(|item| !optional || installable(host, item))
            .partition(|item| host.family != Family::Apt || host.offers(item.packages.apt));
        steps.extend(unknown.iter().map(|item| Step {
            advice: true,
            ..Step::new(
                item.why,
                format!("apt has no package `{}`: install {} by hand", item.packages.apt, item.name),
            )
        }));
        if items.is_empty() {
            continue;
        }
        let names: Vec<&str> = items.iter().map(|item| package(host.family, &item.packages)).collect();
        let why: Vec<String> = items.iter().map(|item| format!("{} ({})", item.name, item.why)).collect();
        let step = Step::new(why.join(", "), install_command(host.family, &names.join(" ")));
        steps.push(Step { optional, root: true, advice: host.family == Family::Other, ..step });
    }
    steps
}

fn package(family: Family, packages: &Packages) -> &'static str {
    match family {
        Family::Apt | Family::Other => packages.apt,
        Family::Dnf => packages.dnf,
        Family::Pacman => packages.pacman,
        Family::Zypper => packages.zypper,
    }
}

fn install_command(family: Family, names: &str) -> String {
    match family {
        Family::Apt => format!("apt-get install --yes --no-install-recommends {names}"),
        Family::Dnf => format!("dnf install {names}"),
        Family::Pacman => format!("pacman -S --needed {names}"),
        Family::Zypper => format!("zypper install {names}"),
        Family::Other => format!("install what your distribution calls (Debian's names): {names}"),
    }
}

/// A way to a compiler.
enum Way {
    /// The nightly lacks only the source: a small download.
    AddSource,
    /// Debian's own, whose source is a package.
    Debian,
    /// A nightly of today.
    Nightly,
}

impl Way {
    /// The cheapest way. Debian's compiler comes before a fresh nightly, whose LLVM may be newer than any that the
    /// distribution has for the linker; `None` when no way is left.
    fn choose(host: &Host) -> Option<Self> {
        let apt = host.family == Family::Apt;
        let linkable = |it: &Compiler| !apt || offers_llvm(host, it.llvm) || has_linker(host, it);
        if host.nightly.as_ref().is_some_and(linkable) && !host.rustup_offline {
            Some(Self::AddSource)
        } else if apt && host.offers(DEBIAN_COMPILER) {
            Some(Self::Debian)
        } else if !host.rustup_offline {
            Some(Self::Nightly)
        } else {
            None
        }
    }
}

fn compiler(host: &Host) -> Vec<Step> {
    let why = "the BPF target has no prebuilt `core`";
    let rustup = |command: &str| vec![Step { rustup: true, ..Step::new(why, command) }];
    match Way::choose(host) {
        Some(Way::AddSource) => rustup("rustup component add --toolchain nightly rust-src"),
        Some(Way::Debian) => {
            let packages = install_command(host.family, DEBIAN_COMPILER);
            vec![
                Step::new(format!("{why}; Debian's compiler comes with its source"), packages).by_root(),
                Step::new("names it for cargo", format!("rustup toolchain link {DEBIAN} /usr")),
            ]
        }
        // No self-update: replacing the user's rustup is not ours to do.
        Some(Way::Nightly) => {
            rustup("rustup toolchain install nightly --no-self-update --profile minimal --component rust-src")
        }
        None => {
            let advice =
                "rustup cannot download and apt has no `rustc-web`: rustup needs access to its server";
            vec![Step { advice: true, ..Step::new(why, advice) }]
        }
    }
}

/// The toolchain that the linker has to serve, there or about to be, and its LLVM; `None` when that cannot be known yet.
fn linker_serves(host: &Host) -> Option<(&'static str, u32)> {
    if let Some((name, compiler)) = host.compiler() {
        return Some((name, compiler.llvm));
    }
    match Way::choose(host)? {
        Way::AddSource => host.nightly.as_ref().map(|it| ("nightly", it.llvm)),
        Way::Debian => Some((DEBIAN, DEBIAN_LLVM)),
        Way::Nightly => None,
    }
}

fn has_linker(host: &Host, compiler: &Compiler) -> bool {
    host.linker.as_ref().is_some_and(|it| it.llvm.is_none_or(|llvm| llvm >= compiler.llvm))
}

/// What `bpf-linker` is built with.
pub fn llvm_packages(llvm: u32) -> String {
    format!("llvm-{llvm}-dev libpolly-{llvm}-dev")
}

fn offers_llvm(host: &Host, llvm: u32) -> bool {
    LINKER_LLVMS.contains(&llvm) && host.offers(&llvm_packages(llvm))
}

/// The linker, built with the compiler's LLVM or a newer one.
fn linker(host: &Host) -> Vec<Step> {
    let why = format!("links the eBPF programs; {LINKER_VERSION} is what the project is tested with");
    let cargo = format!("cargo install bpf-linker --version {LINKER_VERSION} --force");
    if host.family != Family::Apt {
        return vec![Step::new(
            why,
            format!("{cargo}   # needs LLVM and its headers; see the linker's README"),
        )];
    }
    // Not known yet: the next round, when there is a compiler, asks again.
    let Some((name, compiler_llvm)) = linker_serves(host) else { return Vec::new() };
    let least = compiler_llvm.max(DEBIAN_LLVM);
    let Some(llvm) = LINKER_LLVMS.filter(|&llvm| llvm >= least).find(|&llvm| offers_llvm(host, llvm)) else {
        let advice = format!(
            "toolchain {name} has LLVM {compiler_llvm}, and apt has no llvm-dev of {least} or newer: `cargo install \
             cargo-binstall && cargo binstall bpf-linker@{LINKER_VERSION}` fetches a linker with its own LLVM"
        );
        return vec![Step { advice: true, ..Step::new(why, advice) }];
    };
    vec![
        Step::new("the linker is built on LLVM", install_command(host.family, &llvm_packages(llvm)))
            .by_root(),
        Step::new(
            why,
            format!("LLVM_PREFIX=/usr/lib/llvm-{llvm} {cargo} --no-default-features --features llvm-{llvm}"),
        ),
    ]
}

/// The one message for a machine where we cannot do it: which commands to run, and why they were not run.
pub fn by_hand(host: &Host, steps: &[Step]) -> Option<String> {
    let required = || steps.iter().filter(|step| !step.optional);
    let reason = if required().any(|step| step.advice) {
        "something is missing that cannot be installed from here"
    } else if host.family != Family::Apt && required().any(|step| !step.command.starts_with("mount ")) {
        "something is missing, and this is not a machine with apt-get"
    } else if !host.root && required().any(|step| step.root) {
        "something is missing, and only root can install it"
    } else {
        return None;
    };
    let lines: Vec<String> = required().map(|step| format!("  {step}")).collect();
    Some(format!(
        "{reason}. Run as root (`rustup` and `cargo` as yourself), then try again:\n{}",
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests;
