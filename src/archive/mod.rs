//! Moves history between stores, as lines of JSON.
//!
//! ```text
//! {"jobber_history": {"version": 4, "cursor": "0-42", ...}}     the first line
//! {"categories": {...}}                                         all categories, if the store has some
//! {"job": {...}}                                                every job record, in order of id
//! {"body": {"of": "order-42", "is": {...}}}                     behind each record, what the job is given, if that is kept
//!                                                               beside the record
//! {"error": {...}}                                              every error that an aggregate names, with its vector
//! {"shard": {...}}                                              every aggregate
//! {"builds": {...}}                                             the history of the builds of every name that has one
//! {"end": {"jobs": 17, "shards": 3, "errors": 2}}               the last line: without it, the file was cut off
//! ```
//! Documents are those of the stores, byte for byte what `store::codec` writes. They keep the
//! cursors up to which they were folded: a store that goes on with the same log goes on where the
//! exported one stood, and the events of any other log must come behind that place. The first
//! format had neither categories nor errors: a projector that finds a store without categories
//! makes both anew from the job records. The first two formats have bodies within the records only, the first three no builds.

mod export;
mod import;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{JobBody, JobId, Timestamp};
use crate::events::Cursor;
pub use export::{ExportError, Exported, export};
pub use import::{ImportError, Imported, Importer};

/// How many documents are read or written in one go.
const STEP: usize = 200;

/// The format that this version writes, and the newest that it reads.
const VERSION: u32 = 4;

/// What the first line tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the lines.
    pub version: u32,
    /// The version of the Jobber that wrote them.
    pub jobber: String,
    /// When they were written.
    pub exported_at: Timestamp,
    /// The cursor up to which the log has been folded.
    pub cursor: Cursor,
}

/// What the last line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct End {
    jobs: u64,
    shards: u64,
    #[serde(default)]
    errors: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    builds: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a job is given.
#[derive(Serialize, Deserialize)]
struct BodyLine {
    of: JobId,
    is: JobBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ArchiveLine {
    JobberHistory(Header),
    Categories(Box<RawValue>),
    Job(Box<RawValue>),
    Body(BodyLine),
    Error(Box<RawValue>),
    Shard(Box<RawValue>),
    Builds(Box<RawValue>),
    End(End),
}
