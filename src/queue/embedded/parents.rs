//! Jobs that wait for others, their parents. Such a job is delayed until [`NEVER`]. Triggers on the parents make it
//! ready in the very transaction in which the last of them completes, whatever completes it.
//!
//! When a parent fails, the job is made ready at once, barred: a worker takes it only to fail it too. So history hears
//! of it as of every other end.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use serde_json::{Map, Value};

use super::super::{ParentResults, QueueError};
use crate::domain::{Job, JobId, Timestamp};

/// When a job is due that waits for others.
pub(super) const NEVER: i64 = i64::MAX;

/// `waits` counts the rows of `queue_waits` that are not done. A row stays with the job that has waited, for its
/// result; `on_job` is an id, since the job that was waited for may be removed before. The sentence in
/// `queue_before_failed`, and in [`ENDED_ALONE`] after it, is that of
/// [`not_run_because`](super::super::lease::not_run_because), and stands in the trigger of every file: another sentence
/// needs a step that makes the trigger anew.
pub(super) const TABLES: &str = r"
ALTER TABLE queue_jobs ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue_jobs ADD COLUMN pause INTEGER NOT NULL DEFAULT 0; -- ms to be delayed once nothing is waited for
ALTER TABLE queue_jobs ADD COLUMN barred TEXT;

