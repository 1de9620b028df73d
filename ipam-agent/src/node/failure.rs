//! Errors of the agent's parts, as the plugin and the runtime shall see them.

use ipam_cni::error::{CniError, code};

use crate::{
    dataplane::DataplaneError,
    netlink::{NetlinkError, sysctl::SysctlError},
    node::journal::JournalError,
};

/// An error that a CNI call can end with.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refused a sysctl.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The dataplane refused.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The API refused.
    #[error("API: {0}")]
    Api(#[from] kube::Error),
    /// Anything that has its code already.
    #[error(transparent)]
    Cni(#[from] CniError),
}

impl From<Failure> for CniError {
    fn from(failure: Failure) -> Self {
        let details = failure.to_string();
        match failure {
            Failure::Cni(error) => error,
            Failure::Netlink(_) | Failure::Sysctl(_) | Failure::Dataplane(_) => {
                Self::new(code::KERNEL, "the kernel refused").details(details)
            }
            Failure::Journal(_) => {
                Self::new(code::IO, "the node agent cannot write its journal").details(details)
            }
            Failure::Api(_) => Self::new(code::TRY_AGAIN_LATER, "the API cannot be used").details(details),
        }
    }
}
