//! The tables, and rows into [`QueuedJob`]s.
//!
//! A job is one short row that changes (`queue_jobs`), and its header and body, which never do (`queue_payloads`), so
//! that taking and settling a job never rewrites its data. States are numbers:
//!
//! | 0 | 1 | 2 | 3 | 4 | 5 |
//! |---|---|---|---|---|---|
//! | waiting | prioritized | delayed | active | completed | failed |
//!
//! so that `state <= 1` is ready (a job that waits for others is delayed without end, see [`super::parents`]),
//! `state >= 4` is final, and a job that becomes ready gets `state = (priority > 0)`. Each row stands in one of four
//! partial indexes, whose entries are in the order in which they are read.
//!
//! A lease is the triple (job, claim, start): `queue_jobs.claim` names the row of `queue_claims` that stands for one
//! worker's stream of leases, and `attempts_started` tells leases under the same claim apart. An attempt's number is
//! `attempts_started - unstarted`: a lease that started nothing leaves its number to the next. Jobs and claims are
//! numbered for ever (see `queue_numbers`), so no triple comes twice. What expires is the claim: renewing all leases of
//! a worker is one update of one row.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::de::DeserializeOwned;

use super::super::QueuedJob;
use crate::domain::{AcceptedJob, Job, JobBody, JobId, JobState, Timestamp, WorkerId};

/// The name under which versions of these tables are kept.
pub(super) const ADAPTER: &str = "queue";

