//! The events that the server sends: a job's log, and what happens to all jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{JobId, JobName, JobState, Outcome, Progress, Stream, Timestamp, WorkerId};

/// One server-sent event of `GET /api/v1/jobs/{id}/logs`; the event's name is the `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEvent {
    /// A piece of output.
    Output {
        /// Which start of the job wrote it.
        attempt: u32,
        /// Stdout or stderr.
        stream: Stream,
        /// What it wrote; U+FFFD stands for what is no UTF-8.
        text: String,
        /// What it wrote, in base64, where `text` is not the whole truth.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
    },
    /// Output that is missing here: it is kept nowhere any more.
    Gap {
        /// Which start of the job wrote it.
        attempt: u32,
        /// Stdout or stderr.
        stream: Stream,
        /// How much of it.
        bytes: u64,
    },
    /// The job said how far it is.
    Progress(Progress),
    /// An attempt was started or has ended.
    Attempt {
        /// Attempt number, counting from 1.
        attempt: u32,
        /// How it ended; null while it runs.
        outcome: Option<Outcome>,
    },
    /// The job is now in this state. With a final state the stream ends.
    State {
        /// The state.
        state: JobState,
    },
}

impl LogEvent {
    /// A piece of output.
    pub fn output(attempt: u32, stream: Stream, bytes: &[u8]) -> Self {
        let (text, base64) = crate::domain::to_text(bytes);
        Self::Output { attempt, stream, text, base64 }
    }
}

/// One server-sent event of `GET /api/v1/events`; the event's name is the `type`, its id a cursor to go on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEventView {
    /// What happened: the name of an [`crate::domain::EventKind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The time of the event.
    pub at: Timestamp,
    /// The job to which it happened.
    pub job: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// In which start of it; for `retried`, how many there had been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The state in which it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// How the attempt, or the job, ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The worker that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Timestamp>,
    /// Why a caller asked for it to be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