CREATE TABLE queue_waits (
    on_job TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES queue_jobs ON DELETE CASCADE,
    done INTEGER NOT NULL DEFAULT 0,
    result TEXT,                        -- JSON
    PRIMARY KEY (on_job, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX queue_waits_of ON queue_waits (job);

CREATE TRIGGER queue_before_completed AFTER UPDATE OF state ON queue_jobs
WHEN NEW.state = 4 AND OLD.state <> 4 AND EXISTS (SELECT 1 FROM queue_waits WHERE on_job = NEW.id AND NOT done)
BEGIN
    UPDATE queue_jobs SET waits = waits - 1
    WHERE seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_jobs
    SET state = iif(pause > 0, 2, priority > 0), due_at = iif(pause > 0, NEW.finished_at + pause, NULL)
    WHERE state = 2 AND waits = 0 AND due_at = 9223372036854775807
        AND seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_waits SET done = 1, result = NEW.result WHERE on_job = NEW.id AND NOT done;
END;

CREATE TRIGGER queue_before_failed AFTER UPDATE OF state ON queue_jobs
WHEN NEW.state = 5 AND OLD.state <> 5 AND EXISTS (SELECT 1 FROM queue_waits WHERE on_job = NEW.id AND NOT done)
BEGIN
    UPDATE queue_jobs SET waits = waits - 1
    WHERE seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_jobs SET state = (priority > 0), due_at = NULL,
        barred = 'not run, because job ' || NEW.id || ', which comes before it, failed: ' || coalesce(NEW.error, '')
    WHERE state = 2 AND due_at = 9223372036854775807
        AND seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_waits SET done = 1 WHERE on_job = NEW.id AND NOT done;
END;

CREATE TRIGGER queue_before_removed BEFORE DELETE ON queue_jobs
WHEN OLD.state < 4 AND EXISTS (SELECT 1 FROM queue_waits WHERE on_job = OLD.id AND NOT done)
BEGIN
    UPDATE queue_jobs SET waits = waits - 1
    WHERE seq IN (SELECT job FROM queue_waits WHERE on_job = OLD.id AND NOT done);
    UPDATE queue_jobs SET state = (priority > 0), due_at = NULL
    WHERE state = 2 AND waits = 0 AND due_at = 9223372036854775807
        AND seq IN (SELECT job FROM queue_waits WHERE on_job = OLD.id AND NOT done);
    UPDATE queue_waits SET done = 1 WHERE on_job = OLD.id AND NOT done;
END;
";

/// Every trigger runs for each row of an update that names its column, whatever its condition says. So one trigger stands
/// for the two above, on a column that only the end of a job sets. Its sentence is theirs.
pub(super) const ENDED_ALONE: &str = r"
DROP TRIGGER queue_before_completed;
DROP TRIGGER queue_before_failed;
CREATE TRIGGER queue_before_ended AFTER UPDATE OF finished_at ON queue_jobs
WHEN NEW.state >= 4 AND OLD.state < 4 AND EXISTS (SELECT 1 FROM queue_waits WHERE on_job = NEW.id AND NOT done)
BEGIN
    UPDATE queue_jobs SET waits = waits - 1
    WHERE seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_jobs
    SET state = iif(pause > 0, 2, priority > 0), due_at = iif(pause > 0, NEW.finished_at + pause, NULL)
    WHERE NEW.state = 4 AND state = 2 AND waits = 0 AND due_at = 9223372036854775807
        AND seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_jobs SET state = (priority > 0), due_at = NULL,
        barred = 'not run, because job ' || NEW.id || ', which comes before it, failed: ' || coalesce(NEW.error, '')
    WHERE NEW.state = 5 AND state = 2 AND due_at = 9223372036854775807
        AND seq IN (SELECT job FROM queue_waits WHERE on_job = NEW.id AND NOT done);
    UPDATE queue_waits SET done = 1, result = iif(NEW.state = 4, NEW.result, NULL) WHERE on_job = NEW.id AND NOT done;
END;
";

/// Why one of the jobs can't come after those that it names, if that is so.
pub(super) fn refusal<'j>(
    c: &Connection,
    jobs: impl Iterator<Item = &'j Arc<Job>>,
) -> rusqlite::Result<Option<QueueError>> {
    let mut earlier = HashSet::new();
    for job in jobs {
        // One that is there already is answered with itself.
        let new = !job.options.after.is_empty() && state_of(c, &job.id)?.is_none();
        for id in job.options.after.iter().filter(|_| new) {
            if earlier.contains(id) {
                continue;
            }
            match state_of(c, id)? {
                None => return Ok(Some(QueueError::unknown_parent(id))),
                Some(5) => return Ok(Some(QueueError::failed_parent(id))),
                Some(_) => {}
            }
        }
        earlier.insert(&job.id);
    }
    Ok(None)
}

fn state_of(c: &Connection, id: &JobId) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached("SELECT state FROM queue_jobs WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()
}

/// Makes a job that was just put in wait for those that it comes after, unless all of them have completed.
pub(super) fn wait_for_parents(c: &Connection, seq: i64, job: &Job, now: Timestamp) -> rusqlite::Result<()> {
    for id in &job.options.after {
        c.prepare_cached(
            "INSERT INTO queue_waits (on_job, job, done, result)
             SELECT id, ?2, state = 4, iif(state = 4, result, NULL) FROM queue_jobs WHERE id = ?1",
        )?
        .execute((id.as_str(), seq))?;
    }
    let pause = i64::try_from(job.options.delay.as_millis()).unwrap_or(i64::MAX);
    c.prepare_cached(
        "UPDATE queue_jobs SET waits = n.waits, pause = ?2,
            state = CASE WHEN n.waits > 0 OR ?2 > 0 THEN 2 ELSE priority > 0 END,
            due_at = CASE WHEN n.waits > 0 THEN ?3 WHEN ?2 > 0 THEN ?4 END
         FROM (SELECT count(*) AS waits FROM queue_waits WHERE job = ?1 AND NOT done) n WHERE seq = ?1",
    )?
    .execute((seq, pause, NEVER, (now + job.options.delay).as_millis()))?;
    Ok(())
}

/// Whether a job that has just ended let others go.
pub(super) fn has_children(c: &Connection, seq: i64) -> rusqlite::Result<bool> {
    c.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM queue_waits WHERE on_job = (SELECT id FROM queue_jobs WHERE seq = ?1))",
    )?
    .query_row([seq], |row| row.get(0))
}

/// A column of a job that is being taken: what those gave back that it has waited for.
pub(super) const RESULTS: &str = "(SELECT json_group_object(on_job, json(result)) FROM queue_waits w
    WHERE w.job = queue_jobs.seq AND w.result IS NOT NULL)";