/// Every change of the tables, in order.
pub(super) const STEPS: &[&str] = &[
    r"
CREATE TABLE queue_jobs (
    seq INTEGER PRIMARY KEY,            -- the order of submission
    id TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    cores INTEGER NOT NULL,             -- 0: as many as the worker gives by default
    attempts_started INTEGER NOT NULL DEFAULT 0,
    attempts_finished INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0, -- starts lost with their workers since the last finished one
    due_at INTEGER,                     -- while delayed
    claim INTEGER,                      -- while active
    finished_at INTEGER,                -- once final
    dedup_key TEXT,                     -- taken until the job has ended
    cancel_reason TEXT,
    progress TEXT,
    result TEXT,
    error TEXT
) STRICT;
CREATE INDEX queue_ready ON queue_jobs (priority, seq, cores) WHERE state <= 1;
CREATE INDEX queue_delayed ON queue_jobs (due_at, seq) WHERE state = 2;
CREATE INDEX queue_active ON queue_jobs (claim) WHERE state = 3;
CREATE INDEX queue_final ON queue_jobs (state, finished_at, seq) WHERE state >= 4;
CREATE INDEX queue_dedup_live ON queue_jobs (dedup_key) WHERE dedup_key IS NOT NULL AND state <= 3;

CREATE TABLE queue_payloads (
    seq INTEGER PRIMARY KEY REFERENCES queue_jobs ON DELETE CASCADE,
    job BLOB NOT NULL                   -- JSON
) STRICT;

CREATE TABLE queue_claims (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    worker TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE queue_workers (
    id TEXT PRIMARY KEY,
    info TEXT,                          -- JSON; null until its first heartbeat
    last_seen INTEGER NOT NULL,
    drain INTEGER NOT NULL DEFAULT 0,
    process TEXT                        -- JSON; null when it can't be told
) STRICT;

CREATE TABLE queue_output (
    pos INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES queue_jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    stream INTEGER NOT NULL,            -- 0 stdout, 1 stderr
    text TEXT NOT NULL
) STRICT;
CREATE INDEX queue_output_of ON queue_output (job);

CREATE TABLE queue_dedup (              -- keys with a time to live
    key TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX queue_dedup_expiry ON queue_dedup (expires_at);

CREATE TABLE queue_idempotency (
    key TEXT PRIMARY KEY,
    request BLOB NOT NULL,
    answer TEXT NOT NULL,               -- JSON: the submissions
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX queue_idempotency_expiry ON queue_idempotency (expires_at);

CREATE TABLE queue_switches (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    paused INTEGER NOT NULL
) STRICT;
INSERT INTO queue_switches VALUES (0, 0);
",
    r"
CREATE TABLE queue_schedules (
    id TEXT PRIMARY KEY,
    schedule TEXT NOT NULL,             -- JSON
    paused INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER,                    -- null: no time will come
    last_at INTEGER,                    -- the time of its last job
    last_job TEXT
) STRICT;
CREATE INDEX queue_schedules_due ON queue_schedules (next_at) WHERE paused = 0 AND next_at IS NOT NULL;
",
    super::parents::TABLES,
    r"
-- A claim goes by the boot clock, see `expiry`; without a boot, by `expires_at` and the time of day.
ALTER TABLE queue_claims ADD COLUMN boot TEXT;
ALTER TABLE queue_claims ADD COLUMN until_ms INTEGER;
",
    r"
-- Output in bytes, with the place of each piece in its stream.
ALTER TABLE queue_output RENAME TO queue_output_text;
CREATE TABLE queue_output (
    pos INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES queue_jobs ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    stream INTEGER NOT NULL,            -- 0 stdout, 1 stderr
    at INTEGER,                         -- bytes of the stream before it; null: it was not counted
    bytes BLOB NOT NULL
) STRICT;
INSERT INTO queue_output SELECT pos, job, attempt, stream, NULL, CAST(text AS BLOB) FROM queue_output_text;
DROP TABLE queue_output_text;
CREATE INDEX queue_output_of ON queue_output (job);

CREATE TABLE queue_spooled (            -- jobs with much output
    job INTEGER PRIMARY KEY REFERENCES queue_jobs ON DELETE CASCADE,
    until INTEGER NOT NULL              -- a client reads it, until then at least
) STRICT;
",
    r"
-- A mark on a claim that was not renewed in time, see `expiry`.
ALTER TABLE queue_claims ADD COLUMN doubt INTEGER;
",
    r"
CREATE INDEX queue_dedup_of ON queue_dedup (id);
DELETE FROM queue_dedup WHERE id NOT IN (SELECT id FROM queue_jobs);
-- Whatever takes a job out of the queue frees the key that it holds.
CREATE TRIGGER queue_dedup_freed AFTER DELETE ON queue_jobs BEGIN
    DELETE FROM queue_dedup WHERE id = old.id;
END;
",
    r"
-- `attempts_started` counts leases and is part of their fence. Some of them start nothing: they are given back, or lost
-- with their worker, before the process is spawned. `unstarted` counts those, `spawned` notes the last one that was none.
ALTER TABLE queue_jobs ADD COLUMN unstarted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue_jobs ADD COLUMN spawned INTEGER NOT NULL DEFAULT 0;
UPDATE queue_jobs SET spawned = attempts_started WHERE state = 3;
",
    r"
-- A row number that is free again is not given out again: the highest of a job that was removed.
CREATE TABLE queue_numbers (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    removed INTEGER NOT NULL
) STRICT;
INSERT INTO queue_numbers SELECT 0, coalesce(max(seq), 0) FROM queue_jobs;
CREATE TRIGGER queue_number_kept AFTER DELETE ON queue_jobs
WHEN NOT EXISTS (SELECT 1 FROM queue_jobs WHERE seq > old.seq) BEGIN
    UPDATE queue_numbers SET removed = max(removed, old.seq);
END;
",
    r"
-- What a job is given, beside its header. Where it is null, the job of version 0.1.0 has it within.
ALTER TABLE queue_payloads ADD COLUMN body BLOB;
",
    r"
-- Queues by number. The default one has the number 0 and no name here: the settings name it.
CREATE TABLE queue_names (
    id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,
    paused INTEGER NOT NULL DEFAULT 0,
    concurrency INTEGER,                -- how many of its jobs run at once
    rate_jobs INTEGER,                  -- how many start in rate_ms
    rate_ms INTEGER,
    rate_from INTEGER,                  -- when the first of the present rate_ms was started
    rate_taken INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO queue_names (id, paused) SELECT 0, paused FROM queue_switches;
ALTER TABLE queue_jobs ADD COLUMN queue INTEGER NOT NULL DEFAULT 0;
DROP INDEX queue_ready;
DROP INDEX queue_delayed;
DROP INDEX queue_active;
DROP INDEX queue_final;
CREATE INDEX queue_ready ON queue_jobs (queue, priority, seq, cores) WHERE state <= 1;
CREATE INDEX queue_delayed ON queue_jobs (due_at, seq, queue) WHERE state = 2;
CREATE INDEX queue_active ON queue_jobs (claim, queue) WHERE state = 3;
CREATE INDEX queue_final ON queue_jobs (state, finished_at, seq, queue) WHERE state >= 4;
",
    r#"
-- Jobs with the same needs and group have the same kind (see `kinds`): JSON, in which older jobs have name, cores and memory.
CREATE TABLE queue_kinds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL UNIQUE
) STRICT;
ALTER TABLE queue_jobs ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
CREATE TEMP TABLE kind_of (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL);
-- Data that version 0.1.0 kept within the job may be nested deeper than SQLite reads.
INSERT INTO kind_of SELECT seq, CASE WHEN json_valid(job)
    THEN json_object('name', job ->> '$.name',
        'cores', job ->> '$.options.cores', 'memory_bytes', job ->> '$.options.memory_bytes')
    ELSE json_object('name', substr(job, instr(job, '"name":"') + 8,
        instr(substr(job, instr(job, '"name":"') + 8), '"') - 1)) END
FROM (SELECT seq, CAST(job AS TEXT) AS job FROM queue_payloads);
INSERT INTO queue_kinds (kind) SELECT DISTINCT kind FROM kind_of;
UPDATE queue_jobs SET kind = coalesce(
    (SELECT k.id FROM kind_of o JOIN queue_kinds k ON k.kind = o.kind WHERE o.seq = queue_jobs.seq), 0);
DROP TABLE kind_of;
DROP INDEX queue_ready;
ALTER TABLE queue_jobs DROP COLUMN cores;
CREATE INDEX queue_ready ON queue_jobs (queue, priority, seq) WHERE state <= 1;
CREATE INDEX queue_ready_of_kind ON queue_jobs (queue, kind, priority, seq) WHERE state <= 1;
DROP INDEX queue_active;
CREATE INDEX queue_active ON queue_jobs (claim, queue, kind) WHERE state = 3;
-- Whether slots go to the groups of a queue in turn.
ALTER TABLE queue_names ADD COLUMN fair INTEGER NOT NULL DEFAULT 0;
"#,
    r"
-- The output of a job lies together, under the job itself: no index beside the table.
ALTER TABLE queue_output RENAME TO queue_output_numbered;
CREATE TABLE queue_output (
    job INTEGER NOT NULL REFERENCES queue_jobs ON DELETE CASCADE,
    pos INTEGER NOT NULL,               -- rises within a job, and is never given out again
    attempt INTEGER NOT NULL,
    stream INTEGER NOT NULL,            -- 0 stdout, 1 stderr
    at INTEGER,                         -- bytes of the stream before it; null: it was not counted
    bytes BLOB NOT NULL,
    PRIMARY KEY (job, pos)
) STRICT, WITHOUT ROWID;
INSERT INTO queue_output SELECT job, pos, attempt, stream, at, bytes FROM queue_output_numbered ORDER BY job, pos;
DROP TABLE queue_output_numbered;
-- Ready jobs stand in one index, by kind: claims take them so, and lists merge the kinds.
DROP INDEX queue_ready;
",
    super::parents::ENDED_ALONE,
];

/// The number of the next job: never one that another job has or had.
pub(super) const NEXT_SEQ: &str =
    "(SELECT 1 + max(removed, (SELECT coalesce(max(seq), 0) FROM queue_jobs)) FROM queue_numbers)";

/// A state as it stands in the tables.
pub(super) fn code(state: JobState) -> i64 {
    match state {
        JobState::Waiting => 0,
        JobState::Prioritized => 1,
        JobState::Delayed => 2,
        JobState::Active => 3,
        JobState::Completed => 4,
        JobState::Failed => 5,
    }
}

/// A column as a state.
pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<JobState> {
    let found: i64 = row.get(column)?;
    JobState::ALL.into_iter().find(|s| code(*s) == found).ok_or_else(|| unreadable(column, Type::Integer, "no state"))
}

fn unreadable(
    column: usize,
    kind: Type,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, cause.into())
}

/// A column as what its JSON says.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?;
    let bytes = text.as_bytes().map_err(|e| unreadable(column, text.data_type(), e))?;
    serde_json::from_slice(bytes).map_err(|e| unreadable(column, text.data_type(), e))
}

/// A column as what its JSON says, unless it is null.
pub(super) fn json_option<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    if row.get_ref(column)? == rusqlite::types::ValueRef::Null { Ok(None) } else { json(row, column).map(Some) }
}

