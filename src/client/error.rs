//! Why a call to the server failed: a kind to decide on, a message and a hint for people.

use crate::wire::Problem;

/// The kinds of error between which a caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientErrorKind {
    /// No server answers at the address, or it has stopped answering.
    Unreachable,
    /// There is no such job or worker.
    NotFound,
    /// The state of the job or the queue does not allow it: a job that has ended can't be cancelled, for instance.
    Conflict,
    /// No token, or not the right one.
    Auth,
    /// The request itself is wrong. The server will refuse the same one again.
    Rejected,
    /// The server could not do its work, or the program that answers is no Jobber.
    Server,
}

/// Why a call to the server failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// The kind, by which a caller decides what to do.
    pub kind: ClientErrorKind,
    /// The server's own description of the problem, if it sent one.
    pub problem: Option<Box<Problem>>,
    /// What the user can do about it.
    pub hint: Option<String>,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ClientError {
    /// Makes an error that did not come from the server.
    pub(crate) fn new(kind: ClientErrorKind, message: impl Into<String>) -> Self {
        Self { kind, problem: None, hint: None, message: message.into(), source: None }
    }

    /// Adds what the user can do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Makes an error of the server's refusal. Its status decides the kind.
    pub(super) fn refused(problem: Problem) -> Self {
        let kind = match problem.status {
            401 | 403 => ClientErrorKind::Auth,
            404 => ClientErrorKind::NotFound,
            409 => ClientErrorKind::Conflict,
            400..=499 => ClientErrorKind::Rejected,
            _ => ClientErrorKind::Server,
        };
        let mut message = if problem.detail.is_empty() { problem.title.clone() } else { problem.detail.clone() };
        for field in problem.errors.iter().filter(|field| !problem.detail.contains(&field.detail)) {
            message.push_str(&format!("\n  {}: {}", field.pointer, field.detail));
        }
        let hint = (kind == ClientErrorKind::Auth).then(|| {
            "set JOBBER_TOKEN, or give --token-file, to the token that the server was started with".to_owned()
        });
        Self { kind, problem: Some(Box::new(problem)), hint, message, source: None }
    }

    /// The server's code for this error (`unknown_binary`, `unknown_job`, ...), if it sent one.
    pub fn code(&self) -> Option<&str> {
        self.problem.as_ref().map(|p| p.code.as_str())
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ClientErrorKind::Unreachable | ClientErrorKind::Server)
    }
}
