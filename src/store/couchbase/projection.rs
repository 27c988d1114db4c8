//! The projector's reads and writes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::directory::{DirectoryChanges, DirectoryLine, DirectoryWriter, Tally};
use super::documents::{self, MOST_PATHS, Room, body_key, job_changes, job_document};
use super::errors;
use super::kv::{Found, Written, each};
use super::session::Connector;
use super::term;
use crate::domain::{Clock, JobBody, JobId, JobName, Timestamp, WriteDurability};
use crate::stats::builds::BuildHistory;
use crate::stats::{ShardKey, StatShard};
use crate::store::{Commit, JobRecord, Loaded, Retention, StoreError, StoreErrorKind, Term, Versioned, codec};

/// What was read for the next commit.
#[derive(Default)]
struct Read {
    jobs: HashMap<JobId, JobBefore>,
    lines: HashMap<JobId, (JobName, DirectoryLine)>,
    tallies: HashMap<ShardKey, Tally>,
}

/// A job document before a commit changes it.
struct JobBefore {
    version: u64,
    identity: [u8; 32],
    body: Vec<u8>,
}

/// A job document that was written in place of one which had lost events, so that it lacks them and looks as if it had
/// them: they come before the last one that it has.
struct Hollow {
    written: JobRecord,
    /// What it was written in place of; `None` where there was no document.
    before: Option<Vec<u8>>,
    retention: Retention,
}

/// The state of the projector's side between calls.
#[derive(Default)]
pub(super) struct Projecting {
    keeper: DirectoryWriter,
    /// The term, and the number of losses, under which the keeper has remembered its documents.
    remembered: Mutex<Option<(Term, u64)>>,
    read: Mutex<Read>,
    /// Jobs that are to be taken back before anything else is written.
    hollow: Mutex<Vec<Hollow>>,
}

impl Projecting {
    pub(super) async fn load(
        &self,
        connector: &Connector,
        jobs: &[JobId],
        shards: &[ShardKey],
    ) -> Result<Loaded, StoreError> {
        let jobs = each(jobs, |id| async move {
            let found = connector.get(Room::Jobs, id.as_str()).await?;
            found.map(|f| Ok((codec::job(&f.body)?, f))).transpose()
        });
        let shards = each(shards, |key| async move {
            let found = connector.get(Room::Aggregates, &documents::shard_key(key)).await?;
            found.map(|f| Ok(Versioned { document: codec::shard(&f.body)?, version: Some(f.cas) })).transpose()
        });
        let (jobs, shards) = tokio::try_join!(jobs, shards)?;
        let (jobs, bodies): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .map(|found| match found {
                Some((document, Found { body, cas })) => (Some(Versioned { document, version: Some(cas) }), Some(body)),
                None => (None, None),
            })
            .unzip();
        let loaded = Loaded { jobs, shards };
        self.note(&loaded, bodies);
        Ok(loaded)
    }

    /// Remembers what was read. A read with jobs begins a new batch; a read of aggregates alone
    /// belongs to the batch before.
    fn note(&self, loaded: &Loaded, bodies: Vec<Option<Vec<u8>>>) {
        let mut read = self.read.lock().expect("no thread panics while it holds the lock");
        if !loaded.jobs.is_empty() {
            *read = Read::default();
        }
        for (Versioned { document, version }, body) in loaded.jobs.iter().flatten().zip(bodies.into_iter().flatten()) {
            let version = version.expect("what was read has a version");
            read.jobs.insert(document.id.clone(), JobBefore { version, identity: document.identity(), body });
            read.lines.insert(document.id.clone(), (document.name.clone(), DirectoryLine::of(document)));
        }
        for shard in loaded.shards.iter().flatten() {
            read.tallies.insert(shard.document.key.clone(), Tally::of(&shard.document.counts));
        }
    }

