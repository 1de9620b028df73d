//! `docs/kernels.md`: what the kernels said.

use std::fmt::Write as _;

use super::budget::Budget;
use super::lack::Lack;
use super::plan::RUNS;
use super::transcript::Transcript;

/// A kernel and what its machine said.
#[derive(Debug)]
pub struct Result {
    /// Its name here.
    pub name: &'static str,
    /// The release of Debian it comes from.
    pub suite: &'static str,
    /// Version of its package.
    pub version: String,
    /// What the machine said.
    pub transcript: Transcript,
    /// Programs that are not within their budget.
    pub over_budget: Vec<String>,
}

impl Result {
    /// Nothing failed.
    pub fn good(&self) -> bool {
        self.transcript.good() && self.over_budget.is_empty()
    }
}

const HEAD: &str = "\
# Kernels

Written by `cargo xtask kernels`, which boots these kernels of Debian under QEMU (without hardware virtualisation, two
CPUs, 2 GiB) and runs the same test programs in each of them that `cargo xtask test` runs on this machine.

";

/// The whole page.
pub fn page(results: &[Result], budget: &Budget) -> String {
    let mut page = HEAD.to_owned();
    write_tests(&mut page, results);
    write_left_out(&mut page);
    write_verifier(&mut page, results, budget);
    write_faults(&mut page, results);
    page
}

fn write_tests(page: &mut String, results: &[Result]) {
    page.push_str("## Tests\n\nPassed / failed / not run.\n\n| kernel | Debian | version | attached by |");
    for run in RUNS {
        write!(page, " {} |", run.group).expect("a string");
    }
    page.push_str("\n|---|---|---|---|");
    page.push_str(&"---|".repeat(RUNS.len()));
    page.push('\n');
    for result in results {
        let Result { name, suite, version, transcript, .. } = result;
        let attach = transcript.attach.as_deref().unwrap_or("?");
        write!(page, "| {name} | {suite} | {version} | {attach} |").expect("a string");
        for run in RUNS {
            match transcript.groups.iter().find(|group| group.name == run.group) {
                Some(group) => {
                    let counts = group.counts;
                    write!(page, " {} / {} / {} |", counts.passed, counts.failed, counts.skipped)
                        .expect("a string");
                }
                None => page.push_str(" not reached |"),
            }
        }
        page.push('\n');
    }
    page.push('\n');
}

fn write_left_out(page: &mut String) {
    page.push_str("Not run are the tests that measure time or send at a fixed rate, that of the model's own eyes, services beyond the\n\
         core, and on kernels that lack it, those of\n\n");
    for lack in Lack::ALL {
        writeln!(page, "* {}", lack.about()).expect("a string");
    }
    page.push('\n');
}

fn write_verifier(page: &mut String, results: &[Result], budget: &Budget) {
    page.push_str(
        "## Verifier\n\nInstructions that the verifier walks through when a program is loaded (a kernel refuses more \
         than a\nmillion), and the recorded budget in `tests/verifier-budget.toml`, of which a tenth more fails.\n\n| kernel |",
    );
    let programs: std::collections::BTreeSet<&String> =
        results.iter().flat_map(|result| result.transcript.programs.keys()).collect();
    for program in &programs {
        write!(page, " {program} |").expect("a string");
    }
    page.push_str("\n|---|");
    page.push_str(&"---|".repeat(programs.len()));
    page.push('\n');
    for result in results {
        write!(page, "| {} |", result.name).expect("a string");
        for program in &programs {
            let count = result.transcript.programs.get(*program);
            let count = count.map_or("not loaded".to_owned(), u64::to_string);
            let budget = budget.of(result.name, program).map_or("none".to_owned(), |it| it.to_string());
            write!(page, " {count} of {budget} |").expect("a string");
        }
        page.push('\n');
    }
}

fn write_faults(page: &mut String, results: &[Result]) {
    if results.iter().all(Result::good) {
        return;
    }
    page.push_str("\n## What failed\n\n");
    for result in results {
        let failed = result.transcript.groups.iter().flat_map(|group| &group.failed);
        for fault in result.transcript.problems.iter().chain(&result.over_budget).chain(failed) {
            writeln!(page, "* {}: {fault}", result.name).expect("a string");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::transcript::Group;
    use crate::test::harness::Counts;

    fn result() -> Result {
        let counts = Counts { passed: 7, failed: 0, skipped: 1 };
        let packets = Group { name: "packets".into(), counts, failed: Vec::new() };
        let mut transcript = Transcript::default();
        transcript.finished = true;
        transcript.groups.push(packets);
        transcript.attach = Some("clsact".into());
        transcript.programs.insert("from_pod".into(), 702);
        Result {
            name: "6.1",
            suite: "bookworm",
            version: "6.1.176-1".into(),
            transcript,
            over_budget: Vec::new(),
        }
    }

    #[test]
    fn figures_are_in_their_columns() {
        let mut budget = Budget::default();
        budget.record("6.1", &result().transcript.programs);
        let page = page(&[result()], &budget);
        assert!(page.contains("| 6.1 | bookworm | 6.1.176-1 | clsact | 7 / 0 / 1 | not reached |"), "{page}");
        assert!(page.contains("| kernel | from_pod |\n|---|---|\n| 6.1 | 702 of 702 |\n"), "{page}");
        assert!(!page.contains("What failed"), "{page}");
    }

    #[test]
    fn failures_are_named() {
        let mut bad = result();
        bad.transcript.groups[0].failed.push("arp::spoof".into());
        bad.over_budget.push("from_pod: too big".into());
        let page = page(&[bad], &Budget::default());
        assert!(page.contains("* 6.1: from_pod: too big\n* 6.1: arp::spoof\n"), "{page}");
        assert!(page.contains("702 of none"), "{page}");
    }
}
