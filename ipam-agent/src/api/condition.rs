//! Conditions of a claim: each wait has a reason that an operator can read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The address is bound and can be used; when `False`, the reason says what it waits for.
pub const READY: &str = "Ready";
/// `kubectl delete` was asked for while the pod lives; the address is freed when the pod is gone.
pub const DELETION_PENDING_IN_USE: &str = "DeletionPendingInUse";

/// Of a `NodeENIConfig`: whether the subnets of the node's ENIs are configured.
pub const SUBNETS_CONFIGURED: &str = "SubnetsConfigured";

/// Reasons of [`READY`] being `False`, and of other conditions.
pub mod reason {
    /// Of a `NodeENIConfig`: the node has got every ENI that it needed.
    pub const ENIS_READY: &str = "ENIsReady";
    /// A subnet with ENIs or addresses of ours is not configured any more.
    pub const SUBNET_REMOVED: &str = "SubnetRemoved";
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
    /// An ENI did not arrive at its machine.
    pub const ENI_STUCK: &str = "ENIStuck";
    /// The cloud answered with an error; the message has its words.
    pub const CLOUD_ERROR: &str = "CloudError";
    /// The pod's node has no `NodeENIConfig` yet.
    pub const NODE_UNKNOWN: &str = "NodeUnknown";
    /// The pod is gone.
    pub const NO_POD: &str = "NoPod";
    /// All is well.
    pub const BOUND: &str = "Bound";
}

/// What a claim can wait for: every reason of [`READY`] being `False`, and [`DELETION_PENDING_IN_USE`].
pub const WAITS: [&str; 9] = [
    reason::WAITING_FOR_NODE,
    reason::WAITING_FOR_DETACH,
    reason::POOL_EXHAUSTED,
    reason::ADDRESS_CONFLICT,
    reason::ENI_LIMIT,
    reason::CLOUD_ERROR,
    reason::NODE_UNKNOWN,
    reason::NO_POD,
    DELETION_PENDING_IN_USE,
];

/// What a claim with these conditions waits for.
pub fn waits(conditions: &[Condition]) -> impl Iterator<Item = &str> {
    conditions.iter().filter_map(|known| match (known.type_.as_str(), known.status.as_str()) {
        (READY, "False") => Some(known.reason.as_str()),
        (DELETION_PENDING_IN_USE, "True") => Some(DELETION_PENDING_IN_USE),
        _ => None,
    })
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
