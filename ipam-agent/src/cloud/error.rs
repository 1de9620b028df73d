//! What a cloud refuses, in kinds that the controller can act on.

/// An error of the cloud, or of the way to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {code}: {message}{}", request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default())]
pub struct CloudError {
    /// What the controller can make of it.
    pub kind: CloudErrorKind,
    /// The action that was asked for, such as `AttachNetworkInterface`.
    pub action: &'static str,
    /// The cloud's own code, or `Transport`, `Decode` or `Timeout` when no answer could be read.
    pub code: String,
    /// The cloud's own words.
    pub message: String,
    /// The cloud's name for the request, for its support.
    pub request_id: Option<String>,
}

impl CloudError {
    /// The error without the request's name: the same as long as the cloud says the same.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{}: {}: {}", self.action, self.code, self.message)
    }
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloudErrorKind {
    /// Too many calls: ask again later.
    Throttled,
    /// No answer, a torn one, a 5xx, or a task still running: ask again later. The call may have happened.
    Unavailable,
    /// The VPC's or the machine's number of ENIs is reached.
    EniLimit,
    /// The ENI's number of addresses is reached.
    IpLimit,
    /// The subnet has no free address.
    SubnetExhausted,
    /// The address is taken by something else.
    AddressInUse,
    /// The ENI, subnet, address or machine does not exist.
    NotFound,
    /// The credentials may not do this, or the signature is wrong.
    Unauthorized,
    /// The cloud calls the request itself wrong; asking again will not help.
    Invalid,
}

impl CloudErrorKind {
    /// Whether the same call may succeed later with nothing changed on our side.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable)
    }
}

/// A provider's configuration that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {field} = {value:?}: {problem}")]
pub struct ConfigError {
    /// The file, or the provider when the value came from the command line.
    pub origin: String,
    /// The field, such as `eni[2].mac`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}
