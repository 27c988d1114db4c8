//! Adds jobs: all jobs of a call in one transaction, with the keys that make a repetition harmless.

use std::sync::{Arc, LazyLock};

use rusqlite::{Connection, OptionalExtension};

use super::super::{Idempotency, QueueError, Submission};
use super::kinds::{self, Kind};
use super::schema::{NEXT_SEQ, accepted, code, json, to_json};
use super::{Inner, parents, queues};
use crate::domain::{AcceptedJob, Event, JobId, JobState, QueueName, Timestamp};
use crate::sqlite::Appender;
use crate::wake::SignalOnDrop;

/// A job with its header written out, before it reaches the writing thread.
pub(super) struct Prepared {
    job: AcceptedJob,
    header: Vec<u8>,
    /// Its kind, as JSON.
    kind: String,
    state: JobState,
    due_at: Option<i64>,
    /// `None` for the default one.
    queue: Option<QueueName>,
}

impl Prepared {
    pub(super) fn new(accepted: AcceptedJob, inner: &Inner) -> Self {
        let job = &accepted.job;
        let options = &job.options;
        let state = match (options.delay.is_zero(), options.priority) {
            (false, _) => JobState::Delayed,
            (true, 0) => JobState::Waiting,
            (true, _) => JobState::Prioritized,
        };
        let due_at = (state == JobState::Delayed).then(|| (job.submitted_at + options.delay).as_millis());
        let queue = options.queue.as_ref().and_then(|queue| inner.named(queue));
        Self {
            header: to_json(&**job).into_bytes(),
            kind: to_json(&Kind::of(job)),
            state,
            due_at,
            queue,
            job: accepted,
        }
    }

    fn event(&self) -> Event {
        Event::submitted(self.job.clone())
    }
}

enum Submitted {
    /// With what wakes the readers of the event log, if it was told of them.
    New(Vec<Submission>, Option<SignalOnDrop>),
    Replayed(Vec<Submission>),
    Refused(QueueError),
}

pub(super) async fn submit(
    inner: &Arc<Inner>,
    jobs: Vec<AcceptedJob>,
    idempotency: Option<Idempotency>,
) -> Result<Vec<Submission>, QueueError> {
    let jobs: Vec<_> = jobs.into_iter().map(|job| Prepared::new(job, inner)).collect();
    let log = inner.log.clone();
    let encode = |log: &Arc<dyn Appender<Event>>| jobs.iter().map(|job| log.encode(&job.event())).collect();
    let events: Vec<_> = log.as_ref().map(encode).unwrap_or_default();
    let clock = inner.clock.clone();
    let submitted = inner.db.write(move |c| {
        let now = clock.now();
        if let Some(idempotency) = &idempotency
            && let Some(answer) = replay(c, idempotency, now)?
        {
            return Ok(answer);
        }
        if let Some(error) = parents::refusal(c, jobs.iter().map(|prepared| &prepared.job.job))? {
            return Ok(Submitted::Refused(error));
        }
        let mut submissions = jobs.iter().map(|job| insert(c, job, now)).collect::<rusqlite::Result<Vec<_>>>()?;
        let signal = log.as_ref().map(|log| announce(c, &**log, &mut submissions, &events)).transpose()?.flatten();
        if let Some(idempotency) = &idempotency {
            remember(c, idempotency, &submissions, now)?;
        }
        Ok(Submitted::New(submissions, signal))
    });
    match submitted.await? {
        Submitted::New(submissions, _signal) => {
            inner.wakes.jobs.signal();
            Ok(submissions)
        }
        Submitted::Replayed(submissions) => Ok(submissions),
        Submitted::Refused(error) => Err(error),
    }
}

/// Tells the event log of the new jobs among these, whose events are these. Without room there it tells of none, as if there
/// were no log.
fn announce(
    c: &Connection,
    log: &dyn Appender<Event>,
    submissions: &mut [Submission],
    events: &[Vec<u8>],
) -> rusqlite::Result<Option<SignalOnDrop>> {
    let new = submissions.iter().zip(events).filter(|(submission, _)| !submission.duplicate);
    let new: Vec<_> = new.map(|(_, event)| event.as_slice()).collect();
    if new.is_empty() {
        return Ok(None);
    }
    let signal = log.append_within(c, &new)?;
    for submission in submissions {
        submission.announced = signal.is_some() && !submission.duplicate;
    }
    Ok(signal)
}

