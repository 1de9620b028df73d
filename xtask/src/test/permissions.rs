//! What the programs asked the API for while the tests ran, compared with what is written down; the roles under
//! `deploy/` are compared with that in turn (`ipam-agent/tests/deploy/permissions.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::harness::Counts;
use crate::workspace;

/// Names the folder to the lab: `ipam_lab::lab::permissions`.
pub const VARIABLE: &str = "IPAM_LAB_PERMISSIONS";
/// What is written down, under the workspace.
const WRITTEN: &str = "ipam-agent/tests/deploy/permissions.txt";

/// An empty folder for what the lab records.
///
/// # Errors
/// It cannot be made.
pub fn folder() -> Result<PathBuf> {
    let folder = workspace().join("target/permissions");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context(WRITTEN),
        _ => fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?,
    }
    Ok(folder)
}

/// Compares, as one check. After a part of the tests only what is new is wrong: the rest may have to do with others.
///
/// # Errors
/// A file cannot be read or written.
pub fn check(folder: &Path, whole: bool, update: bool) -> Result<Counts> {
    let used = recorded(folder)?;
    if used.is_empty() && !whole {
        return Ok(Counts::default());
    }
    let file = workspace().join(WRITTEN);
    let known = fs::read_to_string(&file).unwrap_or_default();
    let known: BTreeSet<String> = known.lines().map(str::to_owned).collect();
    let wrong = differences(&used, &known, whole);
    let count = used.len();
    println!("{count} permissions were used by the programs in these tests");
    if wrong.is_empty() {
        return Ok(Counts { passed: 1, ..Counts::default() });
    }
    println!("{WRITTEN} differs:\n{}", wrong.join("\n"));
    if !update {
        println!(
            "after a whole `cargo xtask test --update` it is right; then the roles under deploy/ want the same"
        );
        return Ok(Counts { failed: 1, ..Counts::default() });
    }
    let written = if whole { used } else { &used | &known };
    fs::write(&file, written.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect::<String>())?;
    Ok(Counts { passed: 1, ..Counts::default() })
}

fn recorded(folder: &Path) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        used.extend(fs::read_to_string(entry?.path())?.lines().map(str::to_owned));
    }
    Ok(used)
}

fn differences(used: &BTreeSet<String>, known: &BTreeSet<String>, whole: bool) -> Vec<String> {
    let new = used.difference(known).map(|line| format!("+ {line}"));
    let gone = known.difference(used).filter(|_| whole).map(|line| format!("- {line}"));
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_part_of_the_tests_does_not_use_may_be_used_by_others() {
        let set = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        let (used, known) = (set(&["a", "b"]), set(&["b", "c"]));
        assert_eq!(differences(&used, &known, false), ["+ a"]);
        assert_eq!(differences(&used, &known, true), ["+ a", "- c"]);
        assert!(differences(&known, &known, true).is_empty());
    }
}
