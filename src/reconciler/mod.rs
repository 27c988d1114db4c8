//! The reconciler: tells history, by events, what other programs did to jobs in the queue.
//!
//! ```text
//! deeds ──> held ──> log's end ──> history folded through it ──> compare ──> append
//! ```
//! A worker or tool of somebody else's that shares a BullMQ queue completes, fails, removes and puts back jobs without a
//! word to the event log. The queue's own events ([`Witness::deeds`]) say at which jobs to look; a slow round over all jobs
//! that history holds for open finds what those events missed. One process does this at a time: the one whose projector
//! leads. Should two overlap, the second event of a kind changes nothing.

pub mod bodies;
mod compare;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::{Clock, Event, Job, JobId, JobState, PageRequest, Timestamp};
use crate::events::{EventError, EventSink, EventSource};
use crate::logging::chain;
use crate::projector::Lead;
use crate::queue::{Held, QueueError, ToldEnd, Witness};
use crate::reconnect::ReconnectBackoff;
use crate::store::{History, JobFilter, JobRecord, StoreError, own_id};
use compare::{Finding, compare, job_of};

/// Between two looks at what was done.
const LOOK: Duration = Duration::from_millis(200);
/// How long a doubt waits for its second look: the API writes down what it has done within this.
const DOUBT: Duration = Duration::from_millis(1500);
/// From the end of one round to the next, at least.
const REST: Duration = Duration::from_secs(10);
/// A round takes no more than this part of the time, however many jobs are open.
const SHARE: u32 = 20;
/// Jobs of one page of a round.
const PAGE: usize = 500;
/// How long history may take to catch up with the log; then the look is taken again.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Compares history with the queue.
pub struct Reconciler {
    /// Sees what happens in the queue.
    pub witness: Arc<dyn Witness>,
    /// Says what is known.
    pub history: Arc<dyn History>,
    /// Says up to where the log goes.
    pub source: Arc<dyn EventSource>,
    /// Takes what is missing.
    pub sink: Arc<dyn EventSink>,
    /// The time of events that the queue gives none for.
    pub clock: Clock,
}

/// Why a step was not done.
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

/// A job to look at: under which id history has it.
struct Case {
    record: JobId,
    end: Option<ToldEnd>,
    at: Timestamp,
}

/// A job to look at again.
struct Doubt {
    due: Instant,
    end: Option<ToldEnd>,
    at: Timestamp,
}

/// Where the round over all open jobs is.
struct Round {
    due: Instant,
    cursor: Option<String>,
}

#[derive(Default)]
struct Desk {
    /// By the id under which history has them.
    doubts: BTreeMap<JobId, Doubt>,
}

