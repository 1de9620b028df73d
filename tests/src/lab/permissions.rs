//! The permissions that the programs used while the lab ran, by their own word: what `deploy/` grants is compared with
//! that at the end of `cargo xtask test`.

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Names the folder that the permissions are written to.
pub const VARIABLE: &str = "IPAM_LAB_PERMISSIONS";
/// What a program's line about a permission has before it: `ipam_agent::client::naming_permissions`.
const MARK: &str = "permission in use: ";

/// Keeps the permissions that a log speaks of, if somebody wants them: a file of lines `FILE: VERB RESOURCE`,
/// where the first is the file of `deploy/` that grants it.
pub fn keep(log: &str) {
    let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) else { return };
    let used: BTreeSet<&str> =
        log.lines().filter_map(|line| Some(line.split_once(MARK)?.1.trim_end())).collect();
    if used.is_empty() {
        return;
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let file = folder.join(format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let text: String = used.into_iter().flat_map(|line| [line, "\n"]).collect();
    // What is missing in the end is noticed by the comparison.
    if let Err(error) = fs::write(&file, text) {
        eprintln!("{}: {error}", file.display());
    }
}
