//! Reads lines of JSON into a store.
//!
//! The store must have no history of its own: aggregates of two histories could not be told apart
//! again. The importer writes jobs first, then errors, then aggregates, and the cursor last. An
//! import that was cut off is taken up by running it again: the importer passes over a document
//! that the store has already, if it is the same. So a second run changes nothing.

use std::collections::BTreeSet;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::{ArchiveLine, BodyLine, End, Header, STEP, VERSION};
use crate::domain::{JobBody, JobId, Timestamp};
use crate::events::Cursor;
use crate::logging::chain;
use crate::stats::builds::BuildHistory;
use crate::stats::{ShardKey, StatShard};
use crate::store::{
    Categories, Commit, ErrorRecord, JobRecord, Learned, Projection, Retention, StoreError, Term, Versioned, codec,
};

/// Why an import did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The lines could not be read.
    #[error("line {line}: couldn't be read")]
    Read {
        /// Line number, counting from 1.
        line: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it must be.
    #[error("line {line}: {problem}")]
    ArchiveLine {
        /// Line number, counting from 1.
        line: u64,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The store has a history of its own.
    #[error("the store has a history of its own: {0}; import into an empty one")]
    Occupied(String),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many documents were read, and how many of them were new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Job records in the lines.
    pub jobs: u64,
    /// Those that were not in the store yet.
    pub new_jobs: u64,
    /// Aggregates in the lines.
    pub shards: u64,
    /// Those that were not in the store yet.
    pub new_shards: u64,
    /// Errors in the lines.
    pub errors: u64,
}

/// Reads the lines of one history.
pub struct Importer<R> {
    lines: Lines<R>,
    header: Header,
}

impl<R: AsyncBufRead + Unpin + Send> Importer<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// When it is not the first line of a history, or that of a newer Jobber.
    pub async fn open(input: R) -> Result<Self, ImportError> {
        let mut lines = Lines { input, number: 0, text: Vec::new() };
        let not_one =
            "this is no history that `jobber export` has written: its first line must hold \"jobber_history\"";
        match lines.next().await {
            Ok(Some(ArchiveLine::JobberHistory(header))) => Ok(Self { lines, header }),
            Ok(_) => Err(lines.broken(not_one)),
            Err(ImportError::ArchiveLine { line: 1, problem }) if !problem.contains("newer jobber") => {
                Err(lines.broken(&format!("{not_one} ({problem})")))
            }
            Err(error) => Err(error),
        }
    }

    /// What the first line tells.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes the documents of all further lines into the store, under its term. `progress` is told
    /// how many jobs have been read.
    ///
    /// # Errors
    /// When a line is broken or the last one missing, or when the store has a history of its own or
    /// can't be used. The documents written until then stay; the same lines can be imported again.
    pub async fn run(
        mut self,
        projection: &dyn Projection,
        term: &Term,
        retention: Retention,
        mut progress: impl FnMut(u64),
    ) -> Result<Imported, ImportError> {
        let position = projection.position().await?;
        if position != Cursor::START && position != self.header.cursor {
            return Err(ImportError::Occupied(format!(
                "it has been folded up to {position}, these lines up to {}",
                self.header.cursor
            )));
        }
        let mut target = Target { projection, term, retention, expiring: BTreeSet::new(), done: Imported::default() };
        let (mut jobs, mut bodies, mut errors, mut shards) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut builds = Vec::new();
        let end = loop {
            match self.lines.next().await? {
                Some(ArchiveLine::Job(document)) => {
                    // Between two records: what the one before is given has been read by now.
                    if jobs.len() == STEP {
                        target.write_jobs(std::mem::take(&mut jobs), std::mem::take(&mut bodies)).await?;
                        progress(target.done.jobs);
                    }
                    jobs.push(codec::job(document.get().as_bytes()).map_err(|e| self.lines.broken(&chain(&e)))?);
                }
                Some(ArchiveLine::Body(BodyLine { of, is })) => {
                    if jobs.last().is_none_or(|job: &JobRecord| job.id != of) {
                        return Err(self.lines.broken("this is what a job is given that is not in the line before"));
                    }
                    bodies.push((of, is));
                }
                Some(ArchiveLine::Shard(document)) => {
                    shards.push(codec::shard(document.get().as_bytes()).map_err(|e| self.lines.broken(&chain(&e)))?);
                }
                Some(ArchiveLine::Builds(document)) => {
                    builds.push(codec::builds(document.get().as_bytes()).map_err(|e| self.lines.broken(&chain(&e)))?);
                }
                Some(ArchiveLine::Error(document)) => {
                    errors.push(codec::error(document.get().as_bytes()).map_err(|e| self.lines.broken(&chain(&e)))?);
                    if errors.len() == STEP {
                        target.write_errors(std::mem::take(&mut errors)).await?;
                    }
                }
                Some(ArchiveLine::Categories(document)) => {
                    let categories =
                        codec::categories(document.get().as_bytes()).map_err(|e| self.lines.broken(&chain(&e)))?;
                    target.write_categories(categories).await?;
                }
                Some(ArchiveLine::End(end)) => break end,
                Some(ArchiveLine::JobberHistory(_)) => return Err(self.lines.broken("a second history begins here")),
                None => {
                    return Err(self.lines.broken("the file was cut off here: its last line, the \"end\", is missing"));
                }
            }
        };
        target.write_jobs(jobs, bodies).await?;
        progress(target.done.jobs);
        target.write_errors(errors).await?;
        let found = End {
            jobs: target.done.jobs,
            shards: shards.len() as u64,
            errors: target.done.errors,
            builds: builds.len() as u64,
        };
        if found != end {
            return Err(self.lines.broken(&format!(
                "lines are missing: there are {} jobs, {} errors and {} aggregates of {}, {} and {}",
                found.jobs, found.errors, found.shards, end.jobs, end.errors, end.shards
            )));
        }
        if self.lines.next().await?.is_some() {
            return Err(self.lines.broken("there is something behind the \"end\""));
        }
        if position == Cursor::START {
            target.check_no_other_jobs().await?;
        }
        target.write_shards(shards).await?;
        target.write_builds(builds, self.header.exported_at).await?;
        let cursor = Commit { cursor: self.header.cursor, ..Commit::default() };
        projection.commit(term, cursor).await?;
        Ok(target.done)
    }
}