    pub(super) async fn commit(&self, connector: &Connector, term: &Term, commit: Commit) -> Result<(), StoreError> {
        let mut read = std::mem::take(&mut *self.read.lock().expect("no thread panics while it holds the lock"));
        let Commit { categories, sightings, shards, builds, bodies, jobs, cursor, retention } = commit;
        let losses = connector.witness.losses();
        let (_, mut before) =
            tokio::try_join!(term::check(connector, term), same_jobs(connector, &mut read.jobs, &jobs))?;
        self.forget_what_is_old(connector, term).await;
        self.keeper.set(connector, term, directory_changes(read, &shards, &jobs)).await?;
        let moved = each(&categories, |categories| errors::write_categories(connector, categories)).await?;
        refuse_moved(connector, term, moved).await?;
        errors::see(connector, &sightings).await?;
        let moved = each(&shards, |shard| write_shard(connector, shard)).await?;
        refuse_moved(connector, term, moved).await?;
        let moved = each(&builds, |builds| write_builds(connector, builds)).await?;
        refuse_moved(connector, term, moved).await?;
        each(&bodies, |(id, body)| write_body(connector, id, body)).await?;
        // A loss is noticed by the first write to its vbucket, and the jobs may have been read after it.
        term::check_unlost(connector, term)?;
        let moved = each(&jobs, |job| write_job(connector, job, retention)).await;
        if connector.witness.losses() != losses {
            let hollow = jobs.into_iter().map(|job| {
                let before = before.remove(&job.document.id);
                Hollow { written: job.document, before, retention }
            });
            self.hollow.lock().expect("no thread panics while it holds the lock").extend(hollow);
            self.take_back(connector).await?;
        }
        refuse_moved(connector, term, moved?).await?;
        term::advance(connector, term, cursor).await
    }

    /// Puts the documents of jobs back that were written after a loss and before it was noticed. What they lack is folded
    /// again, into the documents that the loss had left.
    pub(super) async fn take_back(&self, connector: &Connector) -> Result<(), StoreError> {
        loop {
            let Some(hollow) = self.hollow.lock().expect("no thread panics while it holds the lock").pop() else {
                return Ok(());
            };
            if let Err(e) = put_back(connector, &hollow).await {
                self.hollow.lock().expect("no thread panics while it holds the lock").push(hollow);
                return Err(e);
            }
        }
    }

    /// Forgets remembered documents when the term or the number of losses has changed. Another
    /// projector may have changed them since, and a loss may have removed them. The keeper would
    /// not write a document that it remembers as right already.
    async fn forget_what_is_old(&self, connector: &Connector, term: &Term) {
        let now = Some((term.clone(), connector.witness.losses()));
        let before = std::mem::replace(
            &mut *self.remembered.lock().expect("no thread panics while it holds the lock"),
            now.clone(),
        );
        if before != now {
            self.keeper.forget().await;
        }
    }
}

/// What the directory must say about everything that was read, or as the commit changes it.
fn directory_changes(read: Read, shards: &[Versioned<StatShard>], jobs: &[Versioned<JobRecord>]) -> DirectoryChanges {
    let (mut tallies, mut lines) = (read.tallies, read.lines);
    for StatShard { key, counts, .. } in shards.iter().map(|shard| &shard.document) {
        tallies.insert(key.clone(), Tally::of(counts));
    }
    for record in jobs.iter().map(|job| &job.document) {
        lines.insert(record.id.clone(), (record.name.clone(), DirectoryLine::of(record)));
    }
    let mut changes = DirectoryChanges::default();
    for (key, tally) in tallies {
        changes.set(&key, tally);
    }
    for (name, line) in lines.into_values() {
        changes.put(&name, line);
    }
    changes
}

/// Refuses a commit that would change what a job is. A version stands for a content, so a job that
/// was read under the same version need not be read again. Returns the documents that the commit replaces.
async fn same_jobs(
    connector: &Connector,
    read: &mut HashMap<JobId, JobBefore>,
    jobs: &[Versioned<JobRecord>],
) -> Result<HashMap<JobId, Vec<u8>>, StoreError> {
    let known = jobs.iter().filter_map(|job| Some((&job.document, job.version?)));
    let known = known.map(|(record, version)| (record, version, read.remove(&record.id)));
    let known: Vec<_> = known.collect();
    let before = each(known, |(record, version, before)| async move {
        let id = &record.id;
        let (identity, body) = match before {
            Some(before) if before.version == version => (before.identity, before.body),
            _ => {
                let found = connector.get(Room::Jobs, id.as_str()).await?.filter(|f| f.cas == version);
                let found = found.ok_or_else(|| conflict(&format!("job {id}")))?;
                (codec::job(&found.body)?.identity(), found.body)
            }
        };
        if identity == record.identity() {
            return Ok((id.clone(), body));
        }
        let message = format!("job {id} can't get another name, body or time of submission");
        Err(StoreError::new(StoreErrorKind::Rejected, message))
    });
    Ok(before.await?.into_iter().collect())
}

