//! What the services refuse with: a code that clients match on, a message for people, an HTTP status.

use std::borrow::Cow;

/// A refusal as AWS words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AwsError {
    /// What clients match on.
    pub code: Cow<'static, str>,
    /// What people read.
    pub message: String,
    /// The status of the answer.
    pub status: u16,
}

/// A refusal with status 400.
pub(crate) fn refuse(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> AwsError {
    AwsError { code: code.into(), message: message.into(), status: 400 }
}

/// A refusal with another status.
pub(crate) fn refuse_with(status: u16, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> AwsError {
    AwsError { code: code.into(), message: message.into(), status }
}

/// EC2's general complaint about a value.
pub(crate) fn bad_value(value: &str, name: &str) -> AwsError {
    refuse("InvalidParameterValue", format!("Value ({value}) for parameter {name} is invalid."))
}
