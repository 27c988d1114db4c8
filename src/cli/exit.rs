//! Exit codes: the one place that turns an end into a number for the shell.

use std::process::ExitCode;

use super::CliError;
use crate::client::{ClientError, ClientErrorKind};
use crate::domain::{JobState, Outcome, SpawnFailure};

/// The exit code of this process, as scripts see it. See `docs/development/cli-reference.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit(u8);

impl Exit {
    /// All went well. For a job: it has completed.
    pub const OK: Exit = Exit(0);
    /// The command failed, and no other code says why.
    pub const ERROR: Exit = Exit(1);
    /// The command line makes no sense.
    pub const USAGE: Exit = Exit(2);
    /// There is no such job or worker.
    pub const NOT_FOUND: Exit = Exit(3);
    /// No token, or not the right one.
    pub const AUTH: Exit = Exit(4);
    /// The state of the job or the queue does not allow it.
    pub const CONFLICT: Exit = Exit(5);
    /// No server answers at the address.
    pub const UNREACHABLE: Exit = Exit(6);
    /// The job ran past its time limit.
    pub const TIMEOUT: Exit = Exit(124);
    /// Jobber itself failed and can't tell the job's outcome.
    pub const JOBBER_FAILED: Exit = Exit(125);
    /// The job was cancelled, or could not be started.
    pub const NOT_RUN: Exit = Exit(126);
    /// There is no such binary.
    pub const NO_BINARY: Exit = Exit(127);
    /// The user pressed Ctrl-C here; the job goes on.
    pub const INTERRUPTED: Exit = Exit(130);
    /// The reader of the job's output has closed it (128 + SIGPIPE); the job goes on.
    pub const OUTPUT_CLOSED: Exit = Exit(141);

    /// The code as a number for the shell.
    pub fn code(self) -> u8 {
        self.0
    }

    /// The code for an attempt with this outcome. Running out of memory counts as SIGKILL, which is
    /// how the kernel ends the process.
    pub fn of_outcome(outcome: &Outcome) -> Exit {
        const SIGKILL: i32 = 9;
        match *outcome {
            Outcome::Exit { code } => u8::try_from(code).map_or(Exit::JOBBER_FAILED, Exit),
            Outcome::Signal { signal } => Exit::of_signal(signal),
            Outcome::Timeout => Exit::TIMEOUT,
            Outcome::Cancelled => Exit::NOT_RUN,
            Outcome::Oom => Exit::of_signal(SIGKILL),
            Outcome::SpawnError { reason: SpawnFailure::NotFound } => Exit::NO_BINARY,
            Outcome::SpawnError { reason: SpawnFailure::NotExecutable | SpawnFailure::System } => Exit::NOT_RUN,
            Outcome::Lost => Exit::JOBBER_FAILED,
        }
    }

    fn of_signal(signal: i32) -> Exit {
        u8::try_from(signal).ok().and_then(|n| n.checked_add(128)).map_or(Exit::JOBBER_FAILED, Exit)
    }

    /// The code of a job that has ended: 0 only when it has completed.
    pub fn of_job(state: JobState, outcome: Option<&Outcome>) -> Exit {
        match (state, outcome) {
            (JobState::Completed, _) => Exit::OK,
            (JobState::Failed, Some(outcome)) if !outcome.is_success() => Exit::of_outcome(outcome),
            _ => Exit::JOBBER_FAILED,
        }
    }

    /// The code of a command about jobs that failed with this error.
    pub fn of_error(error: &CliError) -> Exit {
        match error {
            CliError::Client(e) if is_unknown_binary(e) => Exit::NO_BINARY,
            CliError::Client(e) => match e.kind {
                ClientErrorKind::NotFound => Exit::NOT_FOUND,
                ClientErrorKind::Auth => Exit::AUTH,
                ClientErrorKind::Conflict => Exit::CONFLICT,
                ClientErrorKind::Unreachable => Exit::UNREACHABLE,
                ClientErrorKind::Rejected | ClientErrorKind::Server => Exit::ERROR,
            },
            CliError::Usage(_) => Exit::USAGE,
            CliError::BrokenPipe => Exit::OK,
            CliError::Missing(_) => Exit::NOT_FOUND,
            CliError::Unfinished(_) | CliError::Local { .. } => Exit::ERROR,
        }
    }

    /// The code of a command that speaks for jobs (`run`, `wait`, `exec`) when it lost track of
    /// them through this error.
    pub fn of_error_with_jobs(error: &CliError) -> Exit {
        match error {
            CliError::Client(e) if is_unknown_binary(e) => Exit::NO_BINARY,
            CliError::Usage(_) => Exit::USAGE,
            CliError::BrokenPipe => Exit::OUTPUT_CLOSED,
            CliError::Client(e) if matches!(e.kind, ClientErrorKind::Rejected | ClientErrorKind::Conflict) => {
                Exit::NOT_RUN
            }
            CliError::Client(_) | CliError::Missing(_) | CliError::Unfinished(_) | CliError::Local { .. } => {
                Exit::JOBBER_FAILED
            }
        }
    }
}

fn is_unknown_binary(error: &ClientError) -> bool {
    error.code() == Some("unknown_binary")
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_gives_its_own_code() {
        let code = |outcome: Outcome| Exit::of_job(JobState::Failed, Some(&outcome)).code();
        assert_eq!(code(Outcome::Exit { code: 1 }), 1);
        assert_eq!(code(Outcome::Exit { code: 255 }), 255);
        assert_eq!(code(Outcome::Signal { signal: 11 }), 139);
        assert_eq!(code(Outcome::Signal { signal: 9 }), 137);
        assert_eq!(code(Outcome::Oom), 137);
        assert_eq!(code(Outcome::Timeout), 124);
        assert_eq!(code(Outcome::Cancelled), 126);
        assert_eq!(code(Outcome::SpawnError { reason: SpawnFailure::NotFound }), 127);
        assert_eq!(code(Outcome::SpawnError { reason: SpawnFailure::NotExecutable }), 126);
        assert_eq!(code(Outcome::SpawnError { reason: SpawnFailure::System }), 126);
        assert_eq!(code(Outcome::Lost), 125);
    }

    #[test]
    fn zero_is_for_completed_jobs_only() {
        let exit_0 = Outcome::Exit { code: 0 };
        assert_eq!(Exit::of_job(JobState::Completed, Some(&exit_0)), Exit::OK);
        assert_eq!(Exit::of_job(JobState::Completed, None), Exit::OK);
        for state in JobState::ALL.into_iter().filter(|s| *s != JobState::Completed) {
            assert_eq!(Exit::of_job(state, None), Exit::JOBBER_FAILED, "{state}");
            assert_eq!(Exit::of_job(state, Some(&exit_0)), Exit::JOBBER_FAILED, "{state}");
        }
        for nonsense in [-1, 256, 65_536] {
            assert_eq!(Exit::of_outcome(&Outcome::Exit { code: nonsense }), Exit::JOBBER_FAILED);
            assert_eq!(Exit::of_outcome(&Outcome::Signal { signal: nonsense }), Exit::JOBBER_FAILED);
        }
    }
}
