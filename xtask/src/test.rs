//! `cargo xtask test`: one build, then the groups one after another, then a table and one last line to read.

mod group;
pub mod harness;
mod kubectl;
mod permissions;
mod real_api;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::binaries::{self, Executable, cargo, cargo_build};
use crate::require_root;
use crate::setup::{self, Scope};
use group::Group;
use harness::{Counts, How};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Groups to run; all when none is named
    #[arg(value_enum)]
    what: Vec<Group>,
    /// Only list the groups
    #[arg(long)]
    list: bool,
    /// Tests of one lab program that run at the same time
    #[arg(long, default_value_t = 4)]
    test_threads: usize,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Write down what programs ask for (ipam-agent/tests/deploy/permissions.txt) and what a kube-apiserver answers
    /// (docs/seed-walkthrough.md, ipam-agent/tests/api_seam/kube-apiserver.json)
    #[arg(long)]
    update: bool,
}

/// How a group, or a check of what all of them left, went.
struct Outcome {
    name: &'static str,
    counts: Counts,
    took: Duration,
}

/// Runs the groups. The exit status is success only when nothing failed.
///
/// # Errors
/// Not root for a group that needs it, something cannot be installed, or a program cannot be started.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        for group in Group::ALL {
            println!("{:10} {}{}", group.name(), group.about(), if group.root() { " (root)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let groups: Vec<Group> =
        Group::ALL.into_iter().filter(|group| args.what.is_empty() || is_asked_for(args, *group)).collect();
    if let Some(group) = groups.iter().find(|group| group.root()) {
        require_root(&format!("the test group `{}`", group.name()))?;
    }
    setup::ensure(if groups.iter().any(|group| group.root()) { Scope::Test } else { Scope::Build })?;

    let mut outcomes = Vec::new();
    let mut broken = None;
    if groups.contains(&Group::Lint) {
        outcomes.push(timed(Group::Lint.name(), || Ok(lint()))?);
    }
    if groups.iter().any(|group| *group != Group::Lint) {
        header("build");
        match build(&groups) {
            Ok(built) => {
                let folder = permissions::folder()?;
                run_programs(args, &groups, &built, &folder, &mut outcomes)?;
                let whole = args.what.is_empty() && args.filter.is_none();
                let check = || permissions::check(&folder, whole, args.update);
                outcomes.push(timed("permissions", check)?);
            }
            Err(error) => broken = Some(error),
        }
    }
    Ok(summary(&groups, &outcomes, broken))
}

/// Whether the group was named.
fn is_asked_for(args: &Args, group: Group) -> bool {
    args.what.iter().any(|asked| group.is_asked_for_by(*asked))
}

/// Everything in one build, the tests as well as the binaries that they start, so that nothing is built twice.
fn build(groups: &[Group]) -> Result<Vec<Executable>> {
    let mut arguments = vec![
        "--workspace",
        "--exclude",
        "ipam-ebpf",
        "--tests",
        "--bins",
        "--features",
        "ipam-agent/failpoints",
    ];
    if groups.iter().all(|group| matches!(group, Group::Unit | Group::Lint)) {
        arguments.extend(["--exclude", group::LAB_PACKAGE]);
    }
    if groups.contains(&Group::Restart) {
        // Another feature set makes other executables of the same names: this one has a name of its own.
        // The packages are those of the other build, or the dependencies would be built again with other features.
        cargo_build(&[
            "--workspace",
            "--exclude",
            "ipam-ebpf",
            "--bin",
            "ipam-agent-next",
            "--features",
            "ipam-agent/failpoints,ipam-agent/next-abi",
        ])?;
    }
    cargo_build(&arguments)
}

fn run_programs(
    args: &Args,
    groups: &[Group],
    built: &[Executable],
    permissions: &Path,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let bin_dir: &Path = binaries::folder(built)?;
    for &group in groups.iter().filter(|group| **group != Group::Lint) {
        outcomes.push(timed(group.name(), || {
            let mut counts = Counts::default();
            let mut programs: Vec<_> = built.iter().filter(|it| it.test && Group::of(it) == group).collect();
            programs.sort_by_key(|program| group::rank(&program.target));
            for program in programs {
                let threads = match group {
                    // One at a time, for they measure.
                    Group::Restart => Some(1),
                    // One at a time, for they share a server and its cluster-wide objects.
                    Group::Cluster => Some(1),
                    Group::Dataplane | Group::Lab => Some(args.test_threads),
                    _ => None,
                };
                let unserved = kubectl::unserved(program)?;
                counts.skipped += unserved.map_or(0, |(_, count)| count);
                let skip = unserved.map(|(part, _)| part);
                if skip != Some("") {
                    counts += harness::run(
                        program,
                        bin_dir,
                        How {
                            threads,
                            filter: args.filter.as_deref(),
                            skip,
                            // What this group measures is to be read when it is asked for alone.
                            shown: group == Group::Restart && is_asked_for(args, group),
                            ignored_too: real_api::serves(program),
                            update: args.update,
                            permissions: Some(permissions),
                        },
                    )?;
                }
            }
            if group == Group::Unit {
                counts += harness::doc_tests(args.filter.as_deref())?;
            }
            Ok(counts)
        })?);
    }
    Ok(())
}

/// The format and the lints, each counted as one check.
fn lint() -> Counts {
    let clippy = "clippy --workspace --exclude ipam-ebpf --all-targets --features ipam-agent/failpoints";
    let mut counts = Counts::default();
    for command in ["fmt --all --check", clippy] {
        println!("cargo {command}");
        match cargo().args(command.split(' ')).status() {
            Ok(status) if status.success() => counts.passed += 1,
            _ => {
                println!("FAILED: cargo {command}");
                counts.failed += 1;
            }
        }
    }
    counts
}

fn timed(name: &'static str, work: impl FnOnce() -> Result<Counts>) -> Result<Outcome> {
    header(name);
    let started = Instant::now();
    let counts = work()?;
    let took = started.elapsed();
    println!("{name}: {:.1} s", took.as_secs_f64());
    Ok(Outcome { name, counts, took })
}

fn header(name: &str) {
    println!("\n=== {name} ===");
}

/// The table, and the last line alone.
fn summary(groups: &[Group], outcomes: &[Outcome], broken: Option<anyhow::Error>) -> ExitCode {
    println!("\n{:11} {:>7} {:>7} {:>8} {:>8}", "group", "passed", "failed", "not run", "seconds");
    let mut total = Counts::default();
    for Outcome { name, counts, took } in outcomes {
        let Counts { passed, failed, skipped } = *counts;
        let note = if *counts == Counts::default() { "  no test ran" } else { "" };
        println!("{name:11} {passed:7} {failed:7} {skipped:8} {:8.1}{note}", took.as_secs_f64());
        total += *counts;
    }
    for group in groups.iter().filter(|group| !outcomes.iter().any(|outcome| outcome.name == group.name())) {
        println!("{:11} {:>7} {:>7} {:>8}", group.name(), "-", "-", "all");
    }
    if let Some(error) = broken {
        println!("build       FAILED: {error:#}");
        total.failed += 1;
    }
    println!("\n{total}");
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