/// JSON for a column.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the types kept here have only string keys and finite numbers")
}

/// Selects all of a job for [`queued_job`]; conditions go behind it.
pub(super) const SELECT_JOB: &str = "
    SELECT j.seq, p.job, j.state, j.attempts_started - j.unstarted, j.attempts_finished, j.due_at, c.worker, j.progress,
           j.cancel_reason, j.finished_at, j.result, j.error, j.priority,
           CASE WHEN j.waits > 0 THEN (SELECT json_group_array(on_job) FROM queue_waits w WHERE w.job = j.seq AND NOT done)
           END, coalesce(p.body, p.job), j.queue
    FROM queue_jobs j JOIN queue_payloads p ON p.seq = j.seq LEFT JOIN queue_claims c ON c.id = j.claim ";

/// The same without the body and what the job gave back. SQLite does not touch the pages on which a large body lies.
pub(super) const SELECT_STANDING: &str = "
    SELECT j.seq, p.job, j.state, j.attempts_started - j.unstarted, j.attempts_finished, j.due_at, c.worker, j.progress,
           j.cancel_reason, j.finished_at, NULL, j.error, j.priority,
           CASE WHEN j.waits > 0 THEN (SELECT json_group_array(on_job) FROM queue_waits w WHERE w.job = j.seq AND NOT done)
           END, NULL, j.queue
    FROM queue_jobs j JOIN queue_payloads p ON p.seq = j.seq LEFT JOIN queue_claims c ON c.id = j.claim ";

