//! The tables of history.
//!
//! A listing reads one index backwards from where its page starts, whatever the size of the table: there is one index
//! for every combination of filters, each in the order of the list, without removed jobs. `summary` is a job's line in
//! a list and stands before `document`, so that a listing never touches the pages on which output tails lie.
//!
//! A job of a group is in two further indexes: by state, from which the group's jobs are counted and listed, and by its
//! place in the group. Jobs of no group are in neither.
//!
//! `history_bodies` holds what each job is given. It is written once, so that a record that changes with every event
//! stays small. Records of format 1 have it within, and no row there.
//!
//! `history_job_errors` says which jobs failed with which error, in the order of the list, so that the jobs of an error
//! are found the same way. An error's row has the columns of its two halves side by side: `seen` is the projector's,
//! the others are the classifier's. An index by what the classifier has found leads to the errors of a category, so
//! that the few errors of a small one are found among many.
//!
//! `history_names` has the sums of each name's aggregates. Triggers keep them, so that no writer of an aggregate can
//! forget to.
//!
//! `history_marks` has the numbers of [`crate::store::LabelMarks`]. Triggers keep them, too: an older Jobber that has the
//! file open changes labels as well, and so does a user who writes to the file by hand.

pub(super) const STEPS: &[&str] = &[
    "
    CREATE TABLE history_jobs (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        submitted_at INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        version INTEGER NOT NULL,
        identity BLOB NOT NULL,
        summary BLOB NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_jobs_by_time ON history_jobs (submitted_at, id) WHERE removed = 0;
    CREATE INDEX history_jobs_by_state ON history_jobs (state, submitted_at, id) WHERE removed = 0;
    CREATE INDEX history_jobs_by_name ON history_jobs (name, submitted_at, id) WHERE removed = 0;
    CREATE INDEX history_jobs_by_both ON history_jobs (name, state, submitted_at, id) WHERE removed = 0;

    CREATE TABLE history_shards (
        day INTEGER NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        active INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (day, name)
    ) STRICT;
    CREATE INDEX history_shards_by_name ON history_shards (name, day, waiting, active, completed, failed);

    CREATE TABLE history_head (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        holder TEXT,
        term INTEGER NOT NULL,
        until_ms INTEGER NOT NULL,
        cursor TEXT NOT NULL
    ) STRICT;
    INSERT INTO history_head VALUES (1, NULL, 0, 0, '0-0');
","
    ALTER TABLE history_jobs ADD COLUMN ended_at INTEGER;
    UPDATE history_jobs
       SET ended_at = CAST(round(unixepoch(json_extract(CAST(document AS TEXT), '$.finished_at'), 'subsec') * 1000) AS INTEGER)
     WHERE state IN ('completed', 'failed');
    UPDATE history_jobs SET ended_at = submitted_at WHERE removed = 1 AND ended_at IS NULL AND state <> 'active';
    CREATE INDEX history_jobs_by_end ON history_jobs (ended_at) WHERE ended_at IS NOT NULL;
","
    CREATE TABLE history_job_errors (
        fingerprint BLOB NOT NULL,
        submitted_at INTEGER NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (fingerprint, submitted_at, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX history_job_errors_by_job ON history_job_errors (id);

    CREATE TABLE history_errors (
        fingerprint BLOB NOT NULL PRIMARY KEY,
        seen BLOB NOT NULL,
        revision TEXT,
        category TEXT,
        similarity REAL,
        model TEXT,
        vector BLOB
    ) STRICT;
    CREATE INDEX history_errors_by_model ON history_errors (model);

    CREATE TABLE history_categories (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
","
    CREATE TABLE history_name (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        name TEXT NOT NULL
    ) STRICT;
    INSERT INTO history_name VALUES (1, lower(hex(randomblob(16))));
","
    CREATE TABLE history_bodies (
        id TEXT NOT NULL PRIMARY KEY,
        body BLOB NOT NULL
    ) STRICT;
","
    ALTER TABLE history_jobs ADD COLUMN job_group TEXT;
    ALTER TABLE history_jobs ADD COLUMN group_order INTEGER;
    CREATE INDEX history_jobs_by_group ON history_jobs (job_group, state, submitted_at, id, ended_at)
        WHERE removed = 0 AND job_group IS NOT NULL;
    CREATE INDEX history_jobs_by_index ON history_jobs (job_group, group_order, submitted_at, id)
        WHERE removed = 0 AND job_group IS NOT NULL;
","
    CREATE TABLE history_builds (
        name TEXT NOT NULL PRIMARY KEY,
        version INTEGER NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
","
    CREATE INDEX history_errors_by_category ON history_errors (category, model);
","
    CREATE TABLE history_names (
        name TEXT NOT NULL PRIMARY KEY,
        waiting INTEGER NOT NULL,
        active INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO history_names
        SELECT name, sum(waiting), sum(active), sum(completed), sum(failed) FROM history_shards GROUP BY name;
    CREATE TRIGGER history_shards_added AFTER INSERT ON history_shards BEGIN
        INSERT INTO history_names VALUES (new.name, new.waiting, new.active, new.completed, new.failed)
        ON CONFLICT (name) DO UPDATE SET
            waiting = waiting + excluded.waiting,
            active = active + excluded.active,
            completed = completed + excluded.completed,
            failed = failed + excluded.failed;
    END;
    CREATE TRIGGER history_shards_changed AFTER UPDATE OF waiting, active, completed, failed ON history_shards BEGIN
        UPDATE history_names SET
            waiting = waiting + new.waiting - old.waiting,
            active = active + new.active - old.active,
            completed = completed + new.completed - old.completed,
            failed = failed + new.failed - old.failed
        WHERE name = new.name;
    END;
    DROP INDEX history_shards_by_name;
    CREATE INDEX history_shards_by_name ON history_shards (name, day);
","
    CREATE TABLE history_marks (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        learned INTEGER NOT NULL,
        relabelled INTEGER NOT NULL,
        cleared INTEGER NOT NULL
    ) STRICT;
    INSERT INTO history_marks VALUES (1, 0, 0, 0);
    CREATE TRIGGER history_errors_learned AFTER UPDATE OF category, model ON history_errors
    WHEN old.model IS NULL AND new.model IS NOT NULL BEGIN
        UPDATE history_marks SET learned = learned + 1;
    END;
    CREATE TRIGGER history_errors_relabelled AFTER UPDATE OF category, model ON history_errors
    WHEN old.model IS NOT NULL AND (new.model IS NULL OR old.category IS NOT new.category) BEGIN
        UPDATE history_marks SET relabelled = relabelled + 1;
    END;
    CREATE TRIGGER history_errors_added AFTER INSERT ON history_errors WHEN new.model IS NOT NULL BEGIN
        UPDATE history_marks SET relabelled = relabelled + 1;
    END;
    CREATE TRIGGER history_errors_removed AFTER DELETE ON history_errors BEGIN
        UPDATE history_marks SET cleared = cleared + 1;
    END;
    CREATE TRIGGER history_categories_added AFTER INSERT ON history_categories BEGIN
        UPDATE history_marks SET relabelled = relabelled + 1;
    END;
    CREATE TRIGGER history_categories_changed AFTER UPDATE ON history_categories BEGIN
        UPDATE history_marks SET relabelled = relabelled + 1;
    END;
    CREATE TRIGGER history_categories_removed AFTER DELETE ON history_categories BEGIN
        UPDATE history_marks SET relabelled = relabelled + 1;
    END;
    CREATE TRIGGER history_shards_removed AFTER DELETE ON history_shards BEGIN
        UPDATE history_marks SET cleared = cleared + 1;
    END;
    CREATE TRIGGER history_shards_written_unmarked AFTER UPDATE OF version, document ON history_shards
    WHEN new.version <= old.version BEGIN
        UPDATE history_marks SET cleared = cleared + 1;
    END;
",
];
