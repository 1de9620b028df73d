//! The objects operators see: three custom resources, the annotations that pods carry, and conditions.
//!
//! * [`VpcIPClaim`] (`vipc`): a pod's need for an address and what happens to it afterwards.
//! * [`VpcIP`] (`vip`): an address that is taken. Its name is the address, so creating it is the lock.
//! * [`NodeENIConfig`] (`nec`): a node's limits and its ENIs.
//!
//! In all of them `spec` is what is wanted and `status` what the controller has decided and seen.

pub mod annotations;
pub mod claim;
pub mod condition;
pub mod fencing;
pub mod node_eni_config;
pub mod pod;
pub mod scheduling;
pub mod vpc_ip;

pub use claim::{
    Afterwards, ClaimPhase, DeletePolicy, OwnerWorkload, VpcIPClaim, VpcIPClaimSpec, VpcIPClaimStatus,
};
pub use fencing::Fencing;
pub use node_eni_config::{
    EniState, EniStatus, MachineStatus, NodeENIConfig, NodeENIConfigSpec, NodeENIConfigStatus, WarmSpec,
};
pub use vpc_ip::{CHOSEN_ENI, ClaimRef, Detached, IpPhase, VpcIP, VpcIPSpec, VpcIPStatus, VpcIPType};

/// API group of the custom resources, also the prefix of our annotations, labels and finalizers.
pub const GROUP: &str = "eni-ipam.dev";

/// Finalizer of a claim: held while the address is in use, so that `kubectl delete vipc` of a live pod
/// waits for the pod.
pub const IN_USE_FINALIZER: &str = "eni-ipam.dev/in-use";

/// Annotation of a claim that is being deleted: its value is the UID of the pod that loses its address although it
/// lives. Any other value does nothing, so that a command meant for one pod cannot hit its successor.
pub const FORCE_RELEASE: &str = "eni-ipam.dev/force-release";