/// The store that is written to.
struct Target<'a> {
    projection: &'a dyn Projection,
    term: &'a Term,
    retention: Retention,
    /// The shards of jobs that will expire.
    expiring: BTreeSet<ShardKey>,
    done: Imported,
}

impl Target<'_> {
    async fn write_jobs(
        &mut self,
        records: Vec<JobRecord>,
        mut bodies: Vec<(JobId, JobBody)>,
    ) -> Result<(), ImportError> {
        if records.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        let stored = self.projection.load(&ids, &[]).await?.jobs;
        self.done.jobs += records.len() as u64;
        let mut new = Vec::new();
        for (record, stored) in records.into_iter().zip(stored) {
            if self.retention.expiry(&record).is_some() {
                self.expiring.insert(ShardKey { day: record.submitted_at.day(), name: record.name.clone() });
            }
            match stored {
                None => new.push(Versioned { document: record, version: None }),
                Some(stored) if stored.document == record => {}
                Some(_) => return Err(ImportError::Occupied(format!("its job {} is another", record.id))),
            }
        }
        self.done.new_jobs += new.len() as u64;
        if !new.is_empty() {
            let ids: BTreeSet<_> = new.iter().map(|job| job.document.id.clone()).collect();
            bodies.retain(|(id, _)| ids.contains(id));
            let commit = Commit { bodies, jobs: new, retention: self.retention, ..Commit::default() };
            self.projection.commit(self.term, commit).await?;
        }
        Ok(())
    }

    /// Writes the categories. They replace those with which a store begins, as long as no
    /// user has changed these.
    async fn write_categories(&self, categories: Categories) -> Result<(), ImportError> {
        let stored = self.projection.load_categories().await?;
        let (known, version) = stored.map(|stored| (stored.document, stored.version)).unzip();
        match known {
            Some(known) if known == categories => return Ok(()),
            Some(known) if known.revision != Cursor::START => {
                return Err(ImportError::Occupied("its categories are others".to_owned()));
            }
            Some(_) | None => {}
        }
        let categories = Some(Versioned { document: categories, version: version.flatten() });
        Ok(self.projection.commit(self.term, Commit { categories, ..Commit::default() }).await?)
    }

    /// Writes errors. If they are written a second time, they merge to the same.
    async fn write_errors(&mut self, records: Vec<ErrorRecord>) -> Result<(), ImportError> {
        if records.is_empty() {
            return Ok(());
        }
        self.done.errors += records.len() as u64;
        let (mut sightings, mut learned) = (Vec::new(), Vec::new());
        for ErrorRecord { seen, knowledge, .. } in records {
            learned.extend(knowledge.map(|knowledge| Learned { fingerprint: seen.fingerprint, knowledge }));
            sightings.push(seen);
        }
        self.projection.commit(self.term, Commit { sightings, ..Commit::default() }).await?;
        Ok(self.projection.learn(self.term, &learned).await?)
    }

    /// Fails when the store holds jobs that are not in these lines: then a program other than an
    /// import of them has written to it.
    async fn check_no_other_jobs(&self) -> Result<(), ImportError> {
        let (mut count, mut after) = (0, None);
        loop {
            let records = self.projection.scan(after.as_ref(), STEP).await?;
            count += records.len() as u64;
            match records.into_iter().next_back() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        if count > self.done.jobs {
            return Err(ImportError::Occupied(format!(
                "{} of its jobs are not in these lines",
                count - self.done.jobs
            )));
        }
        Ok(())
    }

    async fn write_builds(&mut self, mut builds: Vec<BuildHistory>, exported_at: Timestamp) -> Result<(), ImportError> {
        for history in &mut builds {
            let name = history.name.clone();
            for key in self.expiring.iter().filter(|key| key.name == name) {
                if let Some(until) = self.retention.whole_until(key.day) {
                    history.expire_from(exported_at, until);
                }
            }
        }
        for part in builds.chunks(STEP) {
            let names: Vec<_> = part.iter().map(|history| history.name.clone()).collect();
            let mut new = Vec::new();
            for (history, stored) in part.iter().zip(self.projection.load_builds(&names).await?) {
                match stored {
                    None => new.push(Versioned { document: history.clone(), version: None }),
                    Some(stored) if stored.document == *history => {}
                    Some(_) => {
                        let name = &history.name;
                        return Err(ImportError::Occupied(format!("its history of the builds of {name} is another")));
                    }
                }
            }
            if !new.is_empty() {
                self.projection.commit(self.term, Commit { builds: new, ..Commit::default() }).await?;
            }
        }
        Ok(())
    }

    async fn write_shards(&mut self, mut shards: Vec<StatShard>) -> Result<(), ImportError> {
        for shard in shards.iter_mut().filter(|shard| self.expiring.contains(&shard.key)) {
            if let Some(until) = self.retention.whole_until(shard.key.day) {
                shard.expire_from(until);
            }
        }
        for part in shards.chunks(STEP) {
            let keys: Vec<_> = part.iter().map(|shard| shard.key.clone()).collect();
            let stored = self.projection.load(&[], &keys).await?.shards;
            let mut new = Vec::new();
            for (shard, stored) in part.iter().zip(stored) {
                match stored {
                    None => new.push(Versioned { document: shard.clone(), version: None }),
                    Some(stored) if stored.document.counts == shard.counts => {}
                    Some(_) => {
                        let ShardKey { day, name } = &shard.key;
                        return Err(ImportError::Occupied(format!("its aggregate of {name} on {day} is another")));
                    }
                }
            }
            self.done.shards += part.len() as u64;
            self.done.new_shards += new.len() as u64;
            if !new.is_empty() {
                self.projection.commit(self.term, Commit { shards: new, ..Commit::default() }).await?;
            }
        }
        Ok(())
    }
}

