//! The ports of the queue. The API holds a [`Queue`], an [`Operator`] and a [`Scheduler`], a worker a [`JobSource`].
//!
//! A queue promises: a job that was accepted is never lost; it is handed to one worker at a time, under a lease that
//! must be renewed (adapters renew by themselves); a lease that lapses goes to another worker. So a job runs at least
//! once, and its history (the event log) tells which of its attempts ended how.

pub mod bullmq;
pub mod change_feed;
mod dealer;
pub mod embedded;
mod error;
mod job;
pub mod lease;
mod output;
mod ports;
pub mod schedules;
mod settings;
mod workers;

pub use change_feed::{ChangeFeed, QueueChange, QueueChanges, QueueEntry, ReportedEnd};
pub use dealer::{Dealer, Demand};
pub use error::{QueueError, QueueErrorKind};
pub use job::{Cancellation, Change, CleanRequest, Idempotency, QueueStanding, QueuedJob, StateCounts, Submission};
pub use lease::{Claims, Lease, LeaseLoss, LeaseOps, ParentResults, Publisher};
pub use output::OutputChunk;
pub use ports::{ClaimOptions, JobSource, Operator, Placement, Placing, Queue};
pub use schedules::{ScheduleStanding, Scheduler};
pub use settings::{QueueRetention, QueueSettings};
pub use workers::{RunningJob, WorkerInfo};
