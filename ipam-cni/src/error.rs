//! Errors of the CNI specification.

use serde::{Deserialize, Serialize};

/// Codes of CNI specification 1.1.0 that this plugin uses.
pub mod code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// Unsupported field in the network configuration.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// Container unknown or does not exist: the runtime need not call DEL.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// Invalid necessary environment variables.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// I/O failure.
    pub const IO: u32 = 5;
    /// Content that cannot be decoded.
    pub const DECODE: u32 = 6;
    /// Invalid network configuration.
    pub const INVALID_CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// The plugin is not available: it cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// As 50, and the connectivity of existing containers may be limited.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// Ours: the interface exists already in the container.
    pub const INTERFACE_EXISTS: u32 = 100;
    /// Ours: CHECK found something that is not as it should be.
    pub const CHECK_FAILED: u32 = 101;
    /// Ours: the kernel refused.
    pub const KERNEL: u32 = 102;
    /// Ours: a bug, or a state that should not be.
    pub const INTERNAL: u32 = 199;
}

/// An error as the specification wants it on standard output, `cniVersion` aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(": {details}") })]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong, in one line.
    pub msg: String,
    /// The cause, and what to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// Adds the cause, and what to do about it.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}
