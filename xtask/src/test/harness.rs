//! Running a test program and reading what its harness says.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::binaries::{Executable, cargo};
use crate::test::{group, permissions};
use crate::workspace;

/// Tests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and held.
    pub passed: usize,
    /// Ran and did not hold, or took their program with them.
    pub failed: usize,
    /// Did not run (`#[ignore]`).
    pub skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} not run", self.skipped) } else { Ok(()) }
    }
}

/// How to run a test program.
#[derive(Clone, Copy, Debug, Default)]
pub struct How<'a> {
    /// Tests at the same time; by the number of CPUs when absent.
    pub threads: Option<usize>,
    /// Only tests whose name contains this.
    pub filter: Option<&'a str>,
    /// But not those whose name contains this.
    pub skip: Option<&'a str>,
    /// What tests print is seen even if they pass.
    pub shown: bool,
    /// Also those that are ignored in general.
    pub ignored_too: bool,
    /// Those that compare with what is written down write it anew.
    pub update: bool,
    /// Where the lab records which permissions the programs use.
    pub permissions: Option<&'a Path>,
}

/// Runs one test program as `cargo test` would: in its package's folder, its output to ours.
///
/// # Errors
/// It cannot be started.
pub fn run(program: &Executable, bin_dir: &Path, how: How<'_>) -> Result<Counts> {
    let place = program.package.strip_prefix(workspace()).unwrap_or(&program.package);
    let subject = group::subject(&program.target).map_or_else(String::new, |subject| format!(": {subject}"));
    println!("--- {} of {}{subject}", program.target, place.display());
    let mut command = Command::new(&program.path);
    command.current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
    command.env("IPAM_BIN_DIR", bin_dir).args(how.filter);
    if let Some(part) = how.skip {
        command.args(["--skip", part]);
    }
    if how.shown {
        command.arg("--nocapture");
    }
    if how.ignored_too {
        command.arg("--include-ignored");
    }
    if let Some(folder) = how.permissions {
        command.env(permissions::VARIABLE, folder);
    }
    if how.update {
        command.env("ENI_IPAM_UPDATE", "1");
    }
    if let Some(threads) = how.threads {
        command.arg(format!("--test-threads={threads}"));
    }
    follow(&mut command)
}

/// The examples in the documentation of the default members' libraries.
///
/// # Errors
/// Cargo cannot be started.
pub fn doc_tests(filter: Option<&str>) -> Result<Counts> {
    println!("--- documentation");
    let mut command = cargo();
    command.args(["test", "--doc", "--features", "ipam-agent/failpoints"]);
    for package in ["ipam-common", "ipam-cni", "ipam-agent"] {
        command.args(["--package", package]);
    }
    command.arg("--").args(filter);
    follow(&mut command)
}

/// Passes the output on while counting. A program that ends badly without having counted a failure (a crash, an
/// `abort` in a test) is one failure.
fn follow(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("a test program has no standard output")?;
    let mut counts = Counts::default();
    let mut results = 0;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(result) = parse(&line) {
            counts += result;
            results += 1;
        }
    }
    let status = child.wait()?;
    if (!status.success() && counts.failed == 0) || (status.success() && results == 0) {
        println!("FAILED: ended with {status} and no count of failed tests");
        counts.failed += 1;
    }
    Ok(counts)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`
pub fn parse(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split("; ") {
        match part.split_once(' ') {
            Some((number, "passed")) => counts.passed = number.parse().ok()?,
            Some((number, "failed")) => counts.failed = number.parse().ok()?,
            Some((number, "ignored")) => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.01s";
        assert_eq!(parse(line), Some(Counts { passed: 3, failed: 2, skipped: 1 }));
        assert_eq!(parse("test x ... ok"), None);
        assert_eq!(parse("test result: garbage"), None);
    }

    #[test]
    fn a_crash_is_a_failure() {
        let mut crash = Command::new("sh");
        crash.args(["-c", "echo running 2 tests; kill -ABRT $$"]);
        assert_eq!(follow(&mut crash).expect("runs"), Counts { failed: 1, ..Counts::default() });
    }

    #[test]
    fn a_program_that_counts_nothing_did_not_pass() {
        assert_eq!(follow(&mut Command::new("true")).expect("runs").failed, 1);
    }

    #[test]
    fn what_did_not_run_is_told_only_when_there_is_some() {
        assert_eq!(Counts { passed: 2, failed: 0, skipped: 0 }.to_string(), "2 passed, 0 failed");
        assert_eq!(Counts { passed: 2, failed: 1, skipped: 3 }.to_string(), "2 passed, 1 failed, 3 not run");
    }
}
