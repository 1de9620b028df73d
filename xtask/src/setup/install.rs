//! Running the steps of a plan.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan::Step;

/// A download by rustup that takes longer goes by the other way, if there is one.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(120);

/// Runs the steps in order, each announced with its reason. False when a download by rustup failed: the plan has
/// another way for that.
///
/// # Errors
/// A required step failed; its own output says why.
pub fn all(steps: &[Step]) -> Result<bool> {
    for step in steps {
        println!("==> {step}\n    for: {}", step.why);
        let succeeded = run(step).with_context(|| format!("cannot run `{step}`"))?;
        match (succeeded, step.rustup, step.optional) {
            (true, ..) => {}
            (false, true, _) => {
                println!("    rustup could not download it; trying another way");
                return Ok(false);
            }
            (false, _, true) => println!("    failed; going on, as nothing depends on it"),
            (false, false, false) => bail!("`{step}` failed; its output is above"),
        }
    }
    Ok(true)
}

/// Runs one step; true when it succeeds. Its words hold no spaces, by construction.
fn run(step: &Step) -> Result<bool> {
    let mut words = step.command.split(' ').peekable();
    let mut variables = vec![("DEBIAN_FRONTEND", "noninteractive")];
    while let Some(variable) = words.peek().and_then(|word| word.split_once('=')) {
        variables.push(variable);
        words.next();
    }
    let program = words.next().context("an empty command")?;
    let mut child = Command::new(program).args(words).envs(variables).stdin(Stdio::null()).spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if step.rustup && started.elapsed() > RUSTUP_PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        sleep(Duration::from_millis(100));
    }
}
