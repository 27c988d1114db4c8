//! Removes the files of jobs that have expired with them.
//!
//! Files go with the rule by which the records of jobs go, not with the records: those vanish by themselves in some
//! stores, and nobody would be told. A file whose job has no record, because its worker was lost before it had told of it,
//! goes when it is as old as a record may become.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::catch_up;
use crate::artifacts::{ArtifactStore, INPUTS, JobFolder, KEPT_FILES, job_of_key, last_used, remove_input, use_input};
use crate::background::{BackgroundLoop, NextRun, Period, RunError};
use crate::domain::{Clock, ContentDigest, JobState, PageRequest, Timestamp};
use crate::events::EventSource;
use crate::projector::Lead;
use crate::store::{History, JobFilter, Retention, StoreError};

/// What a sweep has left the next one removes.
const SWEEP: BackgroundLoop = BackgroundLoop::new("expired files", Period::Pause(Duration::from_secs(3600)))
    .warn("files that have expired can't be removed; trying again", "files that have expired are removed again")
    .back_off(Duration::from_secs(10), Duration::from_secs(600))
    .drop_run();

/// How much longer than history inputs are kept, counted from their last use.
const SPAN: Duration = Duration::from_secs(2 * 86_400);
/// How many jobs are asked for at once.
const PAGE: usize = 500;

/// Removes what has expired from the store of files.
pub struct FileSweep {
    /// The store.
    pub artifacts: Arc<dyn ArtifactStore>,
    /// History, for what it knows of the jobs.
    pub history: Arc<dyn History>,
    /// The event log, for its end.
    pub source: Arc<dyn EventSource>,
    /// How long records are kept.
    pub retention: Retention,
    /// Tells what has expired.
    pub clock: Clock,
}

impl FileSweep {
    /// Sweeps for as long as this process's projector leads, until `stop`.
    pub async fn run(self, mut lead: watch::Receiver<Lead>, stop: CancellationToken) {
        if self.retention == Retention::FOREVER {
            return;
        }
        let mut turns = SWEEP.start(&stop);
        let work = async {
            // An error: the projector has ended.
            while lead.wait_for(|lead| lead.term.is_some()).await.is_ok() {
                let sweeps = async { while turns.run(self.sweep()).await {} };
                tokio::select! {
                    () = sweeps => return,
                    led = lead.wait_for(|lead| lead.term.is_none()) => if led.is_err() { return },
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Removes what has expired by now.
    ///
    /// # Errors
    /// When the store, history or the log can't be asked, or history is behind the log. What was not removed is left to
    /// the next sweep.
    pub async fn sweep(&self) -> Result<NextRun, RunError> {
        let now = self.clock.now();
        let Some(horizon) = self.retention.horizon(now) else { return Ok(NextRun::Never) };
        // History must know all jobs whose files are looked at.
        catch_up(&*self.source, &*self.history).await?;
        let mut listed = self.artifacts.list(KEPT_FILES);
        let mut judged: Option<(JobFolder, bool)> = None;
        let (mut files, mut jobs) = (0u64, BTreeSet::new());
        while let Some(file) = listed.try_next().await? {
            // No job has ended before its files were kept.
            let Some(folder) = job_of_key(&file.key).filter(|_| file.kept_at < horizon) else { continue };
            let may_go = match &judged {
                Some((known, may_go)) if *known == folder => *may_go,
                _ => {
                    let may_go = self.may_go(&folder, now).await?;
                    judged = Some((folder.clone(), may_go));
                    may_go
                }
            };
            if may_go {
                self.artifacts.remove(&file.key).await?;
                files += 1;
                jobs.insert(folder.name);
            }
        }
        drop(listed);
        self.sweep_inputs(now, horizon).await?;
        if files > 0 {
            tracing::info!(files, jobs = jobs.len(), "files of expired jobs were removed");
        }
        Ok(NextRun::InTurn)
    }

    /// Removes inputs that no job has used since the horizon, and none that is open names. Workers mark a use when they
    /// fetch an input; a job that ended later is a day at most behind, and jobs that wait are asked for.
    async fn sweep_inputs(&self, now: Timestamp, horizon: Timestamp) -> Result<(), RunError> {
        let horizon = horizon - SPAN;
        let mut unused = BTreeSet::new();
        let mut listed = self.artifacts.list(INPUTS);
        while let Some(file) = listed.try_next().await? {
            let digest = file.key.rsplit('/').next().and_then(|last| last.parse::<ContentDigest>().ok());
            let Some(digest) = digest.filter(|_| file.kept_at < horizon) else { continue };
            if last_used(&*self.artifacts, &digest, file.kept_at).await? < horizon {
                unused.insert(digest);
            }
        }
        if unused.is_empty() {
            return Ok(());
        }
        for digest in self.inputs_of_open_jobs().await? {
            if unused.remove(&digest) {
                // Such a job is not looked for again before the input is old anew.
                use_input(&*self.artifacts, &digest, now).await?;
            }
        }
        for digest in &unused {
            remove_input(&*self.artifacts, digest).await?;
        }
        tracing::info!(inputs = unused.len(), "inputs that no job uses any more were removed");
        Ok(())
    }

    async fn inputs_of_open_jobs(&self) -> Result<BTreeSet<ContentDigest>, StoreError> {
        let states = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = JobFilter { states, ..JobFilter::default() };
        let (mut named, mut cursor) = (BTreeSet::new(), None);
        loop {
            let page = self.history.jobs(&filter, PageRequest { cursor, limit: PAGE }).await?;
            for job in &page.items {
                let record = self.history.job_without_result(&job.id).await?;
                named.extend(record.into_iter().flat_map(|record| record.options.inputs).map(|input| input.sha256));
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(named);
            }
        }
    }

    /// Whether the job has expired, or is unknown.
    async fn may_go(&self, folder: &JobFolder, now: Timestamp) -> Result<bool, StoreError> {
        // An id that was too long to be written out can't be asked for: its files go by their age.
        let Some(id) = &folder.id else { return Ok(true) };
        for id in [id.clone(), id.come_again(folder.submitted_at)] {
            if let Some(record) = self.history.job_without_result(&id).await?
                && record.submitted_at == folder.submitted_at
            {
                return Ok(self.retention.expiry(&record).is_some_and(|expiry| expiry <= now));
            }
        }
        Ok(true)
    }
}
