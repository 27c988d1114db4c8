//! Which jobs a request is about: in the query of a list, or in the body of an action on many.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{GroupName, JobName, JobState, OutcomeKind, QueueName, Timestamp, WorkerId};

/// Conditions on jobs. All that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct JobSelection {
    /// In one of these states; in any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<JobState>,
    /// Of this binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<JobName>,
    /// Of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// Of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Submitted at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Submitted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With an attempt that failed with an error of this category; `uncategorised` for errors of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// With an attempt that failed with this error; the first digits are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// With this text in the id, the name, or the first line of the error; case does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Whose last attempt that has ended ended in one of these ways; in any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcome: Vec<OutcomeKind>,
    /// Whose last attempt exited with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 255)]
    pub exit_code: Option<u8>,
    /// Whose last attempt was ended by the signal of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whose last attempt was started by this worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Whose last attempt ran for longer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longer_than_ms: Option<u64>,
    /// Whose last attempt ran for less, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter_than_ms: Option<u64>,
}

impl JobSelection {
    /// Whether it has no condition, so that it selects all jobs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The conditions as parameters of a query.
    pub fn to_query(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(self.state.iter().map(|s| ("state", s.to_string())));
        pairs.extend(self.name.iter().map(|n| ("name", n.to_string())));
        pairs.extend(self.queue.iter().map(|q| ("queue", q.to_string())));
        pairs.extend(self.group.iter().map(|g| ("group", g.to_string())));
        pairs.extend(self.since.map(|t| ("since", t.to_string())));
        pairs.extend(self.until.map(|t| ("until", t.to_string())));
        pairs.extend(self.category.iter().map(|c| ("category", c.clone())));
        pairs.extend(self.fingerprint.iter().map(|f| ("fingerprint", f.clone())));
        pairs.extend(self.q.iter().map(|q| ("q", q.clone())));
        pairs.extend(self.outcome.iter().map(|o| ("outcome", o.to_string())));
        pairs.extend(self.exit_code.map(|n| ("exit_code", n.to_string())));
        pairs.extend(self.signal.map(|n| ("signal", n.to_string())));
        pairs.extend(self.worker.iter().map(|w| ("worker", w.to_string())));
        pairs.extend(self.longer_than_ms.map(|n| ("longer_than_ms", n.to_string())));
        pairs.extend(self.shorter_than_ms.map(|n| ("shorter_than_ms", n.to_string())));
        pairs
    }
}
