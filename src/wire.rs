//! The bodies of the HTTP API under `/api/v1`: written by the server, read by the client, so that they can't drift.

mod events;
pub mod failures;
mod flows;
mod jobs;
mod problem;
mod queue;
mod schedules;
mod session;

pub use events::{JobEventView, LogEvent};
pub use flows::{FlowJob, SubmittedFlow};
pub use jobs::{
    Acted, CancelRequest, Explanation, JobView, LARGEST_PAGE, Listing, MOST_JOBS, SubmitJob, SubmitJobs, Submitted,
    SubmittedJobs,
};
pub use problem::{FieldProblem, Problem};
pub use queue::{CleanBody, Cleaned};
pub use schedules::{PutSchedule, ScheduleActed, ScheduleView};
pub use session::{Access, Session, SignIn, SignedInBy};
