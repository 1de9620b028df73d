//! `cargo xtask test`: one build, then the groups one after another, then a table and one last line to read.

mod group;
mod harness;
mod kubectl;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::binaries::{self, Executable, cargo, cargo_build};
use crate::require_root;
use crate::setup::{self, Scope};
use group::Group;
use harness::Counts;

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
}

/// How a group went.
struct Outcome {
    group: Group,
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
            println!("{:8} {}{}", group.name(), group.about(), if group.root() { " (root)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let groups: Vec<Group> =
        Group::ALL.into_iter().filter(|group| args.what.is_empty() || args.what.contains(group)).collect();
    if let Some(group) = groups.iter().find(|group| group.root()) {
        require_root(&format!("the test group `{}`", group.name()))?;
    }
    setup::ensure(if groups.iter().any(|group| group.root()) { Scope::Test } else { Scope::Build })?;

    let mut outcomes = Vec::new();
    let mut broken = None;
    if groups.contains(&Group::Lint) {
        outcomes.push(timed(Group::Lint, || Ok(lint()))?);
    }
    if groups.iter().any(|group| *group != Group::Lint) {
        header("build");
        match build(&groups) {
            Ok(built) => run_programs(args, &groups, &built, &mut outcomes)?,
            Err(error) => broken = Some(error),
        }
    }
    Ok(summary(&groups, &outcomes, broken))
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
    cargo_build(&arguments)
}

fn run_programs(
    args: &Args,
    groups: &[Group],
    built: &[Executable],
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let bin_dir: &Path = binaries::folder(built)?;
    for &group in groups.iter().filter(|group| **group != Group::Lint) {
        outcomes.push(timed(group, || {
            let mut counts = Counts::default();
            for program in built.iter().filter(|it| it.test && Group::of(it) == group) {
                let threads = (group == Group::Lab).then_some(args.test_threads);
                let unserved = kubectl::unserved(program)?;
                counts.skipped += unserved.map_or(0, |(_, count)| count);
                let skip = unserved.map(|(part, _)| part);
                if skip != Some("") {
                    counts += harness::run(program, bin_dir, threads, args.filter.as_deref(), skip)?;
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

fn timed(group: Group, work: impl FnOnce() -> Result<Counts>) -> Result<Outcome> {
    header(group.name());
    let started = Instant::now();
    let counts = work()?;
    let took = started.elapsed();
    println!("{}: {:.1} s", group.name(), took.as_secs_f64());
    Ok(Outcome { group, counts, took })
}

fn header(name: &str) {
    println!("\n=== {name} ===");
}

/// The table, and the last line alone.
fn summary(groups: &[Group], outcomes: &[Outcome], broken: Option<anyhow::Error>) -> ExitCode {
    println!("\n{:10} {:>7} {:>7} {:>8} {:>8}", "group", "passed", "failed", "not run", "seconds");
    let mut total = Counts::default();
    for &group in groups {
        match outcomes.iter().find(|outcome| outcome.group == group) {
            Some(Outcome { counts, took, .. }) => {
                let Counts { passed, failed, skipped } = *counts;
                let note = if *counts == Counts::default() { "  no test ran" } else { "" };
                let seconds = took.as_secs_f64();
                println!("{:10} {passed:7} {failed:7} {skipped:8} {seconds:8.1}{note}", group.name());
                total += *counts;
            }
            None => println!("{:10} {:>7} {:>7} {:>8}", group.name(), "-", "-", "all"),
        }
    }
    if let Some(error) = broken {
        println!("build      FAILED: {error:#}");
        total.failed += 1;
    }
    println!("\n{total}");
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
