//! How many instructions the verifier may walk, by kernel and program: a program that grows out of its budget is
//! noticed here, long before a kernel refuses it at a million.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// More than the recorded figure by this part of a hundred is too much.
const TOLERANCE_PERCENT: u64 = 10;
const HEADER: &str = "# Instructions that each kernel's verifier walks through, by program.\n\
                      # Written by `cargo xtask kernels --update`; more by a tenth fails.\n\n";

/// Figures by kernel and program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget(BTreeMap<String, BTreeMap<String, u64>>);

impl Budget {
    /// Reads the record; none is an empty one.
    ///
    /// # Errors
    /// It is not TOML of this shape.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context(path.display().to_string()),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(self)?);
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Records what a kernel's verifier said.
    pub fn record(&mut self, kernel: &str, programs: &BTreeMap<String, u64>) {
        self.0.insert(kernel.to_owned(), programs.clone());
    }

    /// What is recorded of a program.
    pub fn of(&self, kernel: &str, program: &str) -> Option<u64> {
        self.0.get(kernel)?.get(program).copied()
    }

    /// What is wrong with these figures: too much, not recorded, or missing.
    pub fn faults(&self, kernel: &str, programs: &BTreeMap<String, u64>) -> Vec<String> {
        let mut faults = Vec::new();
        for (program, &count) in programs {
            match self.of(kernel, program) {
                None => faults.push(format!("{program}: {count} instructions, and no budget; --update records it")),
                Some(budget) if count * 100 > budget * (100 + TOLERANCE_PERCENT) => faults.push(format!(
                    "{program}: {count} instructions, over its budget of {budget} by more than {TOLERANCE_PERCENT} %; \
                     make it smaller, or record it with --update"
                )),
                Some(_) => {}
            }
        }
        let recorded = self.0.get(kernel).into_iter().flat_map(BTreeMap::keys);
        faults.extend(
            recorded
                .filter(|program| !programs.contains_key(*program))
                .map(|program| format!("{program}: has a budget, but was not loaded")),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(figures: &[(&str, u64)]) -> BTreeMap<String, u64> {
        figures.iter().map(|(program, count)| ((*program).to_owned(), *count)).collect()
    }

    #[test]
    fn a_tenth_more_is_allowed() {
        let mut budget = Budget::default();
        budget.record("6.1", &figures(&[("from_pod", 1000), ("to_pod", 10)]));
        assert!(budget.faults("6.1", &figures(&[("from_pod", 1100), ("to_pod", 1)])).is_empty());
        let faults = budget.faults("6.1", &figures(&[("from_pod", 1101)]));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("over its budget of 1000"), "{faults:?}");
        assert!(faults[1].contains("to_pod: has a budget, but was not loaded"), "{faults:?}");
        assert_eq!(budget.faults("5.10", &figures(&[("from_pod", 1)])).len(), 1, "another kernel's");
    }

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let mut budget = Budget::default();
        budget.record("5.10", &figures(&[("from_pod", 702)]));
        let path = std::env::temp_dir().join(format!("verifier-budget-{}", std::process::id()));
        budget.write(&path).expect("written");
        let read = Budget::read(&path);
        fs::remove_file(&path).expect("removed");
        assert_eq!(read.expect("read"), budget);
        assert_eq!(Budget::read(&path).expect("none"), Budget::default());
    }
}