/// A row of [`SELECT_JOB`] or [`SELECT_STANDING`].
pub(super) fn queued_job(row: &Row<'_>) -> rusqlite::Result<QueuedJob> {
    let state = state(row, 2)?;
    let worker: Option<String> = row.get(6)?;
    Ok(QueuedJob {
        job: Arc::new(json(row, 1)?),
        body: body(row, 14)?,
        state,
        attempts_started: row.get(3)?,
        attempts_finished: row.get(4)?,
        due_at: row.get::<_, Option<i64>>(5)?.filter(|due| *due != super::parents::NEVER).map(Timestamp::from_millis),
        worker: worker.map(|w| WorkerId::parse(&w).map_err(|e| unreadable(6, Type::Text, e))).transpose()?,
        progress: json_option(row, 7)?,
        cancel_requested: row.get(8)?,
        finished_at: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_millis),
        result: json_option(row, 10)?,
        error: row.get(11)?,
        waits_for: json_option(row, 13)?.filter(|_| state == JobState::Delayed).unwrap_or_default(),
    })
}

/// One lease of one job, and its fence: a row of `queue_jobs` that does not match all three has another lease, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeaseId {
    /// The job's row in `queue_jobs`.
    pub(super) seq: i64,
    /// How many leases the job has had with this one: `attempts_started`.
    pub(super) number: u32,
    /// The row of `queue_claims` under which it was made.
    pub(super) claim: i64,
}

/// What a change of a single job looks at first.
pub(super) struct Standing {
    pub(super) seq: i64,
    pub(super) state: JobState,
    pub(super) attempts_started: u32,
    pub(super) job: Arc<Job>,
}

