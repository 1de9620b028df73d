//! When a retained address may be reclaimed. Time only ever delays a reclaim.

use std::time::Duration;

use jiff::Timestamp;

/// A controller reclaims nothing before it has itself watched an address being unused for this long (or for
/// the whole retention, when that is shorter): after an outage or a jump of the wall clock the pod gets this
/// time to come back.
pub const OBSERVATION: Duration = Duration::from_secs(300);

/// When an address detached at `detached_at` expires. `None`: never, also when the sum cannot be represented.
#[must_use]
pub fn expires_at(detached_at: Timestamp, keep: Option<Duration>) -> Option<Timestamp> {
    detached_at.checked_add(jiff::SignedDuration::try_from(keep?).ok()?).ok()
}

/// Whether a retained address may be reclaimed, and if not, when to look again.
///
/// * `expire_at`: as written at detach; `None`: never.
/// * `now`: this machine's wall clock, which may be wrong.
/// * `keep`: the retention that was asked for.
/// * `watched`: how long this process has seen the address unused, by its monotonic clock.
/// * `observation`: how long it must have, or for the whole retention when that is shorter; see [`OBSERVATION`].
///
/// # Errors
/// How long to wait before asking again; `None`: nothing but an event can change the answer.
pub fn may_reclaim(
    expire_at: Option<Timestamp>,
    now: Timestamp,
    keep: Option<Duration>,
    watched: Duration,
    observation: Duration,
) -> Result<(), Option<Duration>> {
    let (Some(expire_at), Some(keep)) = (expire_at, keep) else { return Err(None) };
    let by_wall = Duration::try_from(expire_at.duration_since(now)).unwrap_or(Duration::ZERO);
    let by_watch = keep.min(observation).saturating_sub(watched);
    match by_wall.max(by_watch) {
        Duration::ZERO => Ok(()),
        left => Err(Some(left)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    proptest! {
        /// A wall clock that jumps, in any direction, cannot make a reclaim happen before this process has
        /// watched the address for the whole of a short retention.
        #[test]
        fn a_clock_jump_never_shortens_a_short_retention(
            detached in 0i64..4_000_000_000, jump in -100_000_000i64..100_000_000, keep in 300u64..86_400, watched in 0u64..86_400,
        ) {
            let keep = Duration::from_secs(keep);
            let watched = Duration::from_secs(watched);
            let answer = may_reclaim(expires_at(at(detached), Some(keep)), at(detached.saturating_add(jump).max(0)), Some(keep), watched, OBSERVATION);
            if answer.is_ok() {
                prop_assert!(watched >= keep.min(OBSERVATION));
            }
        }

        /// With honest clocks the reclaim happens exactly at the end of the retention.
        #[test]
        fn honest_clocks_reclaim_on_time(detached in 0i64..4_000_000_000, keep in 300u64..86_400, after in 0u64..200_000) {
            let keep = Duration::from_secs(keep);
            let answer = may_reclaim(
                expires_at(at(detached), Some(keep)),
                at(detached + i64::try_from(after).unwrap()),
                Some(keep),
                Duration::from_secs(after),
                OBSERVATION,
            );
            if after >= keep.as_secs() {
                prop_assert_eq!(answer, Ok(()));
            } else {
                prop_assert_eq!(answer, Err(Some(keep - Duration::from_secs(after))));
            }
        }

        /// "Look again" is never later than needed: asking again after that long gives the answer.
        #[test]
        fn the_wait_is_exact(detached in 0i64..4_000_000_000, keep in 300u64..86_400, after in 0u64..200_000, watched in 0u64..1_000) {
            let keep = Duration::from_secs(keep);
            let expire = expires_at(at(detached), Some(keep));
            let now = at(detached + i64::try_from(after).unwrap());
            if let Err(Some(left)) = may_reclaim(expire, now, Some(keep), Duration::from_secs(watched), OBSERVATION) {
                let later = now.checked_add(jiff::SignedDuration::try_from(left).unwrap()).unwrap();
                prop_assert_eq!(may_reclaim(expire, later, Some(keep), Duration::from_secs(watched) + left, OBSERVATION), Ok(()));
            }
        }
    }

    #[test]
    fn never_is_never() {
        assert_eq!(expires_at(at(0), None), None);
        assert_eq!(expires_at(at(0), Some(Duration::MAX)), None);
        let long = Duration::from_secs(u64::from(u32::MAX));
        assert_eq!(may_reclaim(None, at(4_000_000_000), Some(OBSERVATION), long, OBSERVATION), Err(None));
    }
}
