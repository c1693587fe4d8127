//! What a cloud can answer instead of what was asked, by what the caller can do about it.

use thiserror::Error;

/// A failed call to a cloud.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CloudError {
    /// No answer, or an answer that says nothing: the effect may or may not have happened. Ask again.
    #[error("the cloud did not answer: {0}")]
    Unavailable(String),
    /// Too many calls; ask later.
    #[error("the cloud asks for fewer calls: {0}")]
    Throttled(String),
    /// What was named does not exist. Deletions never answer this: gone is what they wanted.
    #[error("not found: {0}")]
    NotFound(String),
    /// The state of what was named forbids the call; it may come to allow it.
    #[error("refused in this state: {0}")]
    Conflict(String),
    /// No capacity, address or quota is left.
    #[error("exhausted: {0}")]
    Exhausted(String),
    /// The request can never be granted as it is.
    #[error("invalid request: {0}")]
    Invalid(String),
}

impl CloudError {
    /// Whether asking again unchanged can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }
}

/// Answer of a cloud.
pub type CloudResult<T> = Result<T, CloudError>;
