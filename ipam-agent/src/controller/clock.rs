//! The API server's clock, read off its answers: a wall clock that two machines agree on is less likely wrong.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use kube::Client;
use prometheus_client::metrics::gauge::Gauge;
use tracing::warn;

use crate::client;
use crate::metrics::Metrics;

/// How far this machine's wall clock may be from the API server's before nothing expires any more. The `Date` of an
/// answer has whole seconds, and the answer was under way.
pub const TOLERANCE: Duration = Duration::from_secs(30);

/// How soon the time is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// What the API server's clock said last, and when that was by this machine's monotonic clock.
#[derive(Debug)]
pub struct ServerClock {
    last: Mutex<Option<(Timestamp, Instant)>>,
    ahead: Gauge<f64, AtomicU64>,
}

impl ServerClock {
    /// A clock that has not been read.
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        let clock = Self { last: Mutex::default(), ahead: Gauge::default() };
        let help = "How far this machine's clock is ahead of the API server's; beyond 30 s nothing expires";
        metrics.register(|registry| {
            registry.register("clock_ahead_of_api_seconds", help, clock.ahead.clone());
        });
        Arc::new(clock)
    }

    /// The client, whose answers tell the time. One without a `Date`, as the embedded API's, tells nothing.
    pub fn watching(self: &Arc<Self>, client: Client) -> Client {
        let clock = self.clone();
        client::around(client, move |client, request| {
            let clock = clock.clone();
            async move {
                let answer = client.send(request).await?;
                let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
                if let Some(date) = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()) {
                    clock.hear(date, Timestamp::now());
                }
                Ok(answer)
            }
        })
    }

    fn hear(&self, date: Timestamp, now: Timestamp) {
        *self.last() = Some((date, Instant::now()));
        let ahead = now.duration_since(date);
        self.ahead.set(ahead.as_secs_f64());
        if ahead.unsigned_abs() > TOLERANCE {
            warn!(seconds = ahead.as_secs(), "this clock is ahead of the API server's: nothing expires");
        }
    }

    /// Asks for the time, unless that was done a moment ago: a controller that has nothing to do hears no answers.
    pub async fn ask(&self, client: &Client) {
        let heard = *self.last();
        if heard.is_some_and(|(_, heard)| heard.elapsed() > AGAIN) {
            // The answer's `Date` is what counts.
            let _ = client.apiserver_version().await;
        }
    }

    /// Whether the wall clock is the API server's, or there is none to compare it with.
    pub fn agrees(&self) -> bool {
        let last = *self.last();
        last.is_none_or(|(date, heard)| agree(date, heard.elapsed(), Timestamp::now()))
    }

    /// The later of this machine's time and the API server's: what counts from here is over for both.
    pub fn latest(&self, now: Timestamp) -> Timestamp {
        let last = *self.last();
        last.map_or(now, |(date, heard)| later(date, heard.elapsed(), now))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Timestamp, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a wall clock says what an API server's must say by now, which said `date` so long ago.
fn agree(date: Timestamp, ago: Duration, now: Timestamp) -> bool {
    now.duration_since(date)
        .checked_sub(jiff::SignedDuration::try_from(ago).unwrap_or_default())
        .is_some_and(|ahead| ahead.unsigned_abs() <= TOLERANCE)
}

/// The later of a wall clock's time and that of an API server, which said `date` so long ago.
fn later(date: Timestamp, ago: Duration, now: Timestamp) -> Timestamp {
    let ago = jiff::SignedDuration::try_from(ago).unwrap_or_default();
    date.checked_add(ago).map_or(now, |servers| servers.max(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The wall clock agrees exactly while it has gone on as the monotonic one has, from where the server's was.
        #[test]
        fn a_clock_that_jumped_does_not_agree(date in 0i64..4_000_000_000, ago in 0u64..1_000_000, jump in -200_000i64..200_000) {
            let now = Timestamp::from_second(date + i64::try_from(ago).unwrap() + jump).unwrap();
            let date = Timestamp::from_second(date).unwrap();
            prop_assert_eq!(agree(date, Duration::from_secs(ago), now), jump.unsigned_abs() <= 30);
        }

        /// Whichever of two clocks is behind, what begins now does not begin in its past.
        #[test]
        fn the_later_of_two_clocks_counts(date in 0i64..4_000_000_000, ago in 0u64..1_000_000, now in 0i64..4_000_000_000) {
            let servers = date + i64::try_from(ago).unwrap();
            let at = |second| Timestamp::from_second(second).unwrap();
            prop_assert_eq!(later(at(date), Duration::from_secs(ago), at(now)), at(servers.max(now)));
        }
    }
}