/// A body in a column, unless it is null: of a job of version 0.1.0 the whole job stands there.
pub(super) fn body(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<JobBody>> {
    let Some(bytes) = row.get_ref(column)?.as_blob_or_null()? else { return Ok(None) };
    read_body(bytes).map(Some).map_err(|e| unreadable(column, Type::Blob, e))
}

/// Reads a body, or the one within a whole job of version 0.1.0. Which of the two it is shows by the `id`.
pub(super) fn read_body(bytes: &[u8]) -> Result<JobBody, serde_json::Error> {
    if bytes.starts_with(b"{\"id\":") { JobBody::within_job(bytes) } else { JobBody::from_bytes(bytes) }
}

/// A job as it was accepted, if it is known.
pub(super) fn accepted(c: &Connection, id: &JobId) -> rusqlite::Result<Option<AcceptedJob>> {
    c.prepare_cached(&format!("{SELECT_JOB} WHERE j.id = ?1"))?
        .query_row([id.as_str()], queued_job)
        .optional()
        .map(|found| found.and_then(|QueuedJob { job, body, .. }| Some(AcceptedJob { job, body: body? })))
}

/// How a job stands, if it is known.
pub(super) fn standing(c: &Connection, id: &JobId) -> rusqlite::Result<Option<Standing>> {
    c.prepare_cached(
        "SELECT j.seq, p.job, j.state, j.attempts_started - j.unstarted
         FROM queue_jobs j JOIN queue_payloads p ON p.seq = j.seq WHERE j.id = ?1",
    )?
    .query_row([id.as_str()], |row| {
        Ok(Standing {
            seq: row.get(0)?,
            job: Arc::new(json(row, 1)?),
            state: state(row, 2)?,
            attempts_started: row.get(3)?,
        })
    })
    .optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_states_are_ordered_as_the_queries_assume() {
        for state in JobState::ALL {
            assert_eq!(code(state) <= 1, state.is_ready(), "{state}");
            assert_eq!(code(state) >= 4, state.is_final(), "{state}");
        }
        assert_eq!((code(JobState::Waiting), code(JobState::Prioritized)), (0, 1));
    }

    #[test]
    fn claims_of_an_older_file_are_taken_over_with_their_ends() {
        let c = Connection::open_in_memory().unwrap();
        STEPS[..3].iter().for_each(|step| c.execute_batch(step).unwrap());
        c.execute("INSERT INTO queue_claims (worker, expires_at) VALUES ('w', 5000)", []).unwrap();
        STEPS[3..].iter().for_each(|step| c.execute_batch(step).unwrap());
        let expired = |wall: i64| -> bool {
            let sql = format!("SELECT {} FROM queue_claims", super::super::expiry::GONE);
            c.query_row(&sql, (wall, "this boot"), |row| row.get(0)).unwrap()
        };
        assert_eq!([expired(4000), expired(5001)], [false, true]);
    }

    #[test]
    fn jobs_of_an_older_file_wait_in_the_default_queue_which_stays_paused() {
        let old = STEPS.iter().position(|step| step.contains("CREATE TABLE queue_names")).unwrap();
        for paused in [0, 1] {
            let c = Connection::open_in_memory().unwrap();
            STEPS[..old].iter().for_each(|step| c.execute_batch(step).unwrap());
            c.execute("INSERT INTO queue_jobs (id, state, priority, cores) VALUES ('j', 0, 0, 0)", []).unwrap();
            c.execute("UPDATE queue_switches SET paused = ?1", [paused]).unwrap();
            STEPS[old..].iter().for_each(|step| c.execute_batch(step).unwrap());
            let sql = "SELECT q.name, q.paused FROM queue_jobs j JOIN queue_names q ON q.id = j.queue";
            let found: (Option<String>, i64) = c.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(found, (None, paused));
        }
    }

    #[test]
    fn jobs_of_an_older_file_get_the_kinds_that_their_headers_tell() {
        use super::super::kinds::{Kind, KnownKinds, number_or_new};
        let old = STEPS.iter().position(|step| step.contains("CREATE TABLE queue_kinds")).unwrap();
        let c = Connection::open_in_memory().unwrap();
        STEPS[..old].iter().for_each(|step| c.execute_batch(step).unwrap());
        // The last is a whole job of version 0.1.0, with data that SQLite can't read.
        let deep = format!(r#"{{"id":"d","name":"deep","data":{}{}}}"#, "[".repeat(2000), "]".repeat(2000));
        let header = |name: &str, options: &str| format!(r#"{{"id":"j","name":"{name}","options":{{{options}}}}}"#);
        let jobs = [
            header("plain", r#""attempts":3"#),
            header("plain", r#""attempts":1"#),
            header("wide", r#""cores":2,"memory_bytes":1048576"#),
            deep,
        ];
        for (seq, job) in (1..).zip(&jobs) {
            let sql = "INSERT INTO queue_jobs (seq, id, state, priority, cores) VALUES (?1, 'j' || ?1, 0, 0, 0)";
            c.execute(sql, [seq]).unwrap();
            c.execute("INSERT INTO queue_payloads (seq, job) VALUES (?1, ?2)", (seq, job.as_bytes())).unwrap();
        }
        STEPS[old..].iter().for_each(|step| c.execute_batch(step).unwrap());
        let number = |seq: i64| -> i64 {
            c.query_row("SELECT kind FROM queue_jobs WHERE seq = ?1", [seq], |row| row.get(0)).unwrap()
        };
        assert_eq!(number(1), number(2));
        let mut known = KnownKinds::default();
        let kinds = [1, 3, 4].map(|seq| known.get(&c, number(seq)).unwrap());
        let told: Vec<_> =
            kinds.iter().map(|kind| (kind.needs.name.as_str(), kind.needs.cores, kind.needs.memory_bytes)).collect();
        assert_eq!(told, [("plain", None, None), ("wide", Some(2), Some(1 << 20)), ("deep", None, None)]);
        // Those that no job has are forgotten once there are many.
        let gone = Kind { group: Some("gone".parse().unwrap()), ..(*kinds[0]).clone() };
        number_or_new(&c, &to_json(&gone)).unwrap();
        assert_eq!(super::super::kinds::forget(&c, 3).unwrap(), super::super::kinds::MANY);
        let left: i64 = c.query_row("SELECT count(*) FROM queue_kinds", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 3);
    }

    #[test]
    fn jobs_of_an_older_file_keep_their_numbers_and_new_ones_come_behind() {
        let c = Connection::open_in_memory().unwrap();
        let old = STEPS.iter().position(|step| step.contains("CREATE TABLE queue_numbers")).unwrap();
        STEPS[..old].iter().for_each(|step| c.execute_batch(step).unwrap());
        for seq in [3, 7] {
            let sql = "INSERT INTO queue_jobs (seq, id, state, priority, cores) VALUES (?1, 'j' || ?1, 0, 0, 0)";
            c.execute(sql, [seq]).unwrap();
        }
        STEPS[old..].iter().for_each(|step| c.execute_batch(step).unwrap());
        let next = || c.query_row(&format!("SELECT {NEXT_SEQ}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(next(), 8);
        c.execute("DELETE FROM queue_jobs", []).unwrap();
        assert_eq!(next(), 8);
    }

    #[test]
    fn output_of_an_older_file_keeps_its_places_and_goes_with_its_job() {
        let c = Connection::open_in_memory().unwrap();
        c.pragma_update(None, "foreign_keys", true).unwrap();
        let old = STEPS.iter().position(|step| step.contains("queue_output_numbered")).unwrap();
        STEPS[..old].iter().for_each(|step| c.execute_batch(step).unwrap());
        for seq in [1, 2] {
            c.execute("INSERT INTO queue_jobs (seq, id, state, priority) VALUES (?1, 'j' || ?1, 4, 0)", [seq]).unwrap();
        }
        for (pos, job) in [(5, 2), (6, 1), (9, 2)] {
            let sql = "INSERT INTO queue_output VALUES (?1, ?2, 1, 0, 7, x'61')";
            c.execute(sql, [pos, job]).unwrap();
        }
        STEPS[old..].iter().for_each(|step| c.execute_batch(step).unwrap());
        let places = || -> Vec<(i64, i64)> {
            let mut select = c.prepare("SELECT job, pos FROM queue_output WHERE at = 7 ORDER BY job, pos").unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(places(), [(1, 6), (2, 5), (2, 9)]);
        c.execute("DELETE FROM queue_jobs WHERE seq = 2", []).unwrap();
        assert_eq!(places(), [(1, 6)]);
    }

    #[test]
    fn every_list_is_read_from_its_index_without_sorting() {
        let c = Connection::open_in_memory().unwrap();
        for step in STEPS {
            c.execute_batch(step).unwrap();
        }
        let plan = |sql: &str| -> String {
            let mut statement = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines: Vec<String> =
                statement.query_map([], |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap();
            lines.join("; ")
        };
        // Numbers in place of parameters.
        let list = super::super::read::READY_BEHIND.replace('?', "");
        for (index, sql) in [
            (
                "queue_ready_of_kind",
                "SELECT priority, seq FROM queue_jobs WHERE state <= 1 AND queue = 3 AND kind = 4
                 AND (priority, seq) > (0, 7) ORDER BY priority, seq LIMIT 32",
            ),
            (
                "queue_ready_of_kind",
                "SELECT kind FROM queue_jobs WHERE state <= 1 AND queue = 3 AND kind > 4 ORDER BY kind LIMIT 1",
            ),
            ("queue_ready_of_kind (queue=? AND kind=? AND priority=? AND ", list.as_str()),
            ("queue_ready_of_kind", "SELECT count(*) FROM queue_jobs WHERE state <= 1 AND priority = 0"),
            (
                "queue_ready_of_kind",
                "SELECT queue, 0, count(*) FROM queue_jobs WHERE state <= 1 AND priority <= 0 GROUP BY 1",
            ),
            ("queue_delayed", "SELECT seq FROM queue_jobs WHERE state = 2 AND due_at <= 7 ORDER BY due_at LIMIT 9"),
            ("queue_active", "SELECT seq FROM queue_jobs WHERE state = 3 AND claim = 7"),
            (
                "queue_final",
                "SELECT seq FROM queue_jobs WHERE state >= 4 AND state = 5 ORDER BY finished_at DESC, seq DESC",
            ),
            ("queue_dedup_live", "SELECT id FROM queue_jobs WHERE dedup_key = 'k' AND state <= 3"),
            (
                "queue_schedules_due",
                "SELECT id FROM queue_schedules WHERE next_at <= 7 AND paused = 0 AND next_at IS NOT NULL ORDER BY next_at",
            ),
        ] {
            let plan = plan(sql);
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }
}
