//! Machines, simulated.

use super::*;

fn offers(names: &str) -> BTreeSet<String> {
    names.split(' ').map(str::to_owned).collect()
}

/// Debian 12 as root, nothing installed but rustup, package lists present.
fn debian_bare() -> Host {
    let mut offered = offers(DEBIAN_COMPILER);
    offered.extend(offers(&llvm_packages(22)));
    offered.extend(ITEMS.iter().map(|item| item.packages.apt.to_owned()));
    Host {
        family: Family::Apt,
        root: true,
        rustup_offline: false,
        nightly: None,
        debian: None,
        linker: None,
        apt_lists: true,
        offered,
        found: BTreeMap::from([("rustup", String::new()), ("kernel", "6.18".into())]),
    }
}

fn compiler(llvm: u32, source: bool) -> Option<Compiler> {
    Some(Compiler { version: "rustc 1.96.0".into(), llvm, source })
}

fn complete() -> Host {
    Host {
        debian: compiler(22, true),
        linker: Some(Linker { version: LINKER_VERSION.into(), llvm: Some(22) }),
        found: ITEMS.iter().map(|item| (item.name, "1".to_owned())).collect(),
        ..debian_bare()
    }
}

fn commands(host: &Host, scope: Scope) -> Vec<String> {
    steps(host, scope).iter().map(Step::to_string).collect()
}

#[test]
fn nothing_to_do_when_all_is_there() {
    assert_eq!(commands(&complete(), Scope::Extra), Vec::<String>::new());
}

#[test]
fn empty_lists_are_fetched_first() {
    let host = Host { apt_lists: false, ..debian_bare() };
    assert_eq!(commands(&host, Scope::Test), ["apt-get update"]);
}

#[test]
fn bare_debian_gets_tools_compiler_and_linker_in_one_go() {
    let host = debian_bare();
    assert_eq!(
        commands(&host, Scope::Build),
        [
            "apt-get install --yes --no-install-recommends gcc",
            "apt-get install --yes --no-install-recommends rustc-web rust-web-src libstd-rust-web-dev cargo-web",
            "rustup toolchain link debian /usr",
            "apt-get install --yes --no-install-recommends llvm-22-dev libpolly-22-dev",
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --force \
             --no-default-features --features llvm-22",
        ]
    );
    assert_eq!(by_hand(&host, &steps(&host, Scope::Build)), None);
    let user = Host { root: false, ..host };
    let message = by_hand(&user, &steps(&user, Scope::Build)).expect("apt-get needs root");
    assert!(message.contains("only root") && message.contains("cargo install bpf-linker"), "{message}");
}

#[test]
fn the_linker_waits_for_a_compiler_whose_llvm_is_unknown() {
    let host = Host { debian: None, linker: None, offered: offers(&llvm_packages(22)), ..complete() };
    let commands = commands(&host, Scope::Build);
    assert_eq!(commands.len(), 1);
    assert!(commands[0].starts_with("rustup toolchain install nightly"), "{commands:?}");
}

#[test]
fn a_package_that_apt_does_not_have_ends_in_advice() {
    let mut host = complete();
    host.found.remove("rustup");
    host.offered.remove("rustup");
    let message = by_hand(&host, &steps(&host, Scope::Build)).expect("nothing to install");
    assert!(message.contains("apt has no package `rustup`"), "{message}");
}

#[test]
fn a_scope_asks_for_no_more_than_it_needs() {
    let host = debian_bare();
    assert!(!commands(&host, Scope::Build).join(" ").contains("podman"));
    assert!(!commands(&host, Scope::Lab).join(" ").contains("podman"));
    assert!(commands(&host, Scope::Lab).join(" ").contains("bpftool"));
    assert!(commands(&host, Scope::Test).join(" ").contains("podman"));
}

#[test]
fn a_nightly_without_source_gets_it_and_debian_is_the_fallback() {
    let mut host = Host { nightly: compiler(22, false), debian: None, linker: None, ..complete() };
    assert_eq!(commands(&host, Scope::Build)[0], "rustup component add --toolchain nightly rust-src");
    assert!(steps(&host, Scope::Build)[0].rustup);
    host.rustup_offline = true;
    assert!(commands(&host, Scope::Build)[0].contains("rustc-web"));
}

