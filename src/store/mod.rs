//! Folded history: the ports of the store. Readers hold a [`History`], the projector a [`Projection`].

pub mod codec;
pub mod couchbase;
pub mod embedded;
pub mod errors;
mod groups;
mod marks;
pub mod records;
mod retention;
mod search;
mod shard_reader;

use async_trait::async_trait;

use crate::domain::{
    Clock, Day, Fingerprint, GroupName, JobBody, JobId, JobName, JobState, Page, PageRequest, Timestamp,
};
use crate::events::Cursor;
use crate::stats::builds::BuildHistory;
use crate::stats::{Label, ShardKey, StatShard};
pub use errors::{
    Categories, ErrorChoice, ErrorOutline, ErrorRecord, Knowledge, Learned, Neighbour, Sample, Sighting, WantedErrors,
};
pub use groups::GroupTally;
pub use marks::{LabelMarks, Marks};
pub use records::{AttemptRecord, FirstEnd, JobRecord, JobSummary, NameSummary, RetriedAfter, own_id};
pub use retention::Retention;
pub use search::{JobCount, JobPage, Search};
pub use shard_reader::{ShardReader, all_errors};

/// The kinds of error between which a caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The store can't be reached, or is too busy; another try may work.
    Unavailable,
    /// There is no room left.
    Full,
    /// The term has passed to another projector: stop at once.
    Fenced,
    /// A document moved under the writer: load again.
    Conflict,
    /// The request can't be met: it has a cursor of another list, for instance.
    Rejected,
    /// The stored data can't be read.
    Corrupt,
}

/// The reason for which the store could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// The kind, by which a caller decides what to do.
    pub kind: StoreErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// Makes an error of this kind. `message` names the thing and the fix.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Which jobs to list. All given conditions must hold; jobs that were removed are never listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// Only jobs in one of these states; jobs in any state when empty.
    pub states: Vec<JobState>,
    /// Only jobs of this binary.
    pub name: Option<JobName>,
    /// Only jobs of this group.
    pub group: Option<GroupName>,
    /// Only jobs submitted at this time or later.
    pub since: Option<Timestamp>,
    /// Only jobs submitted before this time.
    pub until: Option<Timestamp>,
    /// Only jobs with an attempt that failed with one of these errors; no condition when empty.
    pub errors: Vec<Fingerprint>,
    /// Only jobs with an attempt that failed with an error of this group, whose errors are too many to be named one by
    /// one. Without an index for it, the jobs are looked at one by one.
    pub label: Option<Label>,
    /// What to look for in each job, because no index has it.
    pub search: Search,
}

impl JobFilter {
    /// Whether the list has the job of this record. Only the store knows which errors are of a label, so that is left out.
    pub fn takes(&self, record: &JobRecord) -> bool {
        let errors = record.errors();
        !record.removed
            && (self.states.is_empty() || self.states.contains(&record.state))
            && self.name.as_ref().is_none_or(|name| *name == record.name)
            && self.group.as_ref().is_none_or(|group| record.options.group.as_ref() == Some(group))
            && self.since.is_none_or(|since| record.submitted_at >= since)
            && self.until.is_none_or(|until| record.submitted_at < until)
            && (self.errors.is_empty() || errors.as_slice().iter().any(|error| self.errors.contains(error)))
            && self.search.finds(&record.summary())
    }
}

/// Days from `from` to `to`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DayRange {
    /// No day before this one.
    pub from: Option<Day>,
    /// No day after this one.
    pub to: Option<Day>,
}

