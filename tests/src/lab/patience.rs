//! How long the lab waits.
//!
//! Limits of time in the tests are those of a machine of today. One that is much slower, as an emulated one is, says
//! by which factor: `IPAM_LAB_PATIENCE=10`.

use std::sync::OnceLock;
use std::time::Duration;

/// Variable with the factor.
const VARIABLE: &str = "IPAM_LAB_PATIENCE";

/// How long to wait on this machine for what takes at most `limit` on an ordinary one.
///
/// # Panics
/// The variable holds no factor of at least 1.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| factor(std::env::var(VARIABLE).ok().as_deref()));
    limit * *factor
}

fn factor(value: Option<&str>) -> u32 {
    let factor = value.map_or(Some(1), |value| value.parse().ok().filter(|factor| *factor >= 1));
    factor.unwrap_or_else(|| panic!("{VARIABLE}={value:?} is no whole number of at least 1"))
}

#[cfg(test)]
mod tests {
    use super::factor;

    #[test]
    fn without_a_word_limits_are_as_written() {
        assert_eq!((factor(None), factor(Some("10"))), (1, 10));
        assert!(std::panic::catch_unwind(|| factor(Some("0"))).is_err());
    }
}
