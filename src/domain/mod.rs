//! The words that every other room speaks: jobs, attempts, outcomes, events. No I/O, no async.

pub mod body;
pub mod bytes;
pub mod category;
pub mod cron;
pub mod durability;
pub mod entry;
pub mod event;
pub mod failure;
pub mod ids;
pub mod job;
pub mod outcome;
pub mod page;
pub mod retry;
pub mod schedule;
pub mod secret;
pub mod text;
pub mod time;
pub mod validity;

pub use body::{JobBody, RawJson};
pub use bytes::{from_text, to_text, unfinished};
pub use category::{Category, CategoryId, InvalidCategory, Match, Seed, UNCATEGORISED};
pub use durability::WriteDurability;
pub use entry::{CategoryChange, CategoryEvent, Entry};
pub use event::{Event, EventKey, EventKind, FinalState};
pub use failure::{Fingerprint, KnownError};
pub use ids::{AttemptNumber, InvalidName, JobId, JobName, ScheduleId, WorkerId};
pub use job::{AcceptedJob, Deduplication, InvalidJob, Job, JobOptions, JobState, NewJob};
pub use outcome::{AttemptReport, Outcome, OutcomeKind, Progress, SpawnFailure, Stream, Tail, Usage};
pub use page::{Page, PageRequest};
pub use retry::{Backoff, BackoffKind, CategoryRule, LimitScale, RetryPolicy, Verdict};
pub use schedule::{Schedule, Template, Timing};
pub use secret::Secret;
pub use text::{first_line, last_lines};
pub use time::{Clock, Day, Timestamp};
pub use validity::Validity;
