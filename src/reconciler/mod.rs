//! The reconciler tells history, by events, what other programs did to jobs in the queue.
//!
//! ```text
//! changes ──> entries ──> log's end ──> history folded through it ──> compare ──> append
//! ```
//! A worker or tool of another make that shares a BullMQ queue completes, fails, removes and puts
//! back jobs without writing to the event log. The queue's own events ([`ChangeFeed::changes`]) show
//! which jobs to look at. A slow round over all jobs that are open in history finds what those
//! events missed. One process does this at a time: the one whose projector leads. If two should
//! overlap, the second event of a kind changes nothing.

pub mod bodies;
mod compare;
pub mod files;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::background::{BackgroundLoop, NextRun, Period, RunError};
use crate::domain::{Clock, Event, Job, JobId, JobState, PageRequest, Timestamp};
use crate::events::{EventError, EventSink, EventSource};
use crate::logging::chain;
use crate::projector::Lead;
use crate::queue::{ChangeFeed, QueueEntry, QueueError, ReportedEnd};
use crate::reconnect::ReconnectBackoff;
use crate::store::{History, JobFilter, JobRecord, StoreError, own_id};
use compare::{Finding, compare, job_of};

/// The time between two looks at the queue's events.
const LOOK: Duration = Duration::from_millis(200);
/// How long a doubt waits for its second look. The API records its own actions within this time.
const DOUBT: Duration = Duration::from_millis(1500);
/// The least time from the end of one round to the next.
const REST: Duration = Duration::from_secs(10);
/// How many times as long as a page took the round pauses after it. So a round takes a bounded
/// share of the time, however many jobs are open.
const SHARE: u32 = 20;
/// How many jobs one page of a round has.
const PAGE: usize = 500;
/// How long history may take to catch up with the log. After that the reconciler starts the look over.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Each of a step's writes is whole, and history takes one that comes twice for one.
const COMPARISON: BackgroundLoop = BackgroundLoop::new("reconciler", Period::Pause(LOOK))
    .warn("history is not compared with the queue; trying again", "history is compared with the queue again")
    .back_off(Duration::from_millis(500), Duration::from_secs(10))
    .drop_run();

/// Compares history with the queue, and appends the events that history lacks.
pub struct Reconciler {
    /// The queue, for what happens in it.
    pub change_feed: Arc<dyn ChangeFeed>,
    /// History, for what it knows of jobs.
    pub history: Arc<dyn History>,
    /// The event log, for its end.
    pub source: Arc<dyn EventSource>,
    /// The event log, for the missing events.
    pub sink: Arc<dyn EventSink>,
    /// The clock, for events to which the queue gives no time.
    pub clock: Clock,
}

