//! Errors of a reconciler. All are retried; the kind says how soon.

use crate::cloud::CloudError;

/// Why a reconciler could not take its step.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API refused, or could not be reached.
    #[error("{action}")]
    Api {
        /// What was asked for, such as `update status of VpcIP 10.0.1.7`.
        action: String,
        /// The API's answer.
        #[source]
        source: kube::Error,
    },
    /// The cloud refused, or could not be reached.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The objects of this process's caches are not there yet.
    #[error("caches are not ready: the watch has ended")]
    Caches,
}

impl ReconcileError {
    /// Whether somebody else wrote first: the decision was made on old facts, so decide again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.code == 409)
    }
}
