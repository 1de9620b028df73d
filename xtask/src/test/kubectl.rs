//! Tests that a kubectl of Debian 12 (1.20) cannot serve. They do not run there, and are counted as not run.

use std::process::Command;

use anyhow::{Context, Result};

use crate::binaries::Executable;

/// Kustomize 5, and schemas by OpenAPI v3.
const NEEDED_MINOR: u32 = 27;

/// The tests of a program that need a recent kubectl, by a part of their name. `None`: it has none.
fn demanding(program: &Executable) -> Option<&'static str> {
    match program.target.as_str() {
        "deploy" | "cluster" => Some(""),
        "api_listener" => Some("recent_kubectl_"),
        _ => None,
    }
}

/// The part of the names of those tests of a program that cannot run here, and how many they are.
///
/// # Errors
/// The program does not list its tests.
pub fn unserved(program: &Executable) -> Result<Option<(&'static str, usize)>> {
    let Some(part) = demanding(program) else { return Ok(None) };
    if minor().is_none_or(|minor| minor >= NEEDED_MINOR) {
        // Without any kubectl they run, and fail with the remedy.
        return Ok(None);
    }
    let list = Command::new(&program.path).args(["--list", part]).output().context("cannot list tests")?;
    let count = String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.ends_with(": test")).count();
    println!("not run, as they need kubectl 1.{NEEDED_MINOR} or newer: {count} tests {part:?}");
    Ok(Some((part, count)))
}

fn minor() -> Option<u32> {
    let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output().ok()?;
    parse_minor(&String::from_utf8_lossy(&output.stdout))
}

/// `"minor": "20"`; a `+` may follow the number.
fn parse_minor(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("\"minor\": \"")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_minor;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_minor("{ \"clientVersion\": { \"major\": \"1\", \"minor\": \"20\" } }"), Some(20));
        assert_eq!(parse_minor("\"minor\": \"27+\""), Some(27));
        assert_eq!(parse_minor("garbage"), None);
    }
}
