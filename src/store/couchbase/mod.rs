//! The store in a Couchbase bucket, by the official SDK.
//!
//! | collection | key | document |
//! |---|---|---|
//! | `jobs` | the job's id | its record, its place in lists, its line there |
//! | `aggregates` | `shard:<day>:<name>` | one aggregate |
//! | `aggregates` | `builds:<name>` | the history of the builds of one name |
//! | `aggregates` | `names`, `name:`, `days:`, `recent:` | what finds the others: see [`directory`] |
//! | `aggregates` | `projector` | the lease and the cursor |
//! | `errorMessageVectors` | the fingerprint | one error: what was seen of it, what is known of it |
//! | `errorCategoriesVectors` | `directory` | all categories |
//!
//! **A commit without a transaction.** Its order: the term is checked; the directory; every aggregate; every job; the
//! cursor, in the same document as the term and under its version. Each document is replaced under the version under
//! which it was read. A later step begins when all of the one before has been written. What stops half-way is folded
//! again from the cursor: see [`super::Projection`] for why that counts nothing twice.
//!
//! **A leader that has lost its term** can't move the cursor, for that is one document with the term. A write of its
//! documents may still be under way when the next leader begins. It does no harm: both fold the same events in the same
//! order by the same functions, so what the old one writes is what the new one will write, or a part of it. Take any
//! document that the old leader's batch changes, and the first event in that batch that changes it. Until the new
//! leader has folded this event it has not written the document. If the old write lands before, the new leader either
//! reads it (and by the `applied` cursor in it skips what it has), or has read the version before and is refused
//! (`Conflict`: it loads again and sees it). If the old write lands after, its version has moved and it is refused. The
//! old leader's jobs are written when all its aggregates have been, so a job that is new has been counted, by either
//! leader. One reader is outside of this: a rebuild sums job documents up, and a job of the old leader that lands
//! between the sum and the next fold would be in neither. So after a rebuild look for aggregates that differ once more
//! (it costs one scan).
//!
//! **A bucket that lost data** is noticed by what this process has seen in it ([`loss`]): the term in which it happened
//! is over, and the next one folds the log again from where it begins. Jobs that were read after the loss and written
//! before it was noticed are put back first: they would look as if they had the events that were lost.
//!
//! **An answer that got lost** leaves a write in doubt. It is tried again; when its document has moved, the document
//! that is there is compared with the one that was meant.

mod directory;
mod documents;
mod durability;
mod errors;
mod history;
mod indexing;
mod kv;
mod loss;
mod probe;
mod projection;
mod query;
mod sdk_log_sniffer;
mod session;
mod setup;
mod similar;
mod term;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{
    Categories, Commit, DayRange, ErrorChoice, ErrorRecord, GroupTally, History, JobCount, JobFilter, JobPage,
    JobRecord, Learned, Loaded, NameSummary, Neighbour, Projection, Retention, StoreError, StoreErrorKind, Term,
    Versioned, WantedErrors,
};
use crate::domain::{
    Clock, Fingerprint, GroupName, JobBody, JobId, JobName, Page, PageRequest, Secret, Timestamp, WriteDurability,
};
use crate::events::Cursor;
use crate::stats::builds::BuildHistory;
use crate::stats::{ShardKey, StatShard};
use indexing::Indexing;
use projection::Projecting;
use session::Connector;
use similar::VectorIndex;

/// The bucket, and which part of it is Jobber's.
#[derive(Debug, Clone)]
pub struct CouchbaseSettings {
    /// The servers: `couchbase://host[:port][,host]`, or `couchbases://` for TLS.
    pub connection: String,
    /// The user that signs in at the servers.
    pub username: String,
    /// The password of that user.
    pub password: Secret,
    /// The name of the bucket.
    pub bucket: String,
    /// The scope in which the collections are.
    pub scope: String,
    /// The text with which every key begins.
    pub key_prefix: String,
    /// A PEM file with the authorities to trust; `None` for the well-known ones and Capella's.
    pub ca_file: Option<PathBuf>,
    /// The length of the vectors of errors, for their index. `None` makes no index.
    pub dimension: Option<usize>,
    /// The log from which this history is to be folded; `None` for any.
    pub log: Option<String>,
    /// The former log of this history, which is gone.
    pub replaces_log: Option<String>,
    /// The durability that every write waits for.
    pub durability: WriteDurability,
    /// How many more copies each index has; `None` leaves it to the cluster.
    pub num_replica: Option<u32>,
}

