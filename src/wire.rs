//! The bodies of the HTTP API under `/api/v1`: written by the server, read by the client, so that they can't drift.

mod binaries;
mod events;
pub mod failures;
mod files;
mod flows;
mod groups;
mod health;
mod jobs;
mod notices;
mod original;
mod overview;
mod problem;
mod queue;
mod resolved;
mod schedules;
mod selection;
mod session;

pub use binaries::{BinaryListing, BinaryView, BuildView};
pub use events::{JobEventView, LogEvent};
pub use files::{FilesNote, InputView, JobFile, JobFiles};
pub use flows::{FlowJob, SubmittedFlow};
pub use groups::{GroupResult, GroupView, name_of_key};
pub use health::{
    Draining, Health, HistoryPlace, Readiness, ReadyComponents, ReadyStatus, UnhealthyWorker, UnhealthyWorkers,
};
pub use jobs::{
    ActOnJobs, Acted, ActedOnJobs, CancelRequest, Explanation, JobListing, JobView, LARGEST_PAGE, Listing, MOST_JOBS,
    SubmitJob, SubmitJobs, Submitted, SubmittedArray, SubmittedJobs,
};
pub use notices::{
    ChooseNotices, ChosenNotices, NoticeTargetView, NoticeTested, NoticeView, TestNotices, TestedNotices,
};
pub use original::{OriginalError, OriginalGroup, OriginalJob, OriginalJobs, OriginalStats, OriginalSubmitted};
pub use overview::{
    Component, ComponentStatus, Components, EventCounts, FailingCategory, HistoryLag, OldestWaiting, Overview, Rates,
    ThroughputItem, ThroughputReport, WorkersTotal,
};
pub use problem::{FieldProblem, Problem};
pub use queue::{Backlog, CleanBody, Cleaned, QueueView};
pub use resolved::{JobBrief, LAST, LAST_FAILED, MOST_CANDIDATES, ResolvedJobs};
pub use schedules::{PutSchedule, ScheduleActed, ScheduleView};
pub use selection::JobSelection;
pub use session::{Access, Session, SignIn, SignedInBy};