/// Puts the document back that a job had before, unless another process has written it since.
async fn put_back(connector: &Connector, hollow: &Hollow) -> Result<(), StoreError> {
    let key = hollow.written.id.as_str();
    let Some(found) = connector.get(Room::Jobs, key).await? else { return Ok(()) };
    if codec::job(&found.body)?.applied != hollow.written.applied {
        return Ok(());
    }
    match &hollow.before {
        None => connector.remove(Room::Jobs, key, found.cas).await,
        Some(before) => {
            let lifetime = lifetime(&codec::job(before)?, hollow.retention);
            connector.write_until(Room::Jobs, key, before, Some(found.cas), lifetime).await.map(drop)
        }
    }
}

/// How long the server is to keep a job that has ended.
fn lifetime(record: &JobRecord, retention: Retention) -> Option<Duration> {
    // A second at least: none would mean for ever.
    let until = |at: Timestamp| at.since(Clock::system().now()).max(Duration::from_secs(1));
    retention.expiry(record).map(until)
}

/// Writes a shard under its version. Returns a name for what has moved, if it has.
async fn write_shard(connector: &Connector, shard: &Versioned<StatShard>) -> Result<Option<String>, StoreError> {
    let key = &shard.document.key;
    let body = codec::encode(&shard.document);
    let written = connector.write(Room::Aggregates, &documents::shard_key(key), &body, shard.version).await?;
    Ok((written == Written::Moved).then(|| format!("the aggregate of {} on {}", key.name, key.day)))
}

/// Writes the history of a name's builds under its version. Returns a name for what has moved, if it has.
async fn write_builds(connector: &Connector, builds: &Versioned<BuildHistory>) -> Result<Option<String>, StoreError> {
    let name = &builds.document.name;
    let body = codec::encode(&builds.document);
    let written = connector.write(Room::Aggregates, &documents::builds_key(name), &body, builds.version).await?;
    Ok((written == Written::Moved).then(|| format!("the history of the builds of {name}")))
}

pub(super) async fn load_builds(
    connector: &Connector,
    names: &[JobName],
) -> Result<Vec<Option<Versioned<BuildHistory>>>, StoreError> {
    each(names, |name| async move {
        let found = connector.get(Room::Aggregates, &documents::builds_key(name)).await?;
        found.map(|f| Ok(Versioned { document: codec::builds(&f.body)?, version: Some(f.cas) })).transpose()
    })
    .await
}

/// Writes what a job is given; one that is there stays as it is.
async fn write_body(connector: &Connector, id: &JobId, body: &JobBody) -> Result<(), StoreError> {
    connector.write(Room::Jobs, &body_key(id), body.as_str().as_bytes(), None).await.map(drop)
}

/// Writes a job under its version: whole when it is new or the write is to be durable, else only what may change. The
/// server removes it, and its body with it, when it has expired. A job that goes on after it had ended is written
/// whole, for only that takes an expiry back.
async fn write_job(
    connector: &Connector,
    job: &Versioned<JobRecord>,
    retention: Retention,
) -> Result<Option<String>, StoreError> {
    let record = &job.document;
    let key = record.id.as_str();
    let document = job_document(record, &connector.settings().key_prefix);
    let lifetime = lifetime(record, retention);
    let has_been_put_back = record.retries > 0 && retention != Retention::FOREVER;
    if record.has_body && (lifetime.is_some() || has_been_put_back) {
        connector.set_lifetime(Room::Jobs, &body_key(&record.id), lifetime).await?;
    }
    let whole = codec::encode(&document);
    let written = match job.version {
        // The SDK (1.1.0) does not pass on the durability of a change of parts.
        Some(version)
            if (retention == Retention::FOREVER || lifetime.is_some())
                && connector.durability.now() == WriteDurability::None =>
        {
            let changes = job_changes(document);
            if changes.len() > MOST_PATHS {
                connector.write_until(Room::Jobs, key, &whole, Some(version), lifetime).await?
            } else {
                let meant = codec::job(&whole)?;
                let is_it = |body: &[u8]| codec::job(body).is_ok_and(|found| found == meant);
                connector.change(Room::Jobs, key, &changes, version, lifetime, is_it).await?
            }
        }
        version => connector.write_until(Room::Jobs, key, &whole, version, lifetime).await?,
    };
    Ok((written == Written::Moved).then(|| format!("job {}", record.id)))
}

/// Stops the commit after a document that has moved. Returns `Fenced` rather than `Conflict` where
/// that is true, because it says more.
async fn refuse_moved(connector: &Connector, term: &Term, moved: Vec<Option<String>>) -> Result<(), StoreError> {
    match moved.into_iter().flatten().next() {
        None => Ok(()),
        Some(what) => {
            term::check(connector, term).await?;
            Err(conflict(&what))
        }
    }
}

fn conflict(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, format!("{what} was written by another process"))
}
