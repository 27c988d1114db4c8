//! Jobs that come by themselves: a table of schedules, each with the time that is due next.
//!
//! To fire is one transaction: the job goes in and the schedule moves on to its next time. The first to come does it, a
//! claim that has room or the sweep of any process; the next one finds that nothing is due.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};

use super::super::schedules::{ScheduleStanding, in_order};
use super::super::{QueueError, Scheduler};
use super::schema::{json, to_json};
use super::submit::{Prepared, insert};
use super::{EmbeddedQueue, Inner};
use crate::domain::{JobId, Schedule, ScheduleId, Timestamp};

use async_trait::async_trait;

/// Schedules that fire in one transaction.
const BATCH: usize = 100;

/// SQL: holds for schedules `s` that may fire: those whose last job does not wait to be started.
const MAY_FIRE: &str = "s.paused = 0 AND s.next_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM queue_jobs j WHERE j.id = s.last_job AND j.attempts_started = j.unstarted AND j.state <= 2)";

/// Submits the jobs that are due, at most [`BATCH`]; answers how many.
pub(super) fn fire_due(c: &Connection, inner: &Inner, now: Timestamp) -> rusqlite::Result<usize> {
    let sql = format!(
        "SELECT id, schedule, next_at FROM queue_schedules s WHERE s.next_at <= ?1 AND {MAY_FIRE}
         ORDER BY next_at LIMIT {BATCH}"
    );
    let due: Vec<(String, String, i64)> = c
        .prepare_cached(&sql)?
        .query_map([now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, text, due) in &due {
        let schedule: Schedule = match serde_json::from_str(text) {
            Ok(schedule) => schedule,
            Err(e) => {
                tracing::error!(schedule = id, error = %e, "a schedule can't be read; it brings no jobs any more");
                c.prepare_cached("UPDATE queue_schedules SET next_at = NULL WHERE id = ?1")?.execute([id])?;
                continue;
            }
        };
        let due = Timestamp::from_millis(*due);
        let job = schedule.job.job(schedule.job_id(due), now);
        let job_id = job.job.id.to_string();
        insert(c, &Prepared::new(job, inner), now)?;
        let next = schedule.timing.next(Some(due), now).map(Timestamp::as_millis);
        c.prepare_cached("UPDATE queue_schedules SET next_at = ?2, last_at = ?3, last_job = ?4 WHERE id = ?1")?
            .execute((id, next, due.as_millis(), job_id))?;
    }
    Ok(due.len())
}

/// When the next schedule is due that may fire.
pub(super) fn next_due(c: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let sql = format!("SELECT min(next_at) FROM queue_schedules s WHERE {MAY_FIRE}");
    let next: Option<i64> = c.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
    Ok(next.map(Timestamp::from_millis))
}

/// Submits a batch of jobs that are due. Answers whether there may be more. Claims do the same in time; this is for a
/// queue whose workers are busy, or that has none.
pub(super) async fn fire(inner: &Arc<Inner>) -> Result<bool, QueueError> {
    let now = inner.clock.now();
    if inner.db.read(next_due).await?.is_none_or(|due| due > now) {
        return Ok(false);
    }
    let shared = inner.clone();
    let fired = inner.db.write(move |c| fire_due(c, &shared, now)).await?;
    if fired > 0 {
        inner.wakes.jobs.signal();
    }
    Ok(fired == BATCH)
}

const SELECT: &str = "SELECT schedule, paused, next_at, last_at, last_job FROM queue_schedules";

fn standing(row: &Row<'_>) -> rusqlite::Result<ScheduleStanding> {
    let paused: bool = row.get(1)?;
    let time = |ms: Option<i64>| ms.map(Timestamp::from_millis);
    let last_job: Option<String> = row.get(4)?;
    Ok(ScheduleStanding {
        schedule: Arc::new(json::<Schedule>(row, 0)?),
        paused,
        next_at: time(row.get(2)?).filter(|_| !paused),
        last_at: time(row.get(3)?),
        last_job: last_job.and_then(|id| JobId::parse(&id).ok()),
    })
}

fn find(c: &Connection, id: &ScheduleId) -> rusqlite::Result<Option<ScheduleStanding>> {
    c.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?.query_row([id.as_str()], standing).optional()
}

fn put(c: &Connection, schedule: &Schedule, now: Timestamp) -> rusqlite::Result<bool> {
    let known = find(c, &schedule.id)?;
    let next = match &known {
        Some(known)
            if known.schedule.timing == schedule.timing
                && known.next_at.is_some_and(|next| !schedule.timing.is_far_beyond(next, now)) =>
        {
            known.next_at
        }
        // Another beat begins anew, and so does one that a wrong clock has carried far ahead.
        _ => schedule.timing.next(None, now),
    };
    c.prepare_cached(
        "INSERT INTO queue_schedules (id, schedule, next_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET schedule = excluded.schedule, next_at = excluded.next_at",
    )?
    .execute((schedule.id.as_str(), to_json(schedule), next.map(Timestamp::as_millis)))?;
    Ok(known.is_none())
}

fn pause(c: &Connection, id: &ScheduleId, paused: bool, now: Timestamp) -> rusqlite::Result<bool> {
    let Some(known) = find(c, id)? else { return Ok(false) };
    let timing = &known.schedule.timing;
    let is_astray = !paused && known.next_at.is_some_and(|next| timing.is_far_beyond(next, now));
    if known.paused != paused || is_astray {
        // What was missed on purpose is not made up for.
        let next = timing.next_anew(known.last_at, now);
        c.prepare_cached("UPDATE queue_schedules SET paused = ?2, next_at = ?3 WHERE id = ?1")?.execute((
            id.as_str(),
            paused,
            next.map(Timestamp::as_millis),
        ))?;
    }
    Ok(true)
}

#[async_trait]
impl Scheduler for EmbeddedQueue {
    async fn put_schedule(&self, schedule: Arc<Schedule>) -> Result<bool, QueueError> {
        let clock = self.inner.clock.clone();
        let new = self.inner.db.write(move |c| put(c, &schedule, clock.now())).await?;
        // Claims sleep until the next job is due.
        self.inner.wakes.jobs.signal();
        Ok(new)
    }

    async fn schedules(&self) -> Result<Vec<ScheduleStanding>, QueueError> {
        let all = self.inner.db.read(|c| c.prepare_cached(SELECT)?.query_map([], standing)?.collect());
        Ok(in_order(all.await?))
    }

    async fn find_schedule(&self, id: &ScheduleId) -> Result<Option<ScheduleStanding>, QueueError> {
        let id = id.clone();
        Ok(self.inner.db.read(move |c| find(c, &id)).await?)
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, QueueError> {
        let id = id.clone();
        let removed = self
            .inner
            .db
            .write(move |c| c.prepare_cached("DELETE FROM queue_schedules WHERE id = ?1")?.execute([id.as_str()]));
        Ok(removed.await? > 0)
    }

    async fn pause_schedule(&self, id: &ScheduleId, paused: bool) -> Result<bool, QueueError> {
        let (id, clock) = (id.clone(), self.inner.clock.clone());
        let known = self.inner.db.write(move |c| pause(c, &id, paused, clock.now())).await?;
        self.inner.wakes.jobs.signal();
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tests::Bench;
    use super::*;
    use crate::domain::{Clock, JobState, PageRequest, Template, Timing, Verdict};
    use crate::queue::Queue;
    use crate::queue::QueueSettings;

    async fn every(bench: &Bench, ms: u64) -> ScheduleId {
        let id = ScheduleId::custom("s").unwrap();
        let job = Template::of(bench.job(|_| {})).unwrap();
        let timing = Timing::every(Duration::from_millis(ms)).unwrap();
        let schedule = Schedule { id: id.clone(), timing, job };
        assert!(bench.queue.put_schedule(Arc::new(schedule)).await.unwrap());
        id
    }

    async fn waiting(bench: &Bench) -> Vec<JobId> {
        let page = bench.queue.page(None, JobState::Waiting, PageRequest::first(PageRequest::MAX)).await.unwrap();
        page.items.iter().map(|j| j.job.id.clone()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn times_that_nobody_looked_after_are_made_up_for_by_one_job() {
        let bench = Bench::with(QueueSettings::default()).await;
        let start = bench.clock.now();
        let id = every(&bench, 60_000).await;
        bench.sweep().await;
        assert_eq!(waiting(&bench).await, [id.job_id(start)], "an interval begins at once");
        let mut claims = bench.claim("w", 1).await;
        claims.next().await.unwrap().settle(Verdict::Complete { result: None }).await;
        claims.close().await;
        bench.clock.advance(Duration::from_secs(3600 + 7));
        bench.sweep().await;
        bench.sweep().await;
        assert_eq!(waiting(&bench).await, [id.job_id(start + Duration::from_secs(60))], "the first that was missed");
        let now = bench.queue.find_schedule(&id).await.unwrap().unwrap();
        assert_eq!(now.next_at, Some(start + Duration::from_secs(3660)), "the beat is kept");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_whose_clock_is_behind_brings_nothing_again() {
        let bench = Bench::with(QueueSettings::default()).await;
        every(&bench, 60_000).await;
        bench.sweep().await;
        let mut claims = bench.claim("w", 1).await;
        claims.next().await.unwrap().settle(Verdict::Complete { result: None }).await;
        let behind = Clock::manual(bench.clock.now() - Duration::from_secs(600));
        for _ in 0..20 {
            let now = behind.now();
            let inner = bench.queue.inner.clone();
            let fired = bench.queue.inner.db.write(move |c| fire_due(c, &inner, now)).await.unwrap();
            assert_eq!(fired, 0, "at {now}");
            behind.advance(Duration::from_secs(30));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_clock_that_stood_years_ahead_stops_a_schedule_until_it_is_resumed_or_put_again() {
        const YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
        for by_resuming in [true, false] {
            let bench = Bench::with(QueueSettings::default()).await;
            let id = every(&bench, 60_000).await;
            // The first job comes at once, and while it waits no second does.
            bench.sweep().await;
            let mut claims = bench.claim("w", 1).await;
            claims.next().await.unwrap().settle(Verdict::Complete { result: None }).await;
            claims.close().await;
            let ahead = bench.clock.now() + YEARS;
            let inner = bench.queue.inner.clone();
            let fired = bench.queue.inner.db.write(move |c| fire_due(c, &inner, ahead)).await.unwrap();
            assert_eq!(fired, 1);
            let stuck = bench.queue.find_schedule(&id).await.unwrap().unwrap();
            let now = bench.clock.now();
            assert!(stuck.schedule.timing.trouble(stuck.next_at, now).is_some(), "{stuck:?}");
            if by_resuming {
                assert!(bench.queue.pause_schedule(&id, false).await.unwrap());
            } else {
                assert!(!bench.queue.put_schedule(stuck.schedule).await.unwrap());
            }
            let healed = bench.queue.find_schedule(&id).await.unwrap().unwrap();
            // The time a minute ahead has had its job.
            assert!(healed.next_at.unwrap().since(now) <= Duration::from_secs(120), "{healed:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_schedule_that_cannot_be_read_holds_no_other_up() {
        let bench = Bench::with(QueueSettings::default()).await;
        let id = every(&bench, 60_000).await;
        let spoil =
            bench.queue.inner.db.write(|c| {
                c.execute("INSERT INTO queue_schedules (id, schedule, next_at) VALUES ('broken', '{', 0)", [])
            });
        spoil.await.unwrap();
        bench.sweep().await;
        assert_eq!(waiting(&bench).await, [id.job_id(bench.clock.now())]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Advance(u64),
        Sweep,
        /// Two processes at the same moment.
        SweepTwice,
        Run,
        Put,
        Pause(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u64..5000).prop_map(Step::Advance),
            3 => Just(Step::Sweep),
            2 => Just(Step::SweepTwice),
            3 => Just(Step::Run),
            1 => Just(Step::Put),
            1 => any::<bool>().prop_map(Step::Pause),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_time_brings_one_job_at_most_and_one_waits_at_most(steps in prop::collection::vec(step(), 1..50)) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let bench = Bench::with(QueueSettings::default()).await;
                let id = every(&bench, 1000).await;
                let (mut seen, mut first, mut last) = (HashSet::new(), None, None);
                for step in steps {
                    match step {
                        Step::Advance(ms) => bench.clock.advance(Duration::from_millis(ms)),
                        Step::Sweep => bench.sweep().await,
                        Step::SweepTwice => {
                            tokio::join!(bench.sweep(), bench.sweep());
                        }
                        Step::Run => {
                            let now = bench.clock.now();
                            let run = bench.queue.inner.db.write(move |c| {
                                c.execute("UPDATE queue_jobs SET state = 4, attempts_started = 1, finished_at = ?1
                                    WHERE state <= 1", [now.as_millis()])
                            });
                            run.await.unwrap();
                        }
                        Step::Put => {
                            let known = bench.queue.find_schedule(&id).await.unwrap().unwrap();
                            assert!(!bench.queue.put_schedule(known.schedule).await.unwrap());
                        }
                        Step::Pause(paused) => assert!(bench.queue.pause_schedule(&id, paused).await.unwrap()),
                    }
                    let waits = waiting(&bench).await;
                    assert!(waits.len() <= 1, "{waits:?}");
                    let known = bench.queue.find_schedule(&id).await.unwrap().unwrap();
                    if known.last_at != last {
                        let due = known.last_at.unwrap();
                        assert!(seen.insert(known.last_job.clone().unwrap()), "brought twice");
                        assert!(last.is_none_or(|last| last < due) && due <= bench.clock.now());
                        // One that was paused before it began begins when it is resumed.
                        let first = *first.get_or_insert(due);
                        assert_eq!(due.since(first).as_millis() % 1000, 0, "the beat is kept");
                        last = Some(due);
                    }
                }
            });
        }
    }
}