/// History, for readers.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// The record of a job, with all its attempts.
    async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError>;

    /// What these jobs are given, in the same order. `None` for a job that history does not know, or whose body it was
    /// not told yet ([`JobRecord::lacks_body`]).
    async fn bodies(&self, ids: &[JobId]) -> Result<Vec<Option<JobBody>>, StoreError>;

    /// One job without its result: for the many callers that follow it and do not show the result. Without its body,
    /// too, of a record that has it within.
    async fn job_without_result(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError>;

    /// A page of jobs, the last submitted first. Where no index has all conditions it may have fewer jobs than asked for,
    /// or none, and a `next` nevertheless ([`JobPage::scanned`]).
    async fn jobs(&self, filter: &JobFilter, page: PageRequest) -> Result<JobPage, StoreError>;

    /// The ids that begin with `prefix`, in order, those of removed jobs too: at most `limit`.
    async fn ids_from(&self, prefix: &str, limit: usize) -> Result<Vec<JobId>, StoreError>;

    /// Counts jobs, up to `most`.
    async fn count(&self, filter: &JobFilter, most: usize) -> Result<JobCount, StoreError>;

    /// How far the jobs of a group are. It reads the group's part of an index.
    async fn group(&self, group: &GroupName) -> Result<GroupTally, StoreError>;

    /// A page of the records of a group, without bodies: by the index in their array, then by submission.
    async fn group_jobs(&self, group: &GroupName, page: PageRequest) -> Result<Page<JobRecord>, StoreError>;

    /// One line for each job name, in order of name. The cost grows with the number of names, not of jobs.
    async fn job_names(&self) -> Result<Vec<NameSummary>, StoreError>;

    /// The keys of the aggregates of these days, of one name or all, in order.
    async fn shard_keys_of(&self, days: DayRange, name: Option<&JobName>) -> Result<Vec<ShardKey>, StoreError>;

    /// These aggregates, in the same order. Leaves out those that are not there.
    async fn shards_by_key(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError>;

    /// The same without the counts by error and by queue ([`crate::stats::Counts::without_parts`]).
    async fn shards_without_parts(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError>;

    /// The marks of the aggregates of these days, of one name or all, in order, and of the labels of all errors. `None` of
    /// a store that can't tell whether a label has changed: nothing that it answers may be kept.
    async fn marks(&self, _days: DayRange, _name: Option<&JobName>) -> Result<Option<Marks>, StoreError> {
        Ok(None)
    }

    /// The aggregates of these days, of one name or all, at once: [`ShardReader`] reads many of them.
    async fn shards(&self, days: DayRange, name: Option<&JobName>) -> Result<Vec<StatShard>, StoreError> {
        self.shards_by_key(&self.shard_keys_of(days, name).await?).await
    }

    /// The histories of builds, of one name or all, in order of name.
    async fn builds(&self, name: Option<&JobName>) -> Result<Vec<BuildHistory>, StoreError>;

    /// The records of these errors, in the same order. There is no list of all errors, because the
    /// aggregates name every fingerprint.
    async fn errors(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<ErrorRecord>>, StoreError>;

    /// Like [`History::errors`], but with empty vectors, for the many callers that only count and name.
    async fn errors_without_vectors(
        &self,
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<Option<ErrorRecord>>, StoreError> {
        let mut records = self.errors(fingerprints).await?;
        for knowledge in records.iter_mut().flatten().filter_map(|record| record.knowledge.as_mut()) {
            knowledge.vector = Vec::new();
        }
        Ok(records)
    }

    /// The outlines of these errors, in the same order.
    async fn outlines(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<ErrorOutline>>, StoreError> {
        let records = self.errors_without_vectors(fingerprints).await?;
        Ok(records.into_iter().map(|record| record.map(ErrorOutline::from)).collect())
    }

    /// The errors that jobs have met and that `wanted` asks for.
    async fn choose_errors(&self, wanted: &WantedErrors) -> Result<ErrorChoice, StoreError>;

    /// The categories of errors; none before a projector has led for the first time.
    async fn categories(&self) -> Result<Categories, StoreError>;

    /// The at most `k` known errors of the same model that are nearest to this vector of length 1, the best first.
    async fn similar_errors(&self, vector: &[f32], model: &str, k: usize) -> Result<Vec<Neighbour>, StoreError>;

    /// The place up to which the log has been folded.
    async fn cursor(&self) -> Result<Cursor, StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// What does not work although the store answers, for people. `None` when everything works.
    fn lacks(&self) -> Option<String> {
        None
    }
}

/// The right to write, for a while. Numbers only grow; the store refuses every number but the last one given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The name of the holder: one per process.
    pub holder: String,
    /// The number of the term, from 1.
    pub number: u64,
}

/// A document with the version under which it was read; `None` when it was not there.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// The document as it was read or is to be written.
    pub document: T,
    /// The store's own mark of this version.
    pub version: Option<u64>,
}

/// What [`Projection::load`] found, in the order asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// The job records; `None` where there was none.
    pub jobs: Vec<Option<Versioned<JobRecord>>>,
    /// The aggregates; `None` where there was none.
    pub shards: Vec<Option<Versioned<StatShard>>>,
}

/// The documents that [`Projection::commit`] writes, in this order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Commit {
    /// All categories, when they have changed.
    pub categories: Option<Versioned<Categories>>,
    /// New sightings of errors. The store merges them ([`Sighting::merge`]) into the old ones and
    /// keeps the knowledge of the errors.
    pub sightings: Vec<Sighting>,
    /// Aggregates: written when every error has been.
    pub shards: Vec<Versioned<StatShard>>,
    /// Histories of builds: written with the aggregates.
    pub builds: Vec<Versioned<BuildHistory>>,
    /// What new jobs are given: written before their records say so. A body that is there stays as it is.
    pub bodies: Vec<(JobId, JobBody)>,
    /// Job records: written when every aggregate and every body has been.
    pub jobs: Vec<Versioned<JobRecord>>,
    /// The global cursor: written last. It never goes back: an earlier one leaves it where it is.
    pub cursor: Cursor,
    /// How long job records are kept. A store that removes records by itself writes each with its
    /// [`Retention::expiry`]. In other stores they wait for [`Projection::expire`].
    pub retention: Retention,
}

/// The store, for the projector alone.
///
/// On a store without transactions [`Projection::commit`] may stop half-way. The order of its writes (categories,
/// errors, aggregates, bodies, job records, global cursor) keeps that harmless: categories skip the changes that they
/// have, errors merge to the same however often, and effects on aggregates are computed from the job records as they
/// were before, so as long as one record is still old, all effects can be computed again; each aggregate skips what it
/// has (its `applied` cursor), and so does each record.
#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// Wins or renews the only projector's term for `ttl`. `None` while another holds it. A renewal keeps the number.
    ///
    /// # Errors
    /// `Rejected` when this history is folded from another log than the one that it was opened for.
    async fn lead(&self, holder: &str, ttl: std::time::Duration, clock: &Clock) -> Result<Option<Term>, StoreError>;

    /// Gives this term back, if it is still the current one.
    async fn resign(&self, term: &Term) -> Result<(), StoreError>;

    /// Reads what a batch of events is about to change.
    async fn load(&self, jobs: &[JobId], shards: &[ShardKey]) -> Result<Loaded, StoreError>;

    /// Reads the histories of the builds of these names, in the same order; `None` where there is none.
    async fn load_builds(&self, names: &[JobName]) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError>;

    /// Reads the categories; `None` before they were written for the first time.
    async fn load_categories(&self) -> Result<Option<Versioned<Categories>>, StoreError>;

    /// Replaces the knowledge of errors; their sightings stay. Skips errors that were never seen,
    /// and those whose knowledge comes from a later revision of the categories.
    ///
    /// # Errors
    /// `Fenced` if the term is not the current one.
    async fn learn(&self, term: &Term, learned: &[Learned]) -> Result<(), StoreError>;

    /// The place up to which the log has been folded.
    async fn position(&self) -> Result<Cursor, StoreError>;

    /// Writes documents under their versions, then the cursor. Atomic for each document, idempotent as a whole.
    ///
    /// # Errors
    /// `Fenced` if the term is not the current one, `Conflict` if a version moved, `Rejected` if a job's id, name,
    /// time of submission, or a body within its record would change.
    async fn commit(&self, term: &Term, commit: Commit) -> Result<(), StoreError>;

    /// Removes expired job records, the longest ended first and at most `limit`, and returns how
    /// many. Never removes the record of a job that has not ended. The shards of these records note
    /// it before the records are gone ([`StatShard::expire_from`]), and their counts stay as they
    /// are. A store that removes records by itself has nothing to do.
    ///
    /// # Errors
    /// `Fenced` if the term is not the current one.
    async fn expire(&self, term: &Term, retention: Retention, now: Timestamp, limit: usize) -> Result<u64, StoreError>;

    /// Gives some of the room that removed records have left back to the file system, and answers whether there is more
    /// to give back. A store that sees to its room by itself has nothing to do.
    async fn give_room_back(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Every job record, removed ones too, in order of id: up to `limit` after `after`. For rebuilding aggregates.
    async fn scan(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError>;

    /// The names of all histories of builds. For rebuilding them.
    async fn build_names(&self) -> Result<Vec<JobName>, StoreError>;

    /// The keys of all aggregates. For rebuilding them.
    async fn shard_keys(&self) -> Result<Vec<ShardKey>, StoreError>;

    /// Whether the store has lost written data, and the rest of it was not recounted since: then the number of losses so
    /// far. The term in which that happened is over, and the next begins where the log does. Always `None` on stores
    /// that notice no loss.
    fn loss(&self) -> Option<u64> {
        None
    }

    /// Notes that what is left was recounted after this many losses.
    fn recounted(&self, _losses: u64) {}
}
