//! Making a change come true, whatever the way to the cloud does to questions and answers.
//!
//! Three things can be wrong at once: a call that reports an error may have happened; a Describe may show
//! things as they were a while ago; and what is asked for may be so already. So:
//!
//! * A call whose outcome is unknown is made again. It names everything it changes ([`Goal`]), so it cannot
//!   happen twice: the second time it is refused.
//! * No refusal is reported before a Describe was looked at: what it shows to be so is a success.
//! * A Describe is believed [`Pace::settle`](crate::cloud::Pace::settle) after the change began, and no sooner: only
//!   then does it show nothing from before our first attempt. Before a refusal is reported, it is that long since the
//!   last attempt that may have happened, for the refusal may be its doing. (An address that went from one ENI to another and
//!   is to go back looks, in an old Describe, as if it were back; one just assigned, as if unassigned.)

use tokio::time::{Instant, sleep, sleep_until};

use super::{CloudApi, Outcome, Remote, TIMEOUT, Which, Window, timeout};
use crate::cloud::{CloudError, CloudErrorKind, goal::Goal};

impl<A: CloudApi> Remote<A> {
    /// Makes the goal so.
    pub(super) async fn reach(&self, goal: &Goal<'_>) -> Result<(), CloudError> {
        let pace = self.api.pace();
        let window = Window::new(pace);
        let mut pauses = pace.pauses();
        let mut before = None;
        let mut last_unknown = Instant::now();
        loop {
            let error = match self.attempt(goal, window).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::debug!(%error, ?goal, "cloud call failed");
            // An attempt that the deadline cut short says less than the one before it.
            let error = before.filter(|_| error.code == TIMEOUT).unwrap_or(error);
            let again = error.kind.is_transient() && !window.is_over();
            if error.kind == CloudErrorKind::Unauthorized {
                return Err(error);
            }
            if error.kind.is_transient() {
                last_unknown = Instant::now();
            }
            if !again {
                sleep_until(last_unknown + pace.settle).await;
            }
            if window.is_settled() && self.shows(goal).await {
                return Ok(());
            }
            if !again {
                return Err(error);
            }
            before = Some(error);
            sleep(pauses.next().unwrap_or(pace.backoff.1)).await;
        }
    }

    /// One call, and the end of what it starts.
    async fn attempt(&self, goal: &Goal<'_>, window: Window) -> Result<(), CloudError> {
        if self.api.attempt(goal, window).await? == Outcome::Done {
            return Ok(());
        }
        loop {
            if window.is_settled() && self.shows(goal).await {
                return Ok(());
            }
            if window.is_over() {
                let message = "the cloud accepted it and has not finished it; it may yet";
                return Err(timeout(A::action(goal), message.into()));
            }
            sleep(self.api.pace().poll).await;
        }
    }

    /// Whether a Describe shows the goal. An unreadable one shows nothing.
    async fn shows(&self, goal: &Goal<'_>) -> bool {
        match self.api.describe(Which::Ids(&goal.enis())).await {
            Ok(enis) => goal.is_reached(&enis),
            Err(error) => {
                tracing::debug!(%error, ?goal, "cannot read back");
                false
            }
        }
    }
}
