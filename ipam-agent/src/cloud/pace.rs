//! How fast, how often and how long a cloud is asked.

use std::{num::NonZeroU32, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};
use governor::{DefaultKeyedRateLimiter, Jitter, Quota, RateLimiter};

use super::CloudError;

/// How fast, how often and how long the cloud is asked.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The longest wait for one answer.
    pub call: Duration,
    /// Between two looks at what has begun and not ended.
    pub poll: Duration,
    /// The longest that a Describe may lag behind what was done before it.
    pub settle: Duration,
    /// The longest that one change may take, retries and waits included.
    pub deadline: Duration,
    /// First and longest pause between two attempts; it doubles, with jitter.
    pub backoff: (Duration, Duration),
    /// Calls a second of each action. Tencent Cloud allows 20 of most (100 of the ENI ones) to an account; EC2 allows 20
    /// of what changes nothing, and a quarter of that of what does.
    pub qps: NonZeroU32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(10),
            poll: Duration::from_millis(500),
            settle: Duration::from_secs(3),
            deadline: Duration::from_secs(90),
            backoff: (Duration::from_millis(200), Duration::from_secs(5)),
            qps: NonZeroU32::new(20).expect("20 is not 0"),
        }
    }
}

impl Pace {
    /// The pauses between attempts, without end.
    pub fn pauses(&self) -> ExponentialBackoff {
        self.exponential().without_max_times().build()
    }

    /// Asks for something that changes nothing, again and again while the error is a passing one.
    pub async fn insist<T, F>(&self, call: impl FnMut() -> F) -> Result<T, CloudError>
    where
        F: Future<Output = Result<T, CloudError>>,
    {
        call.retry(self.exponential().with_max_times(6).with_total_delay(Some(self.deadline)))
            .when(|error| error.kind.is_transient())
            .await
    }

    fn exponential(&self) -> ExponentialBuilder {
        let (first, longest) = self.backoff;
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).with_jitter()
    }
}

/// Keeps the calls of each action to a quota.
pub struct Limiter(DefaultKeyedRateLimiter<&'static str>);

impl Limiter {
    pub fn new(quota: Quota) -> Self {
        Self(RateLimiter::keyed(quota))
    }

    /// Waits until the action may be called.
    pub async fn wait(&self, action: &'static str) {
        let spread = Jitter::up_to(Duration::from_millis(5));
        self.0.until_key_ready_with_jitter(&action, spread).await;
    }
}
