//! What goes on behind an answer: tasks until they end, and lists in pages.

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    client::Client,
    wire::{Eni, Enis, Task, TaskStatus},
};
use crate::cloud::{CloudError, CloudErrorKind};

/// The page size of DescribeNetworkInterfaces, and its largest.
const PAGE: u64 = 100;
/// A listing that changes while it is read is read again, so often.
const LISTINGS: u32 = 5;

impl Client {
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
                return Err(CloudError {
                    kind: CloudErrorKind::Unavailable,
                    action,
                    code: "Timeout".into(),
                    message: "the cloud accepted it and has not finished it; it may yet".into(),
                    request_id: Some(request_id.into()),
                });
            }
            sleep(self.pace.poll).await;
        }
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
