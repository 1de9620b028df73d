//! Versions of the CNI specification.

use std::fmt;

use crate::error::{CniError, code};

/// A version of the specification that the plugin speaks, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// No CHECK; `ips[].version` in results.
    V0_3_1,
    /// Adds CHECK.
    V0_4_0,
    /// `ips[].version` is gone.
    V1_0_0,
    /// Adds GC and STATUS; `interfaces[].mtu`, `routes[].mtu` and others in results.
    V1_1_0,
}

impl SpecVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// As it is written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Every version as it is written in `supportedVersions`.
    pub fn supported() -> [&'static str; 4] {
        Self::ALL.map(Self::as_str)
    }

    /// Reads `cniVersion`. Fails with [`code::INCOMPATIBLE_VERSION`] and the list of versions.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            CniError::new(code::INCOMPATIBLE_VERSION, format!("cniVersion {text:?} is not supported"))
                .details(format!("use one of {}", Self::supported().join(", ")))
        })
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
