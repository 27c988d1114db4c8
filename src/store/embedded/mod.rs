//! The store in the shared SQLite file. A commit is one transaction, so nothing here is ever half-done.

mod builds;
mod errors;
mod expiry;
mod groups;
mod history;
mod labels;
mod list;
mod marks;
mod projection;
mod schema;
mod term;

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;

use super::{
    Categories, Commit, DayRange, ErrorChoice, ErrorOutline, ErrorRecord, GroupTally, History, JobCount, JobFilter,
    JobPage, JobRecord, Learned, Loaded, Marks, NameSummary, Neighbour, Projection, Retention, StoreError,
    StoreErrorKind, Term, Versioned, WantedErrors,
};
use crate::domain::{Clock, Fingerprint, GroupName, JobBody, JobId, JobName, Page, PageRequest, Timestamp};
use crate::events::Cursor;
use crate::sqlite::{Sqlite, SqliteError};
use crate::stats::builds::BuildHistory;
use crate::stats::{ShardKey, StatShard};

/// History in the shared SQLite file.
pub struct EmbeddedStore {
    db: Sqlite,
}

impl EmbeddedStore {
    /// The name under which SQLite keeps the version of history's tables, and the version that this
    /// Jobber brings them to.
    pub const SCHEMA_VERSION: (&str, usize) = ("history", schema::STEPS.len());

    /// Opens or makes the tables of history in `db`.
    ///
    /// # Errors
    /// When the tables can't be made, or were made by a newer Jobber.
    pub async fn open(db: Sqlite) -> Result<Arc<Self>, StoreError> {
        db.migrate("history", schema::STEPS).await.map_err(failed)?;
        Ok(Arc::new(Self { db }))
    }

    /// The name of this history, unique among all.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn name(&self) -> Result<String, StoreError> {
        let name = |c: &Connection| c.query_row("SELECT name FROM history_name", [], |row| row.get(0)).map(Ok);
        self.read(name).await
    }

    /// Reads with a function that may also find that the stored data makes no sense.
    async fn read<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<Result<T, StoreError>> + Send + 'static,
    {
        self.db.read(run).await.map_err(failed)?
    }
}

#[async_trait]
impl History for EmbeddedStore {
    async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError> {
        let id = id.clone();
        self.read(move |c| history::job(c, &id, super::codec::job)).await
    }

    async fn job_without_result(&self, id: &JobId) -> Result<Option<JobRecord>, StoreError> {
        let id = id.clone();
        self.read(move |c| history::job(c, &id, super::codec::job_without_result)).await
    }

    async fn bodies(&self, ids: &[JobId]) -> Result<Vec<Option<JobBody>>, StoreError> {
        let ids = ids.to_vec();
        self.read(move |c| history::bodies(c, &ids)).await
    }

    async fn jobs(&self, filter: &JobFilter, page: PageRequest) -> Result<JobPage, StoreError> {
        let start = page.cursor.as_deref().map(list::ListCursor::parse).transpose()?;
        let (filter, limit) = (filter.clone(), page.limit.clamp(1, PageRequest::MAX));
        self.read(move |c| list::jobs(c, &filter, start, limit)).await
    }