/// The lines with their numbers.
struct Lines<R> {
    input: R,
    number: u64,
    text: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line that is not empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<ArchiveLine>, ImportError> {
        loop {
            self.text.clear();
            self.number += 1;
            let read = self.input.read_until(b'\n', &mut self.text).await;
            let length = read.map_err(|source| ImportError::Read { line: self.number, source })?;
            if length == 0 {
                return Ok(None);
            }
            if !self.text.trim_ascii().is_empty() {
                return self.parse().map(Some);
            }
        }
    }

    fn parse(&self) -> Result<ArchiveLine, ImportError> {
        /// Only the version, of a first line that may be of any version.
        #[derive(serde::Deserialize)]
        struct AnyHistory {
            jobber_history: AnyVersion,
        }
        #[derive(serde::Deserialize)]
        struct AnyVersion {
            version: u32,
        }
        if let Ok(AnyHistory { jobber_history: AnyVersion { version } }) = serde_json::from_slice(&self.text)
            && version > VERSION
        {
            return Err(self.broken(&format!(
                "this history has format {version}, this jobber reads format {VERSION}; run a newer jobber"
            )));
        }
        serde_json::from_slice(&self.text).map_err(|error| self.broken(&format!("not a line of a history: {error}")))
    }

    fn broken(&self, problem: &str) -> ImportError {
        ImportError::ArchiveLine { line: self.number, problem: problem.to_owned() }
    }
}
