//! What a machine said: which programs loaded with how many instructions, and how the tests went.
//!
//! `@@ program NAME COUNT` is the verifier's figure, `@@ attach MODE` how programs are attached.
//! `@@ begin GROUP` and `@@ end GROUP STATUS` frame what a program prints; what libtest prints is read within.

use std::collections::BTreeMap;

use crate::test::harness::{self, Counts};

/// Everything that one machine said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// `uname -r`; empty if the machine did not come up.
    pub release: String,
    /// Instructions that the verifier walked, by program.
    pub programs: BTreeMap<String, u64>,
    /// The groups in their order.
    pub groups: Vec<Group>,
    /// How programs are attached there, as a test of the dataplane found out.
    pub attach: Option<String>,
    /// What went wrong beside the tests.
    pub problems: Vec<String>,
    /// It reached the end of the plan.
    pub finished: bool,
    open: Option<Open>,
}

/// How a group went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name in the plan.
    pub name: String,
    /// Its tests. A program that died counts as one that failed.
    pub counts: Counts,
    /// Names of the tests that failed.
    pub failed: Vec<String>,
}

/// A group that has begun.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    group: Group,
    /// libtest gave its last line.
    result: bool,
}

impl Transcript {
    /// Reads all that a machine said.
    pub fn read(said: &[u8]) -> Self {
        let mut transcript = Self::default();
        String::from_utf8_lossy(said).lines().for_each(|line| transcript.line(line));
        transcript.end();
        transcript
    }

    /// Takes what a later run of some groups says instead of what this one says of them.
    pub fn replace(&mut self, later: Self) {
        for group in later.groups {
            match self.groups.iter_mut().find(|known| known.name == group.name) {
                Some(known) => *known = group,
                None => self.groups.push(group),
            }
        }
        self.programs = later.programs;
        self.problems.extend(later.problems);
        self.finished &= later.finished;
    }

    /// Takes in the next line.
    pub fn line(&mut self, line: &str) {
        if let Some(words) = line.strip_prefix("@@ ") {
            self.marker(words);
        } else if let Some(open) = &mut self.open {
            if let Some(counts) = harness::parse(line) {
                open.group.counts += counts;
                open.group.counts.skipped += left_out(line);
                open.result = true;
            } else if let Some(test) = line.strip_suffix(" ... FAILED") {
                open.group.failed.push(test.trim_start_matches("test ").to_owned());
            }
        }
    }

    /// The last line has come. A group that did not end took the machine with it.
    pub fn end(&mut self) {
        if let Some(open) = &self.open {
            let name = open.group.name.clone();
            self.close(&name, "the machine ended in it");
        }
        if !self.finished {
            self.problems.push(match self.release.as_str() {
                "" => "it did not come up".to_owned(),
                _ => "it did not reach the end of the plan".to_owned(),
            });
        }
    }

    /// Nothing went wrong, and something was done.
    pub fn good(&self) -> bool {
        let failed: usize = self.groups.iter().map(|group| group.counts.failed).sum();
        let passed: usize = self.groups.iter().map(|group| group.counts.passed).sum();
        self.finished && self.problems.is_empty() && failed == 0 && passed > 0
    }

    fn marker(&mut self, words: &str) {
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        match word {
            "kernel" => self.release = rest.to_owned(),
            "program" => {
                match rest.split_once(' ').and_then(|(name, count)| Some((name, count.parse().ok()?))) {
                    Some((name, count)) => drop(self.programs.insert(name.to_owned(), count)),
                    None => self.problems.push(format!("not understood: {words}")),
                }
            }
            "attach" => self.attach = Some(rest.to_owned()),
            "problem" => self.problems.push(rest.to_owned()),
            "begin" => {
                let group = Group { name: rest.to_owned(), counts: Counts::default(), failed: Vec::new() };
                self.open = Some(Open { group, result: false });
            }
            "end" => {
                let (name, status) = rest.split_once(' ').unwrap_or((rest, ""));
                self.close(name, status);
            }
            "done" => self.finished = true,
            _ => {}
        }
    }

