//! Making a change come true, whatever the way to the cloud does to questions and answers.
//!
//! Three things can be wrong at once: a call that reports an error may have happened; a Describe may show
//! things as they were a while ago; and what is asked for may be so already. So:
//!
//! * A call whose outcome is unknown is made again. It names everything it changes ([`Goal`]), so it cannot
//!   happen twice: the second time it is refused.
//! * No refusal is reported before a Describe was looked at: what it shows to be so is a success.
//! * A Describe is believed [`Pace::settle`](super::Pace::settle) after the change began, and no sooner: only
//!   then does it show nothing from before our first attempt. (An address that went from one ENI to another and
//!   is to go back looks, in an old Describe, as if it were back; one just assigned, as if unassigned.)

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
const TIMEOUT: &str = "Timeout";

impl Client {
    /// Makes the goal so.
    pub async fn reach(&self, goal: &Goal<'_>) -> Result<(), CloudError> {
        let began = Instant::now();
        let (settled, deadline) = (began + self.pace.settle, began + self.pace.deadline);
        let mut pauses = self.pace.pauses();
        let mut before = None;
        loop {
            let error = match self.attempt(goal, settled, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::debug!(%error, ?goal, "cloud call failed");
            // An attempt that the deadline cut short says less than the one before it.
            let error = before.filter(|_| error.code == TIMEOUT).unwrap_or(error);
            let again = error.kind.is_transient() && Instant::now() < deadline;
            if error.kind == CloudErrorKind::Unauthorized {
                return Err(error);
            }
            if !again {
                sleep_until(settled).await;
            }
            if Instant::now() >= settled && self.shows(goal).await {
                return Ok(());
            }
            if !again {
                return Err(error);
            }
            before = Some(error);
            sleep(pauses.next().unwrap_or(self.pace.backoff.1)).await;
        }
    }

    /// One call, and the end of the task it starts.
    async fn attempt(&self, goal: &Goal<'_>, settled: Instant, deadline: Instant) -> Result<(), CloudError> {
        let Started { request_id } = self.call(goal.action(), &goal.params()).await?;
        if self.ended(goal.action(), &request_id, deadline).await? {
            return Ok(());
        }
        // There is no such task, though the call was answered: what came of it is all there is to see.
        loop {
            if Instant::now() >= settled && self.shows(goal).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(timeout(goal.action(), &request_id));
            }
            sleep(self.pace.poll).await;
        }
    }

    /// Waits for a task's end. False when there is no such task.
    pub async fn ended(
        &self,
        action: &'static str,
        request_id: &str,
        deadline: Instant,
    ) -> Result<bool, CloudError> {
        loop {
            match self.read::<Task>("DescribeVpcTaskResult", &json!({ "TaskId": request_id })).await {
                Ok(Task { status: TaskStatus::Success, .. }) => return Ok(true),
                Ok(Task { status: TaskStatus::Failed, output }) => {
                    return Err(CloudError {
                        kind: CloudErrorKind::Unavailable,
                        action,
                        code: "FailedOperation.TaskFailed".into(),
                        message: output.unwrap_or_default(),
                        request_id: Some(request_id.into()),
                    });
                }
                Ok(Task { status: TaskStatus::Running, .. }) => {}
                Err(error) if error.kind == CloudErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(timeout(action, request_id));
            }
            sleep(self.pace.poll).await;
        }
    }

    /// Whether a Describe shows the goal. An unreadable one shows nothing.
    async fn shows(&self, goal: &Goal<'_>) -> bool {
        match self.enis_by_id(&goal.enis()).await {
            Ok(enis) => goal.is_reached(&enis),
            Err(error) => {
                tracing::debug!(%error, ?goal, "cannot read back");
                false
            }
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

fn timeout(action: &'static str, request_id: &str) -> CloudError {
    CloudError {
        kind: CloudErrorKind::Unavailable,
        action,
        code: TIMEOUT.into(),
        message: "the cloud accepted it and has not finished it; it may yet".into(),
        request_id: Some(request_id.into()),
    }
}