/// What became of those that came before, from `barred` and [`RESULTS`].
pub(super) fn results(barred: Option<String>, results: Option<&str>) -> ParentResults {
    let results: Map<String, Value> =
        results.filter(|text| *text != "{}").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    ParentResults { barred, results }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::tests::Bench;
    use crate::domain::{JobId, JobState, Verdict};
    use crate::queue::QueueSettings;
    use crate::queue::lease::not_run_because;
    use crate::queue::{Cancellation, Operator, Queue};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_trigger_says_why_a_job_is_not_run_as_the_port_does() {
        let bench = Bench::with(QueueSettings::default()).await;
        let first = bench.submit(bench.job(|_| {})).await.id;
        bench.submit(bench.job(|o| o.after = vec![first.clone()])).await;
        let mut claims = bench.claim("w", 1).await;
        claims.next().await.unwrap().settle(Verdict::Fail { error: "broken".to_owned() }).await;
        let lease = claims.next().await.unwrap();
        assert_eq!(lease.barred(), Some(&*not_run_because(first.as_str(), "broken")));
    }

    /// What becomes of the next job that is taken, or of any that is not running.
    #[derive(Debug, Clone)]
    enum Fate {
        Complete,
        Fail,
        Cancel(usize),
        Remove(usize),
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            6 => Just(Fate::Complete),
            2 => Just(Fate::Fail),
            1 => any::<usize>().prop_map(Fate::Cancel),
            1 => any::<usize>().prop_map(Fate::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_job_runs_when_all_before_it_have_completed_and_all_come_to_an_end(
            before in prop::collection::vec(prop::collection::vec(any::<usize>(), 0..4), 1..12),
            fates in prop::collection::vec(fate(), 60),
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let settings = QueueSettings { lease: Duration::from_secs(3600), ..QueueSettings::default() };
                let bench = Bench::with(settings).await;
                let mut ids: Vec<JobId> = Vec::new();
                let mut waits: HashMap<JobId, Vec<JobId>> = HashMap::new();
                for before in before {
                    let mut after: Vec<JobId> = Vec::new();
                    for i in before {
                        let Some(id) = (!ids.is_empty()).then(|| ids[i % ids.len()].clone()) else { continue };
                        if !after.contains(&id) {
                            after.push(id);
                        }
                    }
                    let id = bench.submit(bench.job(|o| o.after = after.clone())).await.id;
                    waits.insert(id.clone(), after);
                    ids.push(id);
                }
                let mut ended: HashMap<JobId, JobState> = HashMap::new();
                let mut removed: Vec<JobId> = Vec::new();
                let mut claims = bench.claim("w", 1).await;
                for fate in fates {
                    let known: Vec<_> = ids.iter().filter(|id| !ended.contains_key(id) && !removed.contains(id)).collect();
                    if known.is_empty() {
                        break;
                    }
                    let verdict = match fate {
                        Fate::Complete => Verdict::Complete { result: Some(1.into()) },
                        Fate::Fail => Verdict::Fail { error: "broken".to_owned() },
                        Fate::Cancel(i) => {
                            let id = known[i % known.len()].clone();
                            if let Cancellation::Ended(_) = bench.queue.cancel(&id, "no").await.unwrap() {
                                ended.insert(id, JobState::Failed);
                            }
                            continue;
                        }
                        Fate::Remove(i) => {
                            let id = known[i % known.len()].clone();
                            if let crate::queue::Change::Done(..) = bench.queue.remove(&id).await.unwrap() {
                                removed.push(id);
                            }
                            continue;
                        }
                    };
                    let lease = tokio::time::timeout(Duration::from_secs(60), claims.next()).await
                        .expect("one of them can always be taken").unwrap();
                    let id = lease.job().id.clone();
                    if !ended.contains_key(&id) && !removed.contains(&id) {
                        let failed = waits[&id].iter().any(|b| ended.get(b) == Some(&JobState::Failed));
                        assert_eq!(lease.barred().is_some(), failed);
                        let pending = waits[&id].iter().filter(|b| !ended.contains_key(b) && !removed.contains(b)).count();
                        assert!(failed || pending == 0, "{id} came too early");
                    }
                    let (verdict, state) = match (lease.barred().is_some(), verdict) {
                        (false, verdict @ Verdict::Complete { .. }) => (verdict, JobState::Completed),
                        (_, _) => (Verdict::Fail { error: "why".to_owned() }, JobState::Failed),
                    };
                    lease.settle(verdict).await;
                    ended.insert(id, state);
                }
                for (id, state) in ended {
                    let found = bench.queue.find(std::slice::from_ref(&id)).await.unwrap().remove(0);
                    assert_eq!(found.map(|job| job.state), Some(state));
                }
            });
        }
    }
}