#[test]
fn a_nightly_whose_llvm_no_linker_has_is_left_alone() {
    let host = Host { nightly: compiler(23, false), debian: None, linker: None, ..complete() };
    assert!(commands(&host, Scope::Build)[0].contains("rustc-web"));
}

#[test]
fn without_debians_compiler_a_nightly_is_installed_and_rustup_itself_left_alone() {
    let host = Host { debian: None, offered: BTreeSet::new(), ..complete() };
    let commands = commands(&host, Scope::Build);
    assert_eq!(commands.len(), 1);
    assert!(commands[0].starts_with("rustup toolchain install nightly --no-self-update"), "{commands:?}");
    let offline = Host { rustup_offline: true, ..host };
    let message = by_hand(&offline, &steps(&offline, Scope::Build)).expect("no way is left");
    assert!(message.contains("rustup cannot download"), "{message}");
}

#[test]
fn nightly_wins_as_in_the_build_script() {
    let both = Host { nightly: compiler(22, true), ..complete() };
    assert_eq!(both.compiler().map(|it| it.0), Some("nightly"));
    let without_source = Host { nightly: compiler(22, false), ..complete() };
    assert_eq!(without_source.compiler().map(|it| it.0), Some(DEBIAN));
}

#[test]
fn an_older_linker_is_replaced() {
    let old = Linker { version: "0.13.0".into(), llvm: Some(21) };
    let host = Host { linker: Some(old), ..complete() };
    assert!(commands(&host, Scope::Build)[1].contains("--features llvm-22"));
    let built_in = Linker { version: "0.13.0".into(), llvm: None };
    assert!(commands(&Host { linker: Some(built_in), ..complete() }, Scope::Build).is_empty());
}

#[test]
fn a_linker_for_a_new_llvm_without_packages_ends_in_advice() {
    let host = Host { nightly: compiler(23, true), linker: None, ..complete() };
    let message = by_hand(&host, &steps(&host, Scope::Build)).expect("apt has no LLVM 23");
    assert!(message.contains("LLVM 23") && message.contains("binstall"), "{message}");
}

#[test]
fn fedora_gets_one_message_with_its_own_names() {
    let host = Host { family: Family::Dnf, offered: BTreeSet::new(), ..debian_bare() };
    let message = by_hand(&host, &steps(&host, Scope::Test)).expect("dnf is not ours to run");
    assert!(message.contains("dnf install gcc iproute iputils bpftool"), "{message}");
    assert!(message.contains("rustup toolchain install nightly"), "{message}");
    assert!(message.contains("cargo install bpf-linker"), "{message}");
    assert!(message.contains("mount -t bpf"), "{message}");
    assert!(!message.contains("apt-get install"), "{message}");
}

#[test]
fn only_a_mount_missing_needs_no_package_manager() {
    let mut host = Host { family: Family::Pacman, ..complete() };
    host.found.remove("bpffs");
    assert_eq!(commands(&host, Scope::Lab), ["mount -t bpf bpf /sys/fs/bpf"]);
    assert_eq!(by_hand(&host, &steps(&host, Scope::Lab)), None);
    host.root = false;
    assert!(by_hand(&host, &steps(&host, Scope::Lab)).is_some_and(|message| message.contains("only root")));
}

#[test]
fn an_old_kernel_cannot_be_installed_from_here() {
    let mut host = complete();
    host.found.remove("kernel");
    let message = by_hand(&host, &steps(&host, Scope::Lab)).expect("a kernel needs a reboot");
    assert!(message.contains("6.6"), "{message}");
}

#[test]
fn optional_things_never_stop_anybody() {
    let mut host = Host { root: false, ..complete() };
    host.found.remove("tcpdump");
    assert_eq!(commands(&host, Scope::Extra), Vec::<String>::new());
    host.root = true;
    assert_eq!(commands(&host, Scope::Extra), ["apt-get install --yes --no-install-recommends tcpdump"]);
    host.offered.clear();
    assert_eq!(commands(&host, Scope::Extra), Vec::<String>::new());
}

#[test]
fn lists_are_refreshed_before_anything_is_installed() {
    let update = refresh(&debian_bare(), Scope::Build).map(|step| step.command);
    assert_eq!(update.as_deref(), Some("apt-get update"));
    assert_eq!(refresh(&Host { root: false, ..debian_bare() }, Scope::Build), None, "only root can");
}