    async fn ids_from(&self, prefix: &str, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |c| history::ids_from(c, &prefix, limit)).await
    }

    async fn count(&self, filter: &JobFilter, most: usize) -> Result<JobCount, StoreError> {
        let filter = filter.clone();
        self.read(move |c| list::count(c, &filter, most)).await
    }

    async fn group(&self, group: &GroupName) -> Result<GroupTally, StoreError> {
        let group = group.clone();
        self.read(move |c| groups::tally(c, &group)).await
    }

    async fn group_jobs(&self, group: &GroupName, page: PageRequest) -> Result<Page<JobRecord>, StoreError> {
        let after = page.cursor.as_deref().map(groups::GroupCursor::parse).transpose()?;
        let (group, limit) = (group.clone(), page.limit.clamp(1, PageRequest::MAX));
        self.read(move |c| groups::jobs(c, &group, after, limit)).await
    }

    async fn job_names(&self) -> Result<Vec<NameSummary>, StoreError> {
        self.read(history::job_names).await
    }

    async fn shard_keys_of(&self, days: DayRange, name: Option<&JobName>) -> Result<Vec<ShardKey>, StoreError> {
        let name = name.cloned();
        self.read(move |c| history::shard_keys(c, days, name.as_ref())).await
    }

    async fn shards_by_key(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError> {
        let keys = keys.to_vec();
        self.read(move |c| history::shards(c, &keys, super::codec::shard)).await
    }

    async fn shards_without_parts(&self, keys: &[ShardKey]) -> Result<Vec<StatShard>, StoreError> {
        let keys = keys.to_vec();
        self.read(move |c| history::shards(c, &keys, super::codec::shard_without_parts)).await
    }

    async fn marks(&self, days: DayRange, name: Option<&JobName>) -> Result<Option<Marks>, StoreError> {
        let name = name.cloned();
        self.read(move |c| marks::marks(c, days, name.as_ref())).await.map(Some)
    }

    async fn builds(&self, name: Option<&JobName>) -> Result<Vec<BuildHistory>, StoreError> {
        let names = match name {
            Some(name) => vec![name.clone()],
            None => self.build_names().await?,
        };
        Ok(self.load_builds(&names).await?.into_iter().flatten().map(|found| found.document).collect())
    }

    async fn errors(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<ErrorRecord>>, StoreError> {
        let fingerprints = fingerprints.to_vec();
        self.read(move |c| errors::errors(c, &fingerprints)).await
    }

    async fn errors_without_vectors(
        &self,
        fingerprints: &[Fingerprint],
    ) -> Result<Vec<Option<ErrorRecord>>, StoreError> {
        let fingerprints = fingerprints.to_vec();
        self.read(move |c| errors::errors_without_vectors(c, &fingerprints)).await
    }

    async fn outlines(&self, fingerprints: &[Fingerprint]) -> Result<Vec<Option<ErrorOutline>>, StoreError> {
        let fingerprints = fingerprints.to_vec();
        self.read(move |c| errors::outlines(c, &fingerprints)).await
    }

    async fn choose_errors(&self, wanted: &WantedErrors) -> Result<ErrorChoice, StoreError> {
        let wanted = wanted.clone();
        self.read(move |c| labels::choose(c, &wanted)).await
    }

    async fn categories(&self) -> Result<Categories, StoreError> {
        Ok(self.read(errors::categories).await?.map(|c| c.document).unwrap_or_default())
    }

    async fn similar_errors(&self, vector: &[f32], model: &str, k: usize) -> Result<Vec<Neighbour>, StoreError> {
        let (vector, model) = (vector.to_vec(), model.to_owned());
        self.read(move |c| errors::similar(c, &vector, &model, k)).await
    }

    async fn cursor(&self) -> Result<Cursor, StoreError> {
        self.read(projection::position).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(projection::position).await.map(|_| ())
    }
}

#[async_trait]
impl Projection for EmbeddedStore {
    async fn lead(&self, holder: &str, ttl: std::time::Duration, clock: &Clock) -> Result<Option<Term>, StoreError> {
        let now = clock.now();
        let me = holder.to_owned();
        // A projector that waits for its turn only reads, so that the one writer is free for others.
        if self.db.read(move |c| term::is_held_by_another(c, &me, now)).await.map_err(failed)? {
            return Ok(None);
        }
        let me = holder.to_owned();
        self.db.write(move |c| term::lead(c, &me, now, now + ttl)).await.map_err(failed)
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        let term = term.clone();
        self.db.write(move |c| term::resign(c, &term)).await.map_err(failed)
    }

    async fn load(&self, jobs: &[JobId], shards: &[ShardKey]) -> Result<Loaded, StoreError> {
        let (jobs, shards) = (jobs.to_vec(), shards.to_vec());
        self.read(move |c| projection::load(c, &jobs, &shards)).await
    }

    async fn load_builds(&self, names: &[JobName]) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError> {
        let names = names.to_vec();
        self.read(move |c| builds::load(c, &names)).await
    }

    async fn load_categories(&self) -> Result<Option<Versioned<Categories>>, StoreError> {
        self.read(errors::categories).await
    }

    async fn learn(&self, term: &Term, learned: &[Learned]) -> Result<(), StoreError> {
        let (term, learned) = (term.clone(), learned.to_vec());
        let is_current = self.db.write(move |c| errors::learn(c, &term, &learned)).await.map_err(failed)?;
        if is_current { Ok(()) } else { projection::Committed::Fenced.into_result() }
    }

    async fn position(&self) -> Result<Cursor, StoreError> {
        self.read(projection::position).await
    }

    async fn commit(&self, term: &Term, commit: Commit) -> Result<(), StoreError> {
        let rows = tokio::task::spawn_blocking(move || projection::Rows::encode(commit))
            .await
            .map_err(|e| StoreError::new(StoreErrorKind::Unavailable, "a commit was given up").caused_by(e))?;
        let term = term.clone();
        self.db.write(move |c| projection::commit(c, &term, &rows)).await.map_err(failed)?.into_result()
    }

    async fn expire(&self, term: &Term, retention: Retention, now: Timestamp, limit: usize) -> Result<u64, StoreError> {
        let term = term.clone();
        self.db.write(move |c| expiry::expire(c, &term, retention, now, limit)).await.map_err(failed)?
    }

    async fn give_room_back(&self) -> Result<bool, StoreError> {
        self.db.give_room_back().await.map_err(failed)
    }

    async fn scan(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        let after = after.cloned();
        self.read(move |c| projection::scan(c, after.as_ref(), limit)).await
    }

    async fn build_names(&self) -> Result<Vec<JobName>, StoreError> {
        self.read(builds::names).await
    }

    async fn shard_keys(&self) -> Result<Vec<ShardKey>, StoreError> {
        self.read(projection::shard_keys).await
    }
}

fn failed(error: SqliteError) -> StoreError {
    let kind = match &error {
        SqliteError::Unavailable { .. } => StoreErrorKind::Unavailable,
        SqliteError::Full { .. } => StoreErrorKind::Full,
        SqliteError::Corrupt { .. } | SqliteError::Panicked { .. } => StoreErrorKind::Corrupt,
    };
    StoreError::new(kind, "history can't be used").caused_by(error)
}

/// Reads a row of a version and a document.
fn versioned<T>(
    row: &rusqlite::Row<'_>,
    decode: fn(&[u8]) -> Result<T, StoreError>,
) -> rusqlite::Result<Result<Versioned<T>, StoreError>> {
    let version: i64 = row.get(0)?;
    let document = decode(row.get_ref(1)?.as_blob()?);
    Ok(document.map(|document| Versioned { document, version: Some(version.cast_unsigned()) }))
}

fn corrupt(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, format!("{what} in history makes no sense: {why}"))
}
