//! The error of a command.

use crate::client::ClientError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The call to the server failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The user asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The program that reads stdout has closed it.
    #[error("stdout is closed")]
    BrokenPipe,
    /// The server has the job, but not that of it which was asked for.
    #[error("{0}")]
    Missing(String),
    /// What the command waited for has not happened within the given time.
    #[error("{0}")]
    Unfinished(String),
    /// Something on this side of the connection failed.
    #[error("{message}")]
    Local {
        /// What failed, and what the user can do.
        message: String,
        /// The error below, mostly the system's.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CliError {
    /// Turns a failed write to stdout into an error. A closed pipe becomes [`CliError::BrokenPipe`].
    pub(super) fn write(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            CliError::BrokenPipe
        } else {
            CliError::local("couldn't write to stdout", error)
        }
    }

    /// Makes the error of a failure on this side of the connection.
    pub(super) fn local(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        CliError::Local { message: message.into(), source: source.into() }
    }
}