    /// `status` is that of the program; libtest's is 0 or 101.
    fn close(&mut self, name: &str, status: &str) {
        let Some(Open { mut group, result, .. }) = self.open.take().filter(|open| open.group.name == name)
        else {
            self.problems.push(format!("{name} ended without having begun"));
            return;
        };
        if group.counts.failed == 0 && (status != "0" || !result) {
            group.counts.failed += 1;
            group.failed.push(match status {
                "137" => format!("{name}: not within its time"),
                _ => format!("{name}: ended with {status} and no count of failed tests"),
            });
        }
        self.groups.push(group);
    }
}

/// `…; 3 filtered out; finished in 0.01s`: tests that the plan left out.
fn left_out(result: &str) -> usize {
    let (before, _) = result.split_once(" filtered out").unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Transcript {
        Transcript::read(text.as_bytes())
    }

    const GOOD: &str = "\
@@ kernel 5.10.0-46-cloud-amd64
@@ attach tcx
@@ program from_eni 253
@@ program from_pod 702
@@ begin packets
running 2 tests
test arp::spoof ... ok
test model::same ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.00s
@@ end packets 0
@@ done
";

    #[test]
    fn a_good_run_is_read() {
        let transcript = read(GOOD);
        assert!(transcript.good(), "{transcript:?}");
        assert_eq!(transcript.release, "5.10.0-46-cloud-amd64");
        assert_eq!(transcript.attach.as_deref(), Some("tcx"));
        let programs = [("from_eni".to_owned(), 253), ("from_pod".to_owned(), 702)];
        assert_eq!(transcript.programs, programs.into());
        let counts = Counts { passed: 2, failed: 0, skipped: 3 };
        assert_eq!(transcript.groups, [Group { name: "packets".into(), counts, failed: Vec::new() }]);
    }

    #[test]
    fn failed_tests_are_named() {
        let text = GOOD
            .replace("arp::spoof ... ok", "arp::spoof ... FAILED")
            .replace("ok. 2 passed; 0 failed", "FAILED. 1 passed; 1 failed")
            .replace("end packets 0", "end packets 101");
        let transcript = read(&text);
        assert!(!transcript.good());
        assert_eq!(transcript.groups[0].failed, ["arp::spoof"]);
        assert_eq!(transcript.groups[0].counts, Counts { passed: 1, failed: 1, skipped: 3 });
    }

    #[test]
    fn a_group_that_ran_again_counts_instead_of_the_former() {
        let failed = GOOD
            .replace("arp::spoof ... ok", "arp::spoof ... FAILED")
            .replace("ok. 2 passed; 0 failed", "FAILED. 1 passed; 1 failed");
        let mut transcript = read(&failed);
        transcript.replace(read(GOOD));
        assert_eq!(transcript, read(GOOD));
        transcript.replace(read(&GOOD.replace("packets", "restart").replace("@@ done\n", "")));
        assert_eq!(transcript.groups.len(), 2);
        assert!(!transcript.good(), "the later run did not end");
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        let cut: String =
            GOOD.lines().filter(|line| !line.starts_with("test result")).flat_map(|it| [it, "\n"]).collect();
        for (text, said) in [
            (
                cut.replace("end packets 0", "end packets 134"),
                "packets: ended with 134 and no count of failed tests",
            ),
            (cut.replace("end packets 0", "end packets 137"), "packets: not within its time"),
            (cut.clone(), "packets: ended with 0 and no count of failed tests"),
        ] {
            let transcript = read(&text);
            assert!(!transcript.good());
            assert_eq!(transcript.groups[0].failed, [said]);
        }
    }

    #[test]
    fn a_machine_that_dies_has_failed() {
        let transcript = read(&GOOD[..GOOD.find("test model").expect("there")]);
        assert!(!transcript.good());
        assert_eq!(transcript.groups[0].counts.failed, 1);
        assert_eq!(transcript.problems, ["it did not reach the end of the plan"]);
        assert_eq!(read("").problems, ["it did not come up"]);
    }

    #[test]
    fn a_program_that_does_not_load_is_a_problem() {
        let transcript = read(
            &GOOD.replace("@@ begin packets", "@@ problem the programs cannot be loaded\n@@ begin packets"),
        );
        assert!(!transcript.good());
    }

    #[test]
    fn a_plan_without_tests_is_not_good() {
        assert!(!read("@@ kernel 6.1\n@@ done\n").good());
    }
}
