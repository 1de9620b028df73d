//! Which tests run in every kernel.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::lack::Lack;

/// A test program, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Its name in the results.
    pub group: &'static str,
    /// The file under `tests/tests/`.
    pub program: &'static str,
    /// Only tests whose name contains one of these; all if there is none.
    pub only: &'static [&'static str],
    /// Not those whose name contains one of these.
    pub skip: &'static [&'static str],
    /// Tests at the same time.
    pub threads: u32,
    /// Seconds that it may take, without hardware virtualisation.
    pub limit: u32,
}

const fn all(group: &'static str, program: &'static str, limit: u32) -> Run {
    Run { group, program, only: &[], skip: &[], threads: 4, limit }
}

/// Random cases of the model's comparison (`packets/model.rs`); on this machine it runs ten times as many.
pub const CASES: &str = "5000";

/// Quick and telling ones first.
pub const RUNS: &[Run] = &[
    // That planted bugs are noticed is about the model, which is the same on every kernel.
    Run { skip: &["timing::", "every_planted_bug"], ..all("packets", "packets", 2400) },
    all("connectivity", "story", 1200),
    // One at a time: the agent gives an ADD 25 s, in which an emulated machine with three clusters binds no address.
    Run {
        only: &["services_work_", "without_stack_affinity"],
        threads: 1,
        ..all("services", "services", 1800)
    },
    // The others send packets at a rate that an emulated CPU does not reach.
    // The others send packets at a rate that an emulated CPU does not reach.
    Run { only: &["killed_at_every_step"], threads: 1, ..all("restart", "restart", 1800) },
];

/// Where a program is in the machine.
pub fn path(run: &Run) -> PathBuf {
    Path::new("/lab/tests").join(run.program)
}

/// The plan as the machine's first process reads it: group, seconds, command. With a filter, only tests whose name
/// contains it; none that is about something that the kernel lacks.
pub fn lines(runs: &[Run], lacks: &[Lack], filter: Option<&str>) -> String {
    let mut lines = String::new();
    for run in runs {
        let Run { group, only, skip, threads, limit, .. } = run;
        write!(lines, "{group}|{limit}|{} --test-threads={threads}", path(run).display()).expect("a string");
        let lacking = lacks.iter().flat_map(|lack| lack.tests());
        skip.iter().chain(lacking).for_each(|part| write!(lines, " --skip {part}").expect("a string"));
        only.iter().copied().chain(filter).for_each(|part| write!(lines, " {part}").expect("a string"));
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Run, lines};

    #[test]
    fn the_plan_is_one_line_for_each_run() {
        let run = Run { group: "g", program: "p", only: &["a", "b"], skip: &["c"], threads: 4, limit: 9 };
        assert_eq!(lines(&[run], &[], None), "g|9|/lab/tests/p --test-threads=4 --skip c a b\n");
    }
}
