//! What can go wrong, one variant per kind of step.

use std::path::PathBuf;
use thiserror::Error;
use timonel_cloud_core::CloudError;

/// A failed step of the local cloud.
#[derive(Debug, Error)]
pub enum LocalError {
    /// The configuration cannot be used.
    #[error("the local cloud's configuration: {0}")]
    Config(String),
    /// Something that the machine lacks.
    #[error("{0}")]
    Missing(String),
    /// Another process has the data directory.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// A file or kernel interface.
    #[error("{what}: {path}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A record that cannot be read back; it is never overwritten.
    #[error("the record {path} is damaged; move it away to go on without it")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A command that failed.
    #[error("{command} failed: {message}")]
    Command {
        /// The command with its arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// The key that signs identity documents.
    #[error("the identity key: {0}")]
    Key(String),
}

impl LocalError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// The same for calls that answer with a bare error number.
    pub(crate) fn errno(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { what, path, source: errno.into() }
    }
}

impl From<LocalError> for CloudError {
    fn from(error: LocalError) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        match error {
            LocalError::Config(_) => Self::Invalid(text),
            _ => Self::Unavailable(text),
        }
    }
}
