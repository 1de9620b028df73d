//! One attempt at a change: the calls it takes, and how its end is seen.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use tokio::time::{sleep, sleep_until};

use super::wire::{Attached, AttachmentStatus, Done, Eni, Enis};
use super::{CloudApi as _, Ec2, Form, code};
use crate::cloud::remote::{Outcome, Window, timeout};
use crate::cloud::{CloudError, CloudErrorKind, Goal};

/// Places on a machine that are tried in one attempt: others may be at it.
const PLACES: usize = 4;
/// ENIs that one page may have, at most; EC2 may give fewer.
const PAGE: u32 = 1000;

impl Ec2 {
    /// The ENIs that fit all filters.
    pub(super) async fn enis(&self, filters: &[(&str, &[&str])]) -> Result<Vec<Eni>, CloudError> {
        let mut enis = Vec::new();
        let mut token = String::new();
        loop {
            let mut form = Form::filters(filters).with("MaxResults", PAGE);
            if !token.is_empty() {
                form = form.with("NextToken", &token);
            }
            let page: Enis = self.client.read("DescribeNetworkInterfaces", &form).await?;
            enis.extend(page.network_interface_set.items);
            token = page.next_token;
            if token.is_empty() {
                return Ok(enis);
            }
        }
    }

    /// These ENIs, as far as they exist.
    pub(super) async fn by_ids(&self, ids: &[&str]) -> Result<Vec<Eni>, CloudError> {
        // By filter, not by `NetworkInterfaceId`: that makes an error of an id that does not exist.
        self.enis(&[("network-interface-id", ids)]).await
    }

    pub(super) async fn make(&self, goal: &Goal<'_>, window: Window) -> Result<Outcome, CloudError> {
        let action = Self::action(goal);
        let of = |eni: &str| Form::default().with("NetworkInterfaceId", eni);
        let form = match *goal {
            Goal::Attached { eni, instance } => return self.attach(eni, instance, window).await,
            Goal::Detached { eni, instance } => return self.detach(eni, instance).await,
            Goal::Moved { from, to, ip } => return self.move_ip(from, to, ip, window).await,
            Goal::Deleted { eni } => of(eni),
            Goal::Holds { eni, ips } | Goal::Lacks { eni, ips } if goal.is_ipv6() => {
                of(eni).list("Ipv6Addresses", ips)
            }
            Goal::Holds { eni, ips } | Goal::Lacks { eni, ips } => of(eni).list("PrivateIpAddress", ips),
        };
        match goal {
            // Its answer lists addresses and has no `return`.
            Goal::Holds { .. } | Goal::Lacks { .. } if goal.is_ipv6() => {
                self.client.call::<super::wire::Head>(action, &form).await.map(drop)?;
            }
            _ => self.done(action, &form).await?,
        }
        Ok(Outcome::Done)
    }

    /// A call that says whether it was done.
    async fn done(&self, action: &'static str, form: &Form) -> Result<(), CloudError> {
        match self.client.call(action, form).await? {
            Done { is_done: true } => Ok(()),
            Done { is_done: false } => Err(CloudError {
                kind: CloudErrorKind::Unavailable,
                action,
                code: "NotDone".into(),
                message: "the answer says that it was not done".into(),
                request_id: None,
            }),
        }
    }

    /// Attaches the ENI at a place that is free, and waits until it is there.
    async fn attach(&self, eni: &str, instance: &str, window: Window) -> Result<Outcome, CloudError> {
        const ACTION: &str = "AttachNetworkInterface";
        let there = self.enis(&[("attachment.instance-id", &[instance])]).await?;
        let on_first_card = there.iter().filter_map(Eni::on_machine).filter(|it| it.network_card_index == 0);
        let mut taken: BTreeSet<u32> = on_first_card.map(|attachment| attachment.device_index).collect();
        let mut places = PLACES;
        let Attached { attachment_id } = loop {
            // Place 0 is the primary ENI's.
            let place = (1..).find(|place| !taken.contains(place)).unwrap_or(u32::MAX);
            let form = Form::default()
                .with("NetworkInterfaceId", eni)
                .with("InstanceId", instance)
                .with("DeviceIndex", place);
            places -= 1;
            match self.client.call(ACTION, &form).await {
                Err(error) if places > 0 && code::is_place_taken(&error.code, &error.message) => {
                    // The list lags behind.
                    taken.insert(place);
                }
                answer => break answer?,
            }
        };
        // No other attachment has this id, so that a list that lags shows it late and never wrongly.
        self.until(ACTION, &[eni], window, |enis| {
            enis.iter().filter_map(Eni::on_machine).any(|attachment| {
                attachment.attachment_id == attachment_id && attachment.status == AttachmentStatus::Attached
            })
        })
        .await
    }

    /// Begins to detach; the action wants to know the attachment.
    async fn detach(&self, eni: &str, instance: &str) -> Result<Outcome, CloudError> {
        const ACTION: &str = "DetachNetworkInterface";
        let there = self.by_ids(&[eni]).await?;
        let attachment = there.iter().filter_map(Eni::on_machine).find(|it| it.instance_id == instance);
        let Some(attachment) = attachment else { return Ok(Outcome::Accepted) };
        self.done(ACTION, &Form::default().with("AttachmentId", &attachment.attachment_id)).await?;
        Ok(Outcome::Accepted)
    }

    /// Moves an address. `AllowReassignment` takes it from whoever has it, so that is said only when the ENI has it that
    /// it shall leave. What is on neither ENI is assigned, and refused when somebody else has it.
    async fn move_ip(
        &self,
        from: &str,
        to: &str,
        ip: Ipv4Addr,
        window: Window,
    ) -> Result<Outcome, CloudError> {
        const ACTION: &str = "AssignPrivateIpAddresses";
        let is_there =
            |enis: &[Eni]| enis.iter().any(|eni| eni.network_interface_id == from && eni.has_secondary(ip));
        let mut leaves = is_there(&self.by_ids(&[from]).await?);
        if !leaves {
            sleep_until(window.settled).await;
            leaves = is_there(&self.by_ids(&[from]).await?);
        }
        let mut form = Form::default().with("NetworkInterfaceId", to).with("PrivateIpAddress.1", ip);
        if leaves {
            form = form.with("AllowReassignment", true);
        }
        self.done(ACTION, &form).await?;
        // Done later than it is answered. Here too: what lags shows it late.
        self.until(ACTION, &[from, to], window, |enis| {
            !is_there(enis) && enis.iter().any(|eni| eni.network_interface_id == to && eni.has_secondary(ip))
        })
        .await
    }

    /// Waits until a Describe shows what an accepted call comes to.
    async fn until(
        &self,
        action: &'static str,
        ids: &[&str],
        window: Window,
        shows: impl Fn(&[Eni]) -> bool,
    ) -> Result<Outcome, CloudError> {
        loop {
            if shows(&self.by_ids(ids).await?) {
                return Ok(Outcome::Done);
            }
            if window.is_over() {
                return Err(timeout(
                    action,
                    "the cloud accepted it and has not finished it; it may yet".into(),
                ));
            }
            sleep(self.client.pace.poll).await;
        }
    }
}
