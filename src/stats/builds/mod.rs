//! The builds of a job's binary: what each does, and since which of them it does worse.
//!
//! The unit is the first attempt of a job, because retries are more of the same input. First attempts are taken in the order
//! in which they were started: in the order of their ends the first ones of any build are those that fail soon. The history
//! of a name's builds is one document ([`BuildHistory`]), folded from the event log. When a build has so many first
//! attempts, the fold looks at it once, and what it finds stays ([`Alarm`]); readers decide nothing, so it does not matter
//! how often they look.

mod chances;
mod decide;
mod history;
mod order;
mod report;
#[cfg(test)]
mod simulation;
mod tally;

pub use decide::{Alarm, Change};
pub use history::{BuildEntry, BuildHistory, BuildPlace};
pub use report::{BuildFailure, BuildLine, BuildsReport, Compared, ErrorTexts, Ratio, Regression, Spread};
pub use tally::{BuildTally, Cell, Fate, FirstAttempt};
