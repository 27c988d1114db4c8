//! An order in, a report out: runs one attempt of a job as a supervised child process.
//!
//! Everything that can happen to the child is an [`crate::domain::Outcome`] in the report; an `Err` means that Jobber
//! could not do its own work.

pub mod order;
pub mod slots;

pub use order::{OutputSink, RunOrder, RunnerSettings, StopHandle, StopReason, StopSignal};
pub use slots::{Slot, Slots};
