//! The right to write, until a moment.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The right to write is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not hold the lease any more, so it writes nothing")]
pub struct Over;

/// The right to write, until a moment. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Term {
    /// On the clock of [`now`], in nanoseconds.
    until: Arc<AtomicU64>,
}

impl Term {
    /// Whether it lasts.
    pub fn holds(&self) -> bool {
        !self.left().is_zero()
    }

    /// How much of it is left.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::SeqCst)).saturating_sub(now())
    }

    /// It lasts until then, on the clock of [`now`].
    pub(super) fn extend(&self, until: Duration) {
        self.until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// It is over.
    pub fn end(&self) {
        self.extend(Duration::ZERO);
    }

    /// Completes when it is over.
    pub async fn over(&self) {
        while self.holds() {
            tokio::time::sleep(self.left()).await;
        }
    }

    /// Goes on with `work` only as long as the term lasts: not one step of it is taken after that.
    ///
    /// # Errors
    /// The term was over before the work was done.
    pub async fn guard<Work: Future>(&self, work: Work) -> Result<Work::Output, Over> {
        let mut work = pin!(work);
        poll_fn(|context| match self.holds() {
            true => work.as_mut().poll(context).map(Ok),
            false => Poll::Ready(Err(Over)),
        })
        .await
    }
}

/// Time since the machine was started, the time that it slept included: a lease that ran out meanwhile is over.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is ever negative.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test]
    async fn no_step_is_taken_when_it_is_over() {
        let term = Term::default();
        let stepped = AtomicBool::new(false);
        let work = async || stepped.store(true, Ordering::SeqCst);
        assert_eq!(term.guard(work()).await, Err(Over));
        assert!(!stepped.load(Ordering::SeqCst));
        term.extend(now() + Duration::from_secs(60));
        assert_eq!(term.guard(work()).await, Ok(()));
        assert!(stepped.swap(false, Ordering::SeqCst));

        // What waits does not go on when the term has ended meanwhile.
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let guarded = {
            let (term, stepped) = (term.clone(), &stepped);
            async move {
                term.guard(async {
                    let _ = wait.await;
                    stepped.store(true, Ordering::SeqCst);
                })
                .await
            }
        };
        let ended = async {
            tokio::task::yield_now().await;
            term.end();
            let _ = go.send(());
        };
        assert_eq!(tokio::join!(guarded, ended).0, Err(Over));
        assert!(!stepped.load(Ordering::SeqCst));
        term.over().await;
    }
}