impl CouchbaseSettings {
    fn is_tls(&self) -> bool {
        self.connection.starts_with("couchbases://")
    }
}

/// History in a Couchbase bucket.
pub struct CouchbaseStore {
    connector: Connector,
    projecting: Projecting,
    finder: VectorIndex,
    indexing: Arc<Indexing>,
    _ends_background_work: DropGuard,
}

impl CouchbaseStore {
    /// Opens the bucket and makes what is missing in it. A task on `tasks` makes the indexes in the
    /// background. A bucket that can't be reached is opened later, by the first call that needs it.
    ///
    /// # Errors
    /// `Rejected` when the bucket can never be opened: a wrong password, a bucket that does not
    /// exist, or certificates that are not trusted.
    pub async fn open(settings: CouchbaseSettings, tasks: &TaskTracker) -> Result<Arc<Self>, StoreError> {
        if settings.ca_file.is_some() && !settings.is_tls() {
            let message = "store.tls_ca is set but store.url has no TLS; write couchbases:// in it";
            return Err(StoreError::new(StoreErrorKind::Rejected, message));
        }
        let stop = CancellationToken::new();
        let store = Arc::new(Self {
            connector: Connector::new(settings),
            projecting: Projecting::default(),
            finder: VectorIndex::default(),
            indexing: Arc::default(),
            _ends_background_work: stop.clone().drop_guard(),
        });
        match store.connector.session().await {
            Ok(_) => {}
            Err(e) if e.kind == StoreErrorKind::Rejected => return Err(e),
            Err(e) => {
                let cause = std::error::Error::source(&e).map(ToString::to_string);
                tracing::warn!(cause, "{e}: jobs run on, their history follows when it is there");
            }
        }
        store.connector.started();
        let indexing = indexing::run(Arc::downgrade(&store), store.indexing.clone());
        tasks.spawn(async move { stop.run_until_cancelled(indexing).await });
        Ok(store)
    }

    /// Waits until the indexes have been made, or could not be made for a reason that may last.
    pub async fn prepared(&self) {
        self.indexing.settled().await;
    }

    /// The filter with each error of its label, as the index knows errors alone. `None` when there is no such error.
    async fn with_named_errors<'f>(&self, filter: &'f JobFilter) -> Result<Option<Cow<'f, JobFilter>>, StoreError> {
        let Some(label) = &filter.label else { return Ok(Some(Cow::Borrowed(filter))) };
        let wanted = WantedErrors { label: Some(label.clone()), digits: None };
        let ErrorChoice::These(mut errors) = self.choose_errors(&wanted).await? else { return Ok(None) };
        errors.retain(|error| filter.errors.is_empty() || filter.errors.contains(error));
        let filter = JobFilter { errors, label: None, ..filter.clone() };
        Ok((!filter.errors.is_empty()).then_some(Cow::Owned(filter)))
    }

    /// Whether the cluster runs queries: lists of jobs and scans need them.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn has_query_service(&self) -> Result<bool, StoreError> {
        let session = self.connector.session().await?;
        query::is_offered(&session).await
    }
}

#[async_trait]
impl History for CouchbaseStore {
    async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError> {
        history::job(&self.connector, id, super::codec::job).await
    }

