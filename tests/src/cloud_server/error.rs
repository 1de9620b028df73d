//! A refusal in the API's words.

/// `Response.Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Such as `ResourceNotFound`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// A refusal.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}
