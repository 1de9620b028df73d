//! `cargo xtask setup`: what building and testing need, found or installed.
//!
//! [`probe`] looks at the machine, [`plan`] decides (pure), [`install`] acts. A round of the three is
//! repeated while it makes progress: what is missing may depend on what has just been installed (the linker's
//! LLVM on the compiler's, the offer of packages on the lists of apt).

mod catalog;
mod install;
mod plan;
mod probe;

use std::process::ExitCode;

use anyhow::{Result, bail};

pub use catalog::Scope;
use plan::{Host, State};

/// Rounds of probe, plan, install before giving up: package lists, compiler, linker, and one fallback.
const ROUNDS: usize = 5;

/// The command itself: one line for each item, then what was done about the missing ones.
///
/// # Errors
/// An installation failed, or something must be installed by hand.
pub fn run(check: bool) -> Result<ExitCode> {
    let mut host = probe::probe();
    probe::versions(&mut host);
    let width = catalog::ITEMS.iter().map(|item| item.name.len()).max().unwrap_or(0);
    let mut missing = 0;
    for item in catalog::ITEMS {
        let (mark, state) = match (host.state(item), item.scope) {
            (State::Found(version), _) => ("ok     ", version),
            (State::Missing(why), Scope::Extra) => ("absent ", format!("{why} (optional)")),
            (State::Missing(why), Scope::Kernels) => ("absent ", format!("{why} (installed when wanted)")),
            (State::Missing(why), _) => {
                missing += 1;
                ("MISSING", why)
            }
        };
        println!("{mark} {:width$}  {state}; {}", item.name, item.why);
    }
    if check {
        return if missing == 0 {
            Ok(ExitCode::SUCCESS)
        } else {
            println!("{missing} missing: `cargo xtask setup` installs them");
            Ok(ExitCode::FAILURE)
        };
    }
    complete(&mut host, Scope::Extra)?;
    println!("everything is in place");
    Ok(ExitCode::SUCCESS)
}

/// What every other command does first: nothing when all of `scope` is there (no output, well under 200 ms).
///
/// # Errors
/// As [`run`].
pub fn ensure(scope: Scope) -> Result<()> {
    complete(&mut probe::probe(), scope)
}

fn complete(host: &mut Host, scope: Scope) -> Result<()> {
    if let Some(update) = plan::refresh(host, scope) {
        install::all(&[update])?;
        *host = probe::probe();
    }
    for round in 0..ROUNDS {
        let mut steps = plan::steps(host, scope);
        // Optional things are tried once.
        steps.retain(|step| round == 0 || !step.optional);
        if steps.is_empty() {
            return Ok(());
        }
        if let Some(message) = plan::by_hand(host, &steps) {
            bail!(message);
        }
        let offline = !install::all(&steps)? || host.rustup_offline;
        *host = probe::probe();
        host.rustup_offline = offline;
    }
    let required = plan::steps(host, scope).into_iter().filter(|step| !step.optional);
    let rest: Vec<String> = required.map(|step| format!("  {step}")).collect();
    if rest.is_empty() {
        return Ok(());
    }
    bail!("installed, yet still missing; run by hand and look at the output:\n{}", rest.join("\n"))
}
