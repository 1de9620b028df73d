//! Conditions of a claim: each wait has a reason that an operator can read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The address is bound and can be used; when `False`, the reason says what it waits for.
pub const READY: &str = "Ready";
/// `kubectl delete` was asked for while the pod lives; the address is freed when the pod is gone.
pub const DELETION_PENDING_IN_USE: &str = "DeletionPendingInUse";

/// Reasons of [`READY`] being `False`.
pub mod reason {
    /// The pod has no node yet.
    pub const WAITING_FOR_NODE: &str = "WaitingForNode";
    /// The former holder of the address has not been seen detached.
    pub const WAITING_FOR_DETACH: &str = "WaitingForDetach";
    /// No address is free; the message has the counts.
    pub const POOL_EXHAUSTED: &str = "PoolExhausted";
    /// The nominated address is taken or in no subnet of ours.
    pub const ADDRESS_CONFLICT: &str = "AddressConflict";
    /// The VPC's or the machine's limit of ENIs is reached.
    pub const ENI_LIMIT: &str = "ENILimit";
    /// The cloud answered with an error; the message has its words.
    pub const CLOUD_ERROR: &str = "CloudError";
    /// The pod's node has no `NodeENIConfig` yet.
    pub const NODE_UNKNOWN: &str = "NodeUnknown";
    /// The pod is gone.
    pub const NO_POD: &str = "NoPod";
    /// All is well.
    pub const BOUND: &str = "Bound";
}

/// Sets a condition. The time of the last transition moves only when the status does; returns whether
/// anything changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    now: Time,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
) -> bool {
    let status = if status { "True" } else { "False" };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) if old.status == status && old.reason == reason && old.message == message => false,
        Some(old) => {
            if old.status != status {
                old.last_transition_time = now;
            }
            old.status = status.to_owned();
            old.reason = reason.to_owned();
            old.message = message.to_owned();
            true
        }
        None => {
            conditions.push(Condition {
                last_transition_time: now,
                message: message.to_owned(),
                observed_generation: None,
                reason: reason.to_owned(),
                status: status.to_owned(),
                type_: type_.to_owned(),
            });
            true
        }
    }
}
