//! Notices: what waits, what was given up, and the targets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Timestamp;
use crate::notices::{Notice, NoticeEvent};

/// A notice that waits to be delivered, or was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeView {
    /// Identifies it.
    pub id: String,
    /// The target that it is for.
    pub target: String,
    /// What happened.
    pub event: NoticeEvent,
    /// `waiting`, or `dead` for one that was given up.
    pub state: String,
    /// When it happened.
    pub at: Timestamp,
    /// Since when it is tried.
    pub since: Timestamp,
    /// When it is tried next; null for one that was given up.
    pub next_at: Option<Timestamp>,
    /// When it was given up; null for one that waits.
    pub dead_at: Option<Timestamp>,
    /// How many tries have failed.
    pub tries: u32,
    /// Why the last one did.
    pub problem: Option<String>,
    /// What it says.
    pub notice: Notice,
}

/// A target of notices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeTargetView {
    /// Its name.
    pub name: String,
    /// Where notices go: an address without what may be secret in it, or the path of a program.
    pub to: String,
    /// What it is told of.
    pub on: Vec<NoticeEvent>,
    /// How many notices wait.
    pub waiting: u64,
    /// Since when the first of them waits; null when none does.
    pub oldest_waiting: Option<Timestamp>,
    /// How many were given up and are kept.
    pub dead: u64,
    /// Whether the configuration has it. One that it has not may have left dead letters.
    pub configured: bool,
}

/// Chooses dead letters: by their ids, or all of a target, or all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChooseNotices {
    /// Their ids; none for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Only those of this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Must be true where neither ids nor a target are given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What was done with the dead letters that were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChosenNotices {
    /// How many it was done with.
    pub count: u64,
    /// Their ids.
    pub ids: Vec<String>,
    /// Ids that were given, and are no dead letters of a target that is configured.
    pub skipped: Vec<String>,
}

/// Asks for a sample to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestNotices {
    /// The target; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What became of the samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestedNotices {
    /// One for each target.
    pub items: Vec<NoticeTested>,
}

/// What became of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeTested {
    /// The target.
    pub target: String,
    /// The id under which it was sent.
    pub id: String,
    /// `delivered`; `failed`, if it may work later; or `refused`.
    pub result: String,
    /// What the receiver said, or what went wrong.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}
