//! What is needed, why, and what each distribution calls it.

/// The commands that need an item; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `build`.
    Build,
    /// `demo`: namespaces, eBPF, packets.
    Lab,
    /// `test`: lints, real containers.
    Test,
    /// Nice to have: never a reason to fail.
    Extra,
    /// `kernels`: big, and installed by that command alone.
    Kernels,
}

/// How an item is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command on `PATH`, and the arguments that make it print its version.
    Command(&'static str, &'static [&'static str]),
    /// A busybox without dynamic libraries: the container of the tests is an empty folder with it.
    StaticBusybox,
    /// The reference CNI plugins.
    CniPlugins,
    /// A compiler for the BPF target, with the library's source.
    Compiler,
    /// `bpf-linker`, with an LLVM that reads the compiler's output.
    Linker,
    /// A component of the active rustup toolchain: its name, and the program it brings.
    Component(&'static str, &'static str),
    /// The bpf file system, mounted.
    BpfFs,
    /// A kernel with TCX.
    Kernel,
}

/// Package names by package manager; an empty one means there is none.
#[derive(Clone, Copy, Debug)]
pub struct Packages {
    /// Debian and its relatives.
    pub apt: &'static str,
    /// Fedora and its relatives.
    pub dnf: &'static str,
    /// Arch.
    pub pacman: &'static str,
    /// SUSE.
    pub zypper: &'static str,
}

/// One needed thing.
#[derive(Debug)]
pub struct Item {
    /// Its name in the report.
    pub name: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// Who needs it.
    pub scope: Scope,
    /// How it is recognised.
    pub kind: Kind,
    /// The packages that bring it.
    pub packages: Packages,
}

/// The same name everywhere.
const fn same(name: &'static str) -> Packages {
    Packages { apt: name, dnf: name, pacman: name, zypper: name }
}

const NO_PACKAGE: Packages = same("");

const fn command(
    name: &'static str,
    version: &'static [&'static str],
    why: &'static str,
    scope: Scope,
    packages: Packages,
) -> Item {
    Item { name, why, scope, kind: Kind::Command(name, version), packages }
}

const fn special(
    name: &'static str,
    why: &'static str,
    scope: Scope,
    kind: Kind,
    packages: Packages,
) -> Item {
    Item { name, why, scope, kind, packages }
}

/// Everything, in the order it is reported and installed.
pub const ITEMS: &[Item] = &[
    command("cc", &["--version"], "compiles the C of `ring` and links", Scope::Build, same("gcc")),
    command(
        "rustup",
        &["--version"],
        "runs the second compiler beside yours",
        Scope::Build,
        Packages { apt: "rustup", dnf: "rustup", pacman: "rustup", zypper: "rustup" },
    ),
    special(
        "eBPF compiler",
        "builds `core` for the BPF target, which has no prebuilt one",
        Scope::Build,
        Kind::Compiler,
        NO_PACKAGE,
    ),
    special(
        "bpf-linker",
        "links the eBPF programs and keeps their BTF",
        Scope::Build,
        Kind::Linker,
        NO_PACKAGE,
    ),
    special("kernel", "6.6 or newer attaches programs by TCX", Scope::Lab, Kind::Kernel, NO_PACKAGE),
    special("bpffs", "maps and links are pinned in /sys/fs/bpf", Scope::Lab, Kind::BpfFs, NO_PACKAGE),
    command(
        "ip",
        &["-V"],
        "the lab's namespaces, and looking around in them",
        Scope::Lab,
        Packages { apt: "iproute2", dnf: "iproute", pacman: "iproute2", zypper: "iproute2" },
    ),
    command(
        "ping",
        &["-V"],
        "the lab's simplest packets",
        Scope::Lab,
        Packages { apt: "iputils-ping", dnf: "iputils", pacman: "iputils", zypper: "iputils" },
    ),
    command(
        "bpftool",
        &["version"],
        "dumps the maps with named fields",
        Scope::Lab,
        Packages { apt: "bpftool", dnf: "bpftool", pacman: "bpf", zypper: "bpftool" },
    ),
    command("nft", &["--version"], "counters and drops in the lab's fabric", Scope::Lab, same("nftables")),
    command("iptables", &["--version"], "rules like kube-proxy's in the lab", Scope::Lab, same("iptables")),
    command("ethtool", &["--version"], "offloads of the lab's devices", Scope::Lab, same("ethtool")),
    special("rustfmt", "checks the format", Scope::Test, Kind::Component("rustfmt", "cargo-fmt"), NO_PACKAGE),
    special("clippy", "checks the lints", Scope::Test, Kind::Component("clippy", "cargo-clippy"), NO_PACKAGE),
    command("podman", &["--version"], "starts the real containers of a test", Scope::Test, same("podman")),
    command("runc", &["--version"], "runs podman's containers", Scope::Test, same("runc")),
    command("conmon", &["--version"], "watches podman's containers", Scope::Test, same("conmon")),
    command(
        "containerd",
        &["--version"],
        "makes the real sandboxes of a test",
        Scope::Test,
        same("containerd"),
    ),
    command("curl", &["--version"], "asks containerd in a kubelet's place", Scope::Test, same("curl")),
    special(
        "CNI plugins",
        "podman and containerd want `loopback`; `ptp` is what ours is compared with",
        Scope::Test,
        Kind::CniPlugins,
        Packages {
            apt: "containernetworking-plugins",
            dnf: "containernetworking-plugins",
            pacman: "cni-plugins",
            zypper: "cni-plugins",
        },
    ),
    special(
        "busybox",
        "the only file in the test's containers (static)",
        Scope::Test,
        Kind::StaticBusybox,
        Packages { apt: "busybox-static", dnf: "busybox", pacman: "busybox", zypper: "busybox-static" },
    ),
    command(
        "kubectl",
        &["version", "--client"],
        "renders `deploy/` in a test, and shows the objects",
        Scope::Test,
        Packages {
            apt: "kubernetes-client",
            dnf: "kubernetes-client",
            pacman: "kubectl",
            zypper: "kubernetes-client",
        },
    ),
    command(
        "tcpdump",
        &["--version"],
        "looking at the packets of a demo left standing",
        Scope::Extra,
        same("tcpdump"),
    ),
    command(
        "qemu-system-x86_64",
        &["--version"],
        "boots the kernels of `cargo xtask kernels`",
        Scope::Kernels,
        Packages {
            apt: "qemu-system-x86",
            dnf: "qemu-system-x86-core",
            pacman: "qemu-system-x86",
            zypper: "qemu-x86",
        },
    ),
    command("depmod", &["--version"], "indexes the modules of those kernels", Scope::Kernels, same("kmod")),
    command(
        "xz",
        &["--version"],
        "unpacks them",
        Scope::Kernels,
        Packages { apt: "xz-utils", dnf: "xz", pacman: "xz", zypper: "xz" },
    ),
];
