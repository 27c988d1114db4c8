//! Why a command did not do what it was asked.

use crate::client::ClientError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The call to the server failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Whoever read stdout has had enough.
    #[error("stdout is closed")]
    BrokenPipe,
    /// What was waited for has not happened in the time given.
    #[error("{0}")]
    Unfinished(String),
    /// Something on this side of the connection failed.
    #[error("{message}")]
    Local {
        /// What, and what to do.
        message: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CliError {
    /// A failure to write to stdout.
    pub(super) fn write(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            CliError::BrokenPipe
        } else {
            CliError::local("couldn't write to stdout", error)
        }
    }

    /// A failure on this side of the connection.
    pub(super) fn local(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        CliError::Local { message: message.into(), source: source.into() }
    }
}