/// The answer that was given under this key before.
fn replay(c: &Connection, idempotency: &Idempotency, now: Timestamp) -> rusqlite::Result<Option<Submitted>> {
    c.prepare_cached("SELECT request, answer FROM queue_idempotency WHERE key = ?1 AND expires_at > ?2")?
        .query_row((&idempotency.key, now.as_millis()), |row| {
            if let Err(error) = idempotency.check(row.get_ref(0)?.as_bytes()?) {
                return Ok(Submitted::Refused(error));
            }
            let answer: Vec<Submission> = json(row, 1)?;
            let again =
                answer.into_iter().map(|submission| duplicate_of(c, submission.id)).collect::<rusqlite::Result<_>>()?;
            Ok(Submitted::Replayed(again))
        })
        .optional()
}

fn remember(c: &Connection, by: &Idempotency, answer: &[Submission], now: Timestamp) -> rusqlite::Result<()> {
    c.prepare_cached(
        "INSERT INTO queue_idempotency VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
         SET request = excluded.request, answer = excluded.answer, expires_at = excluded.expires_at",
    )?
    .execute((&by.key, &by.request[..], to_json(&answer), (now + by.ttl).as_millis()))?;
    Ok(())
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO queue_jobs (seq, id, state, priority, kind, due_at, dedup_key, queue)
         VALUES ({NEXT_SEQ}, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING"
    )
});

pub(super) fn insert(c: &Connection, prepared: &Prepared, now: Timestamp) -> rusqlite::Result<Submission> {
    let Prepared { job: accepted, header, kind, state, due_at, queue } = prepared;
    let job = &accepted.job;
    let deduplication = job.options.deduplication.as_ref();
    if let Some(deduplication) = deduplication
        && let Some(holder) = holder_of(c, &deduplication.key, now)?
    {
        return duplicate_of(c, holder);
    }
    let until_final = deduplication.filter(|d| d.ttl.is_none()).map(|d| &d.key);
    let queue = queues::number_or_new(c, queue.as_ref())?;
    let kind = kinds::number_or_new(c, kind)?;
    let inserted = c.prepare_cached(&INSERT)?.execute((
        job.id.as_str(),
        code(*state),
        job.options.priority,
        kind,
        due_at,
        until_final,
        queue,
    ))?;
    if inserted == 0 {
        return duplicate_of(c, job.id.clone());
    }
    let seq = c.last_insert_rowid();
    c.prepare_cached("INSERT INTO queue_payloads VALUES (?1, ?2, ?3)")?.execute((
        seq,
        header,
        accepted.body.as_str().as_bytes(),
    ))?;
    if !job.options.after.is_empty() {
        parents::wait_for_parents(c, seq, job, now)?;
    }
    if let Some(deduplication) = deduplication
        && let Some(ttl) = deduplication.ttl
    {
        c.prepare_cached(
            "INSERT INTO queue_dedup VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET id = excluded.id, expires_at = excluded.expires_at",
        )?
        .execute((&deduplication.key, job.id.as_str(), (now + ttl).as_millis()))?;
    }
    Ok(Submission::new(accepted.clone()))
}

/// The answer for a job in whose place that with this id stands.
fn duplicate_of(c: &Connection, id: JobId) -> rusqlite::Result<Submission> {
    let job = accepted(c, &id)?;
    Ok(Submission::duplicate(id, job))
}

/// The job that has taken a deduplication key: for a time, or until it has ended.
pub(super) fn holder_of(c: &Connection, key: &str, now: Timestamp) -> rusqlite::Result<Option<JobId>> {
    c.prepare_cached(
        "SELECT id FROM queue_dedup WHERE key = ?1 AND expires_at > ?2
         UNION ALL SELECT id FROM queue_jobs WHERE dedup_key = ?1 AND state <= 3 LIMIT 1",
    )?
    .query_row((key, now.as_millis()), |row| {
        let id: String = row.get(0)?;
        JobId::parse(&id)
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, e.into()))
    })
    .optional()
}
