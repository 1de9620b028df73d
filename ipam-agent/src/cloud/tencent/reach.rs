//! Making a change come true, whatever the way to the cloud does to questions and answers.
//!
//! Three things can be wrong at once: a call that reports an error may have happened; a Describe may show
//! things as they were a while ago; and what is asked for may be so already. So:
//!
//! * A call whose outcome is unknown is made again. It names everything it changes ([`Goal`]), so it cannot
//!   happen twice.
//! * A call that is **refused** may be refused because it happened before: a Describe that shows the goal
//!   makes it a success.
//! * A Describe alone is believed once it is younger than the change by [`Pace::settle`](super::Pace::settle):
//!   it then shows nothing from before our first attempt. No error is reported before one was looked at.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    client::Client,
    goal::Goal,
    wire::{Eni, Enis, Started, Task, TaskStatus},
};
use crate::cloud::{CloudError, CloudErrorKind};

/// The page size of DescribeNetworkInterfaces, and its largest.
const PAGE: u64 = 100;
/// A listing that changes while it is read is read again, so often.
const LISTINGS: u32 = 5;

impl Client {
    /// Makes the goal so.
    pub async fn reach(&self, goal: &Goal<'_>) -> Result<(), CloudError> {
        let began = Instant::now();
        let (settled, deadline) = (began + self.pace.settle, began + self.pace.deadline);
        let mut pauses = self.pace.pauses();
        let mut in_doubt = false;
        loop {
            let error = match self.attempt(goal, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::debug!(%error, ?goal, "cloud call failed");
            in_doubt |= error.kind == CloudErrorKind::Unavailable;
            let again = error.kind.is_transient() && Instant::now() < deadline;
            let so = match error.kind {
                CloudErrorKind::Unauthorized => false,
                kind if !kind.is_transient() => {
                    // The address may be taken by ourselves, the limit reached by our own earlier attempt.
                    let patient = in_doubt || kind == CloudErrorKind::AddressInUse;
                    self.shows(goal, if patient { settled } else { began }).await
                }
                _ => {
                    if !again {
                        sleep_until(settled).await;
                    }
                    Instant::now() >= settled && self.shows(goal, began).await
                }
            };
            match (so, again) {
                (true, _) => return Ok(()),
                (false, false) => return Err(error),
                (false, true) => sleep(pauses.next().unwrap_or(self.pace.backoff.1)).await,
            }
        }
    }

    /// One call, and the end of the task it starts.
    async fn attempt(&self, goal: &Goal<'_>, deadline: Instant) -> Result<(), CloudError> {
        let Started { request_id } = self.call(goal.action(), &goal.params()).await?;
        let fail = |code: &str, message: String| CloudError {
            kind: CloudErrorKind::Unavailable,
            action: goal.action(),
            code: code.into(),
            message,
            request_id: Some(request_id.clone()),
        };
        loop {
            match self.read::<Task>("DescribeVpcTaskResult", &json!({ "TaskId": request_id })).await {
                Ok(Task { status: TaskStatus::Success, .. }) => return Ok(()),
                Ok(Task { status: TaskStatus::Failed, output }) => {
                    return Err(fail("FailedOperation.TaskFailed", output.unwrap_or_default()));
                }
                Ok(Task { status: TaskStatus::Running, .. }) => {}
                // The call was answered at once, with no task: then what it should do is all there is to see.
                Err(error) if error.kind == CloudErrorKind::NotFound => {
                    if self.shows(goal, Instant::now()).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(fail("Timeout", format!("still running after {:?}", self.pace.deadline)));
            }
            sleep(self.pace.poll).await;
        }
    }

    /// Whether a Describe shows the goal, looked at until then. An unreadable Describe shows nothing.
    async fn shows(&self, goal: &Goal<'_>, until: Instant) -> bool {
        loop {
            match self.enis_by_id(&goal.enis()).await {
                Ok(enis) if goal.is_reached(&enis) => return true,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot read back"),
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(self.pace.poll.max(Duration::from_millis(1))).await;
        }
    }

    /// These ENIs, as far as they exist.
    pub async fn enis_by_id(&self, ids: &[&str]) -> Result<Vec<Eni>, CloudError> {
        // By filter, not by `NetworkInterfaceIds`: that makes an error of an id that does not exist.
        self.enis(&[("network-interface-id", ids)]).await
    }

    /// The ENIs that fit all filters: every page of the list, and nothing but one list.
    pub async fn enis(&self, filters: &[(&str, &[&str])]) -> Result<Vec<Eni>, CloudError> {
        const ACTION: &str = "DescribeNetworkInterfaces";
        let filters: Vec<_> =
            filters.iter().map(|(name, values)| json!({ "Name": name, "Values": values })).collect();
        for _ in 0..LISTINGS {
            let mut enis: Vec<Eni> = Vec::new();
            let mut total = None;
            loop {
                let params = json!({ "Filters": filters, "Offset": enis.len(), "Limit": PAGE });
                let page: Enis = self.read(ACTION, &params).await?;
                let stands = *total.get_or_insert(page.total_count) == page.total_count;
                let ended = page.network_interface_set.is_empty();
                enis.extend(page.network_interface_set);
                if !stands || ended || enis.len() as u64 >= page.total_count {
                    break;
                }
            }
            let count = enis.len() as u64;
            enis.sort_by(|a, b| a.network_interface_id.cmp(&b.network_interface_id));
            enis.dedup_by(|a, b| a.network_interface_id == b.network_interface_id);
            // An ENI that came or went between two pages moves another one over the edge: seen twice, or never.
            if total == Some(count) && enis.len() as u64 == count {
                return Ok(enis);
            }
            sleep(self.pace.poll).await;
        }
        Err(CloudError {
            kind: CloudErrorKind::Unavailable,
            action: ACTION,
            code: "Decode".into(),
            message: format!("the list changed between its pages, {LISTINGS} times in a row"),
            request_id: None,
        })
    }
}