impl Reconciler {
    /// Compares for as long as this process's projector leads, until `stop`. Nothing that fails ends it: it is tried again
    /// from the same place.
    pub async fn run(self, mut lead: watch::Receiver<Lead>, stop: CancellationToken) {
        // Outlives a term: what the queue told of a doubt is told once.
        let mut desk = Desk::default();
        let work = async {
            // An error: the projector has ended.
            while lead.wait_for(|lead| lead.term.is_some()).await.is_ok() {
                tokio::select! {
                    () = self.follow(&mut desk) => {}
                    led = lead.wait_for(|lead| lead.term.is_none()) => if led.is_err() { return },
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn follow(&self, desk: &mut Desk) {
        let mut round = Round { due: Instant::now(), cursor: None };
        let mut waits = ReconnectBackoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let mut told = false;
        loop {
            match self.step(desk, &mut round).await {
                Ok(more) => {
                    waits.reset();
                    told = false;
                    if !more {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Err(error) => {
                    if !told {
                        tracing::warn!(error = chain(&error), "history is not compared with the queue; trying again");
                        told = true;
                    }
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        }
    }

    /// Looks at what was done, at what is in doubt, and at one page of the round; whether there is more at once.
    async fn step(&self, desk: &mut Desk, round: &mut Round) -> Result<bool, Interrupted> {
        let deeds = self.witness.deeds().await?;
        let cases = deeds.all.into_iter().map(|deed| Case { record: deed.id, end: deed.end, at: deed.at });
        self.look_at(cases.collect(), desk, false).await?;
        if let Some(place) = &deeds.place {
            self.witness.remember(place).await?;
        }
        if deeds.is_amiss {
            tracing::warn!("the queue has lost jobs or what was known of them; comparing history with it");
            *round = Round { due: Instant::now(), cursor: None };
        }
        let now = Instant::now();
        let due: Vec<_> = desk.doubts.iter().filter(|(_, doubt)| doubt.due <= now).map(|(id, _)| id.clone()).collect();
        if !due.is_empty() {
            let cases = due.iter().filter_map(|id| {
                let doubt = desk.doubts.get(id)?;
                Some(Case { record: id.clone(), end: doubt.end.clone(), at: doubt.at })
            });
            self.look_at(cases.collect(), desk, true).await?;
            due.iter().for_each(|id| drop(desk.doubts.remove(id)));
        }
        if round.due <= now
            && let Err(error) = self.turn(desk, round).await
        {
            // Lists may be what a store can't give while it can all else.
            tracing::debug!(error = chain(&error), "open jobs can't be gone through; trying again");
            round.due = Instant::now() + REST;
        }
        Ok(deeds.more)
    }

    /// One page of the round over all jobs that history holds for open.
    async fn turn(&self, desk: &mut Desk, round: &mut Round) -> Result<(), Interrupted> {
        let began = Instant::now();
        let states = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = JobFilter { states, ..JobFilter::default() };
        let request = PageRequest { cursor: round.cursor.clone(), limit: PAGE };
        let page = self.history.jobs(&filter, request).await?;
        let jobs: Vec<_> =
            page.items.iter().map(|job| (shown_as(&job.id, job.submitted_at), job.submitted_at)).collect();
        let open = self.witness.are_open(&jobs).await?;
        let at = self.clock.now();
        for (job, _) in page.items.into_iter().zip(open).filter(|(_, open)| !open) {
            // The first look was this one.
            let doubt = Doubt { due: Instant::now() + DOUBT, end: None, at };
            desk.doubts.entry(job.id).or_insert(doubt);
        }
        round.cursor = page.next;
        let rest = if round.cursor.is_some() { LOOK } else { REST };
        round.due = Instant::now() + rest.max(began.elapsed() * SHARE);
        Ok(())
    }

    /// Compares these jobs, and writes down what history lacks of them.
    async fn look_at(&self, cases: Vec<Case>, desk: &mut Desk, again: bool) -> Result<(), Interrupted> {
        if cases.is_empty() {
            return Ok(());
        }
        // An id of history's own making shows only in the record.
        let mut known = Vec::with_capacity(cases.len());
        for case in cases {
            let record = if again { self.history.job(&case.record).await? } else { None };
            let id = record.map_or_else(|| Some(case.record.clone()), |record| record.own_id());
            // Of a job whose id nobody knows, nobody can say that it is lost.
            known.extend(id.map(|id| (id, case)));
        }
        let ids: Vec<_> = known.iter().map(|(id, _)| id.clone()).collect();
        let held = self.witness.held(&ids).await?;
        // After the look at the queue: see `compare`.
        self.catch_up().await?;
        let mut missing: Vec<Event> = Vec::new();
        for ((id, case), held) in known.into_iter().zip(held) {
            for record in self.records(&id, &case.record, &held).await? {
                match compare(&record, &held, case.end.as_ref(), case.at, again) {
                    Finding::Agrees => {}
                    Finding::Doubt => {
                        let doubt = Doubt { due: Instant::now() + DOUBT, end: case.end.clone(), at: case.at };
                        desk.doubts.insert(record.id.clone(), doubt);
                    }
                    Finding::Lacks(kinds) => {
                        let job = self.job(&record, &held);
                        tracing::info!(job = %record.id, "another program has moved a job; history is told");
                        let at = self.clock.now();
                        let events = kinds.into_iter().map(|kind| Event::new(at, job.clone(), kind));
                        let first = missing.len();
                        missing.extend(events);
                        if let (Held::Job(queued), Some(event)) = (&held, missing.get_mut(first))
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

    fn job(&self, record: &JobRecord, held: &Held) -> Arc<Job> {
        match held {
            Held::Job(queued) if queued.job.submitted_at == record.submitted_at => queued.job.clone(),
            _ => job_of(record),
        }
    }

    /// What history knows of the job that was asked about, and of the one that the queue holds under its id.
    async fn records(&self, id: &JobId, record: &JobId, held: &Held) -> Result<Vec<JobRecord>, StoreError> {
        let mut found = Vec::from_iter(self.history.job(record).await?);
        if let Held::Job(queued) = held
            && !found.iter().any(|record| record.submitted_at == queued.job.submitted_at)
        {
            found.extend(self.history.job(&id.come_again(queued.job.submitted_at)).await?);
        }
        Ok(found)
    }

    /// Returns when history has been folded through what the log holds now.
    async fn catch_up(&self) -> Result<(), Interrupted> {
        let last = self.source.span().await?.last;
        let deadline = Instant::now() + CATCH_UP;
        let mut waits = ReconnectBackoff::new(Duration::from_millis(5), Duration::from_millis(100));
        while self.history.cursor().await? < last {
            if Instant::now() >= deadline {
                return Err(Interrupted::Behind);
            }
            tokio::time::sleep(waits.next_wait()).await;
        }
        Ok(())
    }
}

/// The id in the queue of a job that history may have under one of its own making ([`JobId::come_again`]), as far as that
/// one shows it.
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