    async fn job_without_result(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError> {
        history::job(&self.connector, id, super::codec::job_without_result).await
    }

    async fn bodies(&self, ids: &[JobId]) -> Result<Vec<Option<JobBody>>, StoreError> {
        history::bodies(&self.connector, ids).await
    }

    async fn jobs(&self, filter: &JobFilter, page: PageRequest) -> Result<JobPage, StoreError> {
        let start = page.cursor.as_deref().map(documents::from_cursor).transpose()?;
        let limit = page.limit.clamp(1, PageRequest::MAX);
        let Some(filter) = &self.with_named_errors(filter).await? else { return Ok(JobPage::default()) };
        let page = history::jobs(&self.connector, filter, start.as_deref(), limit).await;
        page.inspect_err(|e| self.indexing.failed(e))
    }

    async fn ids_from(&self, prefix: &str, limit: usize) -> Result<Vec<JobId>, StoreError> {
        history::ids_from(&self.connector, prefix, limit).await.inspect_err(|e| self.indexing.failed(e))
    }

    async fn count(&self, filter: &JobFilter, most: usize) -> Result<JobCount, StoreError> {
        let Some(filter) = &self.with_named_errors(filter).await? else { return Ok(JobCount::default()) };
        let count = history::count(&self.connector, filter, most).await;
        count.inspect_err(|e| self.indexing.failed(e))
    }

    async fn group(&self, group: &GroupName) -> Result<GroupTally, StoreError> {
        history::group(&self.connector, group).await.inspect_err(|e| self.indexing.failed(e))
    }

    async fn group_jobs(&self, group: &GroupName, page: PageRequest) -> Result<Page<JobRecord>, StoreError> {
        history::group_jobs(&self.connector, group, page).await.inspect_err(|e| self.indexing.failed(e))
    }

    async fn job_names(&self) -> Result<Vec<NameSummary>, StoreError> {
        history::job_names(&self.connector).await
    }

    async fn shard_keys_of(&self, days: DayRange, name: Option<&JobName>) -> Result<Vec<ShardKey>, StoreError> {
        history::keys(&self.connector, days, name).await
    }

    async fn shards_by_key(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError> {
        history::shards(&self.connector, keys, super::codec::shard).await
    }

    async fn shards_without_parts(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError> {
        history::shards(&self.connector, keys, super::codec::shard_without_parts).await
    }

    async fn builds(&self, name: Option<&JobName>) -> Result<Vec<BuildHistory>, StoreError> {
        let names = match name {
            Some(name) => vec![name.clone()],
            None => self.build_names().await?,
        };
        Ok(self.load_builds(&names).await?.into_iter().flatten().map(|found| found.document).collect())
    }

    async fn errors(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<ErrorRecord>>, StoreError> {
        errors::errors(&self.connector, fingerprints).await
    }

    async fn choose_errors(&self, wanted: &WantedErrors) -> Result<ErrorChoice, StoreError> {
        super::shard_reader::choose_errors(self, wanted).await
    }

    async fn categories(&self) -> Result<Categories, StoreError> {
        Ok(errors::categories(&self.connector).await?.map(|found| found.document).unwrap_or_default())
    }

    async fn similar_errors(&self, vector: &[f32], model: &str, k: usize) -> Result<Vec<Neighbour>, StoreError> {
        self.finder.nearest(&self.connector, vector, model, k).await
    }

    async fn cursor(&self) -> Result<Cursor, StoreError> {
        self.position().await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.position().await.map(|_| ())
    }

    fn lacks(&self) -> Option<String> {
        let lacks: Vec<_> = [self.indexing.lack(), self.connector.durability.lack()].into_iter().flatten().collect();
        (!lacks.is_empty()).then(|| lacks.join("; "))
    }
}

#[async_trait]
impl Projection for CouchbaseStore {
    async fn lead(&self, holder: &str, ttl: Duration, clock: &Clock) -> Result<Option<Term>, StoreError> {
        self.projecting.take_back(&self.connector).await?;
        term::lead(&self.connector, holder, ttl, clock).await
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        term::resign(&self.connector, term).await
    }

    async fn load(&self, jobs: &[JobId], shards: &[ShardKey]) -> Result<Loaded, StoreError> {
        self.projecting.load(&self.connector, jobs, shards).await
    }

    async fn load_builds(&self, names: &[JobName]) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError> {
        projection::load_builds(&self.connector, names).await
    }

    async fn load_categories(&self) -> Result<Option<Versioned<Categories>>, StoreError> {
        errors::categories(&self.connector).await
    }

    async fn learn(&self, term: &Term, learned: &[Learned]) -> Result<(), StoreError> {
        errors::learn(&self.connector, term, learned).await
    }

    async fn position(&self) -> Result<Cursor, StoreError> {
        Ok(term::stored(&self.connector).await?.map_or(Cursor::START, |(lease, _)| lease.cursor))
    }

    async fn commit(&self, term: &Term, commit: Commit) -> Result<(), StoreError> {
        self.projecting.commit(&self.connector, term, commit).await
    }

    /// The server removes expired documents by itself.
    async fn expire(&self, term: &Term, _: Retention, _: Timestamp, _: usize) -> Result<u64, StoreError> {
        term::check(&self.connector, term).await.map(|()| 0)
    }

    async fn scan(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        let records = history::scan(&self.connector, after, limit).await;
        records.inspect_err(|e| self.indexing.failed(e))
    }

    async fn build_names(&self) -> Result<Vec<JobName>, StoreError> {
        history::build_names(&self.connector).await
    }

    async fn shard_keys(&self) -> Result<Vec<ShardKey>, StoreError> {
        history::shard_keys(&self.connector).await
    }

    fn loss(&self) -> Option<u64> {
        self.connector.witness.to_recount()
    }

    fn recounted(&self, losses: u64) {
        self.connector.witness.recounted(losses);
    }
}
