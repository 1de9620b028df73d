//! What machines can take, by their type.

use std::sync::PoisonError;

use super::{Ec2, Form, wire::InstanceTypes};
use crate::cloud::{CloudError, CloudErrorKind, MachineLimits};

impl Ec2 {
    /// The limits of a type, asked for once.
    pub(super) async fn limits_of_type(&self, instance_type: &str) -> Result<MachineLimits, CloudError> {
        const ACTION: &str = "DescribeInstanceTypes";
        let known = || self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = known().get(instance_type) {
            return Ok(*limits);
        }
        let form = Form::default().with("InstanceType.1", instance_type);
        let types: InstanceTypes = self.client.read(ACTION, &form).await?;
        let info =
            types.instance_type_set.items.first().map(|it| &it.network_info).ok_or_else(|| CloudError {
                kind: CloudErrorKind::NotFound,
                action: ACTION,
                code: "InvalidInstanceType".into(),
                message: format!("EC2 knows no {instance_type}"),
                request_id: None,
            })?;
        // EC2 counts the primary ENI, and the primary address of each.
        let limits = MachineLimits {
            max_enis: info.enis_of_first_card().saturating_sub(1),
            max_ips_per_eni: info.ipv4_addresses_per_interface.saturating_sub(1),
        };
        known().insert(instance_type.to_owned(), limits);
        Ok(limits)
    }
}