/// The reason for which a step was not done.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the queue can't be looked at")]
    Queue(#[from] QueueError),
    #[error("history can't be read")]
    History(#[from] StoreError),
    #[error("the event log can't be used")]
    Log(#[from] EventError),
    #[error("history does not catch up with the log")]
    Behind,
}

/// A job to look at, by its id in history.
struct Case {
    record: JobId,
    end: Option<ReportedEnd>,
    at: Timestamp,
}

/// A job to look at a second time.
struct Doubt {
    due: Instant,
    end: Option<ReportedEnd>,
    at: Timestamp,
}

/// How far the round over all open jobs is.
struct Round {
    due: Instant,
    cursor: Option<String>,
}

#[derive(Default)]
struct Doubts {
    /// By the job's id in history.
    by_job: BTreeMap<JobId, Doubt>,
}

impl Reconciler {
    /// Compares for as long as this process's projector leads, until `stop`. No failure ends it: it
    /// tries again from the same place.
    pub async fn run(self, mut lead: watch::Receiver<Lead>, stop: CancellationToken) {
        // Outlives a term, because the queue tells only once what it knew about a doubt.
        let mut doubts = Doubts::default();
        // Outlives a term, too, because an outage of the queue often costs the term, and is not over then.
        let mut turns = COMPARISON.start(&stop);
        let work = async {
            // An error: the projector has ended.
            while lead.wait_for(|lead| lead.term.is_some()).await.is_ok() {
                let mut round = Round { due: Instant::now(), cursor: None };
                let comparison = async { while turns.run(self.step(&mut doubts, &mut round)).await {} };
                tokio::select! {
                    () = comparison => return,
                    led = lead.wait_for(|lead| lead.term.is_none()) => if led.is_err() { return },
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Looks at the queue's events, at the doubts that are due, and at one page of the round.
    /// The next step follows at once if the queue has more events already.
    async fn step(&self, doubts: &mut Doubts, round: &mut Round) -> Result<NextRun, RunError> {
        let changes = self.change_feed.changes().await?;
        let cases = changes.all.into_iter().map(|change| Case { record: change.id, end: change.end, at: change.at });
        self.compare_cases(cases.collect(), doubts, false).await?;
        if let Some(position) = &changes.position {
            self.change_feed.acknowledge(position).await?;
        }
        if changes.has_gaps {
            tracing::warn!("the queue has lost jobs or what was known of them; comparing history with it");
            *round = Round { due: Instant::now(), cursor: None };
        }
        let now = Instant::now();
        let due: Vec<_> =
            doubts.by_job.iter().filter(|(_, doubt)| doubt.due <= now).map(|(id, _)| id.clone()).collect();
        if !due.is_empty() {
            let cases = due.iter().filter_map(|id| {
                let doubt = doubts.by_job.get(id)?;
                Some(Case { record: id.clone(), end: doubt.end.clone(), at: doubt.at })
            });
            self.compare_cases(cases.collect(), doubts, true).await?;
            due.iter().for_each(|id| drop(doubts.by_job.remove(id)));
        }
        if round.due <= now
            && let Err(error) = self.turn(doubts, round).await
        {
            // A store may be unable to list jobs while it can do everything else.
            tracing::debug!(error = chain(&error), "open jobs can't be gone through; trying again");
            round.due = Instant::now() + REST;
        }
        Ok(if changes.more { NextRun::AtOnce } else { NextRun::InTurn })
    }

    /// Looks at one page of the jobs that are open in history.
    async fn turn(&self, doubts: &mut Doubts, round: &mut Round) -> Result<(), Interrupted> {
        let began = Instant::now();
        let states = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = JobFilter { states, ..JobFilter::default() };
        let request = PageRequest { cursor: round.cursor.clone(), limit: PAGE };
        let page = self.history.jobs(&filter, request).await?;
        let jobs: Vec<_> =
            page.items.iter().map(|job| (shown_as(&job.id, job.submitted_at), job.submitted_at)).collect();
        let open = self.change_feed.are_open(&jobs).await?;
        let at = self.clock.now();
        for (job, _) in page.items.into_iter().zip(open).filter(|(_, open)| !open) {
            // This was the first look at the job.
            let doubt = Doubt { due: Instant::now() + DOUBT, end: None, at };
            doubts.by_job.entry(job.id).or_insert(doubt);
        }
        round.cursor = page.next;
        let rest = if round.cursor.is_some() { LOOK } else { REST };
        round.due = Instant::now() + rest.max(began.elapsed() * SHARE);
        Ok(())
    }

    /// Compares these jobs, and appends the events that history lacks.
    async fn compare_cases(&self, cases: Vec<Case>, doubts: &mut Doubts, again: bool) -> Result<(), Interrupted> {
        if cases.is_empty() {
            return Ok(());
        }
        // If history made the id itself, only the record shows the queue's id.
        let mut known = Vec::with_capacity(cases.len());
        for case in cases {
            let record = if again { self.history.job(&case.record).await? } else { None };
            let id = record.map_or_else(|| Some(case.record.clone()), |record| record.own_id());
            // If the queue's id is unknown, the job can't be declared lost.
            known.extend(id.map(|id| (id, case)));
        }
        let ids: Vec<_> = known.iter().map(|(id, _)| id.clone()).collect();
        let held = self.change_feed.entries(&ids).await?;
        // After the look at the queue: see `compare`.
        catch_up(&*self.source, &*self.history).await?;
        let mut missing: Vec<Event> = Vec::new();
        for ((id, case), held) in known.into_iter().zip(held) {
            for record in self.records(&id, &case.record, &held).await? {
                match compare(&record, &held, case.end.as_ref(), case.at, again) {
                    Finding::Agrees => {}
                    Finding::Doubt => {
                        let doubt = Doubt { due: Instant::now() + DOUBT, end: case.end.clone(), at: case.at };
                        doubts.by_job.insert(record.id.clone(), doubt);
                    }
                    Finding::Lacks(kinds) => {
                        let job = self.job(&record, &held);
                        tracing::info!(job = %record.id, "another program has moved a job; history is told");
                        let at = self.clock.now();
                        let events = kinds.into_iter().map(|kind| Event::new(at, job.clone(), kind));
                        let first = missing.len();
                        missing.extend(events);
                        if let (QueueEntry::Job(queued), Some(event)) = (&held, missing.get_mut(first))
                            && record.lacks_body()
                        {
                            event.body = queued.body.clone().filter(|_| Arc::ptr_eq(&queued.job, &job));
                        }
                    }
                }
            }
        }
        if !missing.is_empty() {
            self.sink.append(&missing).await?;
        }
        Ok(())
    }

    fn job(&self, record: &JobRecord, held: &QueueEntry) -> Arc<Job> {
        match held {
            QueueEntry::Job(queued) if queued.job.submitted_at == record.submitted_at => queued.job.clone(),
            _ => job_of(record),
        }
    }

    /// The record of the job in question, and that of the job which the queue holds under its id.
    async fn records(&self, id: &JobId, record: &JobId, held: &QueueEntry) -> Result<Vec<JobRecord>, StoreError> {
        let mut found = Vec::from_iter(self.history.job(record).await?);
        if let QueueEntry::Job(queued) = held
            && !found.iter().any(|record| record.submitted_at == queued.job.submitted_at)
        {
            found.extend(self.history.job(&id.come_again(queued.job.submitted_at)).await?);
        }
        Ok(found)
    }
}

/// Returns when history has been folded up to the present end of the log.
async fn catch_up(source: &dyn EventSource, history: &dyn History) -> Result<(), Interrupted> {
    let last = source.span().await?.last;
    let deadline = Instant::now() + CATCH_UP;
    let mut waits = ReconnectBackoff::new(Duration::from_millis(5), Duration::from_millis(100));
    while history.cursor().await? < last {
        if Instant::now() >= deadline {
            return Err(Interrupted::Behind);
        }
        tokio::time::sleep(waits.next_wait()).await;
    }
    Ok(())
}

/// The queue's id of a job whose id in history may be one that history made
/// ([`JobId::come_again`]), as far as that id shows it.
fn shown_as(id: &JobId, submitted_at: Timestamp) -> JobId {
    own_id(id, None, submitted_at).unwrap_or_else(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_came_again_is_found_under_its_own_id() {
        let (id, at) = (JobId::parse("42").unwrap(), Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(shown_as(&id.come_again(at), at), id);
        let odd = JobId::parse("a~7").unwrap();
        assert_eq!(shown_as(&odd, at), odd);
    }
}
