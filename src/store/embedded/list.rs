//! Lists jobs: pages in the order of submission, and counts.

use std::collections::{BTreeSet, VecDeque};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::corrupt;
use super::history;
use crate::domain::{Fingerprint, JobState, Timestamp};
use crate::store::search::ScanBound;
use crate::store::{JobCount, JobFilter, JobPage, JobSummary, StoreError, StoreErrorKind, codec};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// How many jobs are read at once for a search, from all ranges together: so few that the bound of a page is not passed
/// by much.
const SEARCH_BATCH: usize = 32;
/// How many are read at once to be counted.
const COUNT_BATCH: usize = 1024;
/// The fewest that are read from one range at once.
const SMALLEST_BATCH: usize = 8;

/// A place in the list of jobs, newest first: everything before it comes after it in the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListCursor {
    submitted_at: i64,
    id: String,
}

impl ListCursor {
    const NEWEST: ListCursor = ListCursor { submitted_at: i64::MAX, id: String::new() };
    pub(super) const OLDEST: ListCursor = ListCursor { submitted_at: i64::MIN, id: String::new() };

    pub(super) fn new(submitted_at: i64, id: String) -> Self {
        Self { submitted_at, id }
    }

    /// When the job at this place was submitted, and its id.
    pub(super) fn parts(&self) -> (i64, &str) {
        (self.submitted_at, &self.id)
    }

    /// Reads a cursor that `Display` wrote.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let place = || {
            let (ms, hex) = text.split_once('-')?;
            // The parser of numbers would accept signs, too.
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) || !hex.len().is_multiple_of(2) {
                return None;
            }
            let id = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect::<Option<Vec<u8>>>()?;
            Some(ListCursor { submitted_at: ms.parse().ok()?, id: String::from_utf8(id).ok()? })
        };
        place().ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Rejected,
                "the cursor is not one of this list; give back the `next_cursor` of the page before",
            )
        })
    }
}

impl std::fmt::Display for ListCursor {
    /// Milliseconds and the id in hexadecimal: safe in a URL, whatever the id.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-", self.submitted_at)?;
        self.id.bytes().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One page. A search ends it early when it has looked at enough jobs.
pub(super) fn jobs(c: &Connection, filter: &JobFilter, start: Option<ListCursor>, limit: usize) -> Read<JobPage> {
    let transaction = c.unchecked_transaction()?;
    let is_search = !filter.search.is_empty();
    // Asks for one more, to know whether there is another page.
    let mut list = Merged::new(filter, start, Columns::Line, if is_search { SEARCH_BATCH } else { limit + 1 });
    let mut bound = ScanBound::of_page();
    let mut page = JobPage { items: Vec::new(), next: None, scanned: None };
    let mut last = None;
    while let Some((place, line)) = list.next(c)? {
        if page.items.len() == limit || (is_search && bound.is_reached()) {
            page.next = last.as_ref().map(ListCursor::to_string);
            break;
        }
        bound.count();
        match read_line(c, filter, &place, &line)? {
            Ok(found) => page.items.extend(found),
            Err(e) => return Ok(Err(e)),
        }
        last = Some(place);
    }
    transaction.finish()?;
    page.scanned = is_search.then(|| bound.scanned());
    Ok(Ok(page))
}

/// Counts jobs, up to `most`. Without a search it reads indexes only, or those and the state of each job of an error.
pub(super) fn count(c: &Connection, filter: &JobFilter, most: usize) -> Read<JobCount> {
    let transaction = c.unchecked_transaction()?;
    let is_search = !filter.search.is_empty();
    let columns = if is_search { Columns::Line } else { Columns::Place };
    let mut list = Merged::new(filter, None, columns, if is_search { SEARCH_BATCH } else { COUNT_BATCH });
    let mut bound = ScanBound::of_count();
    let (mut count, mut capped) = (0, false);
    while let Some((place, line)) = list.next(c)? {
        if count == most || (is_search && bound.is_reached()) {
            capped = true;
            break;
        }
        bound.count();
        match if is_search { read_line(c, filter, &place, &line)?.map(|found| found.is_some()) } else { Ok(true) } {
            Ok(found) => count += usize::from(found),
            Err(e) => return Ok(Err(e)),
        }
    }
    transaction.finish()?;
    Ok(Ok(JobCount { count: count as u64, capped }))
}

/// Reads a job's line; `None` if it is not one that is looked for.
fn read_line(c: &Connection, filter: &JobFilter, place: &ListCursor, line: &[u8]) -> Read<Option<JobSummary>> {
    let explain = |e: serde_json::Error| corrupt(&format!("job {}", place.id), &e).caused_by(e);
    let job: JobSummary = match serde_json::from_slice(line).map_err(explain) {
        Ok(job) => job,
        Err(e) => return Ok(Err(e)),
    };
    if !filter.search.needs_record(&job) {
        return Ok(Ok(Some(job).filter(|job| filter.search.finds(job))));
    }
    let record = history::job(c, &job.id, codec::job_without_result)?;
    Ok(record.map(|record| record.map(|record| record.summary()).filter(|job| filter.search.finds(job))))
}

/// The matching jobs but for the search, newest first, merged from one index range for each state or error, because an
/// index is in order only within one range.
struct Merged<'f> {
    filter: &'f JobFilter,
    columns: Columns,
    batch: usize,
    ranges: Vec<Range>,
    last: Option<ListCursor>,
}

/// A range of an index, read in batches.
struct Range {
    of: Of,
    /// Read and not yet taken.
    rows: VecDeque<Row>,
    /// The place before which to read on; `None` before the first batch of a list from its beginning.
    before: Option<ListCursor>,
    /// Whether all of it was read.
    is_read: bool,
}

/// What the jobs of a range have in common.
#[derive(Clone, Copy)]
enum Of {
    All,
    State(JobState),
    Error(Fingerprint),
}

/// What is read of each job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// Its place in the list.
    Place,
    /// That, and its line.
    Line,
}

type Row = (ListCursor, Vec<u8>);

impl<'f> Merged<'f> {
    /// A list that starts after `start` and reads about `batch` jobs at once, from all ranges together.
    fn new(filter: &'f JobFilter, start: Option<ListCursor>, columns: Columns, batch: usize) -> Self {
        let errors: BTreeSet<_> = filter.errors.iter().copied().collect();
        let states: BTreeSet<_> = filter.states.iter().copied().collect();
        let of: Vec<_> = if !errors.is_empty() {
            errors.into_iter().map(Of::Error).collect()
        } else if filter.group.is_some() && states.is_empty() {
            JobState::ALL.map(Of::State).into()
        } else if !states.is_empty() {
            states.into_iter().map(Of::State).collect()
        } else {
            vec![Of::All]
        };
        let batch = (batch / of.len()).max(SMALLEST_BATCH);
        let range = |of| Range { of, rows: VecDeque::new(), before: start.clone(), is_read: false };
        Self { filter, columns, batch, ranges: of.into_iter().map(range).collect(), last: None }
    }

    /// The next job, each once.
    fn next(&mut self, c: &Connection) -> rusqlite::Result<Option<Row>> {
        loop {
            for range in self.ranges.iter_mut().filter(|range| range.rows.is_empty() && !range.is_read) {
                range.read_on(c, self.filter, self.columns, self.batch)?;
            }
            let newest = self.ranges.iter_mut().filter(|range| !range.rows.is_empty());
            let newest = newest.max_by(|a, b| a.rows.front().map(|row| &row.0).cmp(&b.rows.front().map(|row| &row.0)));
            let Some(row) = newest.and_then(|range| range.rows.pop_front()) else { return Ok(None) };
            // A job that failed with several of the errors is in several ranges.
            if self.last.as_ref() != Some(&row.0) {
                self.last = Some(row.0.clone());
                return Ok(Some(row));
            }
        }
    }
}

impl Range {
    fn read_on(&mut self, c: &Connection, filter: &JobFilter, columns: Columns, batch: usize) -> rusqlite::Result<()> {
        let (sql, values) = match self.of {
            Of::All => listing(filter, None, columns, self.before.as_ref(), batch),
            Of::State(state) => listing(filter, Some(state), columns, self.before.as_ref(), batch),
            Of::Error(error) => failed_with(filter, error, columns, self.before.as_ref(), batch),
        };
        let mut select = c.prepare_cached(&sql)?;
        let mut rows = select.query(params_from_iter(&values))?;
        while let Some(row) = rows.next()? {
            let line = if columns == Columns::Line { row.get(2)? } else { Vec::new() };
            self.rows.push_back((ListCursor { submitted_at: row.get(0)?, id: row.get(1)? }, line));
        }
        self.is_read = self.rows.len() < batch;
        self.before = self.rows.back().map(|row| row.0.clone());
        Ok(())
    }
}

/// A query with its parameters.
type Query = (String, Vec<Value>);

/// The query for a batch of jobs of one state, or of any.
fn listing(
    filter: &JobFilter,
    state: Option<JobState>,
    columns: Columns,
    start: Option<&ListCursor>,
    wanted: usize,
) -> Query {
    let index = match (&filter.name, state) {
        // The names of a group's jobs are looked at one by one: it mostly has one.
        _ if filter.group.is_some() => "history_jobs_by_group",
        (None, None) => "history_jobs_by_time",
        (None, Some(_)) => "history_jobs_by_state",
        (Some(_), None) => "history_jobs_by_name",
        (Some(_), Some(_)) => "history_jobs_by_both",
    };
    let mut values = span(filter, start);
    let line = if columns == Columns::Line { ", summary" } else { "" };
    let mut sql = format!(
        "SELECT submitted_at, id{line} FROM history_jobs INDEXED BY {index}
         WHERE removed = 0 AND (submitted_at, id) < (?1, ?2) AND submitted_at >= ?3"
    );
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        sql += &format!(" AND name = ?{}", values.len());
    }
    if let Some(group) = &filter.group {
        values.push(group.to_string().into());
        sql += &format!(" AND job_group = ?{}", values.len());
    }
    if let Some(state) = state {
        values.push(state.as_str().to_owned().into());
        sql += &format!(" AND state = ?{}", values.len());
    }
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    sql += &format!(" ORDER BY submitted_at DESC, id DESC LIMIT ?{}", values.len());
    (sql, values)
}

/// The query for a batch of jobs that failed with an error. It reads one range of one index, and looks at each job
/// that it finds there for the other conditions.
fn failed_with(
    filter: &JobFilter,
    error: Fingerprint,
    columns: Columns,
    start: Option<&ListCursor>,
    wanted: usize,
) -> Query {
    let mut values = span(filter, start);
    values.push(error.as_bytes().to_vec().into());
    let line = if columns == Columns::Line { ", j.summary" } else { "" };
    let mut sql = format!(
        "SELECT e.submitted_at, e.id{line} FROM history_job_errors e CROSS JOIN history_jobs j ON j.id = e.id
         WHERE e.fingerprint = ?4 AND (e.submitted_at, e.id) < (?1, ?2) AND e.submitted_at >= ?3 AND j.removed = 0"
    );
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        sql += &format!(" AND j.name = ?{}", values.len());
    }
    if let Some(group) = &filter.group {
        values.push(group.to_string().into());
        sql += &format!(" AND j.job_group = ?{}", values.len());
    }
    if !filter.states.is_empty() {
        let states = filter.states.iter().map(|state| {
            values.push(state.as_str().to_owned().into());
            format!("?{}", values.len())
        });
        let states = states.collect::<Vec<_>>().join(", ");
        sql += &format!(" AND j.state IN ({states})");
    }
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    sql += &format!(" ORDER BY e.submitted_at DESC, e.id DESC LIMIT ?{}", values.len());
    (sql, values)
}

/// The first two parameters: the place before which to read. The third: the time since which.
fn span(filter: &JobFilter, start: Option<&ListCursor>) -> Vec<Value> {
    let until = filter.until.map(|t| ListCursor { submitted_at: t.as_millis(), id: String::new() });
    let before = [start.cloned(), until].into_iter().flatten().min().unwrap_or(ListCursor::NEWEST);
    let since = filter.since.map_or(i64::MIN, Timestamp::as_millis);
    vec![before.submitted_at.into(), before.id.into(), since.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttemptNumber, AttemptReport, JobName, Outcome, PageRequest, Tail, WorkerId};
    use crate::sqlite::{Durability, Sqlite};
    use crate::store::embedded::EmbeddedStore;
    use crate::store::{AttemptRecord, History, Search};

    /// A page costs the same in a large table: no combination of filters sorts, or walks along rows that don't match.
    #[tokio::test]
    async fn every_list_reads_one_range_of_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        let name: JobName = "a".parse().unwrap();
        let time = Some(Timestamp::from_millis(5));
        for name in [None, Some(name)] {
            for state in [None, Some(JobState::Active)] {
                let filter = JobFilter { name: name.clone(), since: time, until: time, ..JobFilter::default() };
                let plan = plan(&db, listing(&filter, state, Columns::Line, Some(&ListCursor::NEWEST), 10)).await;
                assert_eq!(plan.len(), 1, "{plan:?}");
                assert!(plan[0].starts_with("SEARCH") && plan[0].contains("submitted_at>?"), "{plan:?}");
                assert!(plan[0].contains("(submitted_at,id)<(?,?)"), "{plan:?}");
                assert_eq!(plan[0].contains("name=?"), name.is_some(), "{plan:?}");
                assert_eq!(plan[0].contains("state=?"), state.is_some(), "{plan:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_jobs_of_a_group_are_read_in_order_from_one_range_for_each_state() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        let filter = JobFilter { group: Some("g".parse().unwrap()), ..JobFilter::default() };
        let listed = listing(&filter, Some(JobState::Failed), Columns::Line, Some(&ListCursor::NEWEST), 10);
        let plan = plan(&db, listed).await;
        assert_eq!(plan.len(), 1, "nothing is sorted: {plan:?}");
        assert!(plan[0].contains("job_group=? AND state=? AND submitted_at>?"), "{plan:?}");
    }

    #[tokio::test]
    async fn the_jobs_of_an_error_are_read_in_order_from_one_range() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        let states = vec![JobState::Failed, JobState::Completed];
        let filter = JobFilter { states, name: Some("a".parse().unwrap()), ..JobFilter::default() };
        let plan = plan(&db, failed_with(&filter, Fingerprint::OTHER, Columns::Line, None, 10)).await;
        assert_eq!(plan.len(), 2, "nothing is sorted: {plan:?}");
        assert!(plan[0].starts_with("SEARCH e USING PRIMARY KEY (fingerprint=? AND submitted_at>?"), "{plan:?}");
        assert!(plan[0].contains("(submitted_at,id)<(?,?)"), "{plan:?}");
    }

    fn record(id: &str, at: i64) -> crate::store::JobRecord {
        let mut record = crate::store::JobRecord::new(&crate::domain::Job {
            id: crate::domain::JobId::parse(id).unwrap(),
            name: JobName::parse("resize").unwrap(),
            options: crate::domain::JobOptions::default(),
            submitted_at: Timestamp::from_millis(at),
            trace: None,
        });
        let (started_at, ended_at) = (record.submitted_at, Timestamp::from_millis(at + 40));
        let report = AttemptReport::bare(Outcome::Exit { code: 1 }, started_at, ended_at, "disk full");
        record.attempts.push(AttemptRecord {
            number: AttemptNumber(1),
            worker: WorkerId::parse("w-1").unwrap(),
            host: "h".to_owned(),
            started_at,
            report: Some(report),
            fingerprint: None,
            build: None,
        });
        record.state = JobState::Failed;
        record.outcome = Some(Outcome::Exit { code: 1 });
        record.finished_at = Some(ended_at);
        record
    }

    /// Writes jobs past the port, all with the same line and document but for their ids, because SQLite alone is fast.
    async fn fill(db: &Sqlite, count: i64, line: fn(&crate::store::JobRecord) -> Vec<u8>) {
        const ID: &str = "the-id-of-the-job";
        let mut job = record(ID, 0);
        job.attempts[0].report.as_mut().unwrap().stdout = Tail::of(&[b'x'; 600], 600);
        let (line, document) = (line(&job), codec::encode(&job));
        for from in (0..count).step_by(50_000) {
            let (line, document) = (line.clone(), document.clone());
            db.write(move |c| {
                c.execute(
                    "WITH RECURSIVE numbers (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?2)
                     INSERT INTO history_jobs
                     SELECT printf('0193-7a5c-%08d', n), 'resize', 'failed', n, 0, 1, x'',
                            CAST(replace(CAST(?3 AS TEXT), ?5, printf('0193-7a5c-%08d', n)) AS BLOB),
                            CAST(replace(CAST(?4 AS TEXT), ?5, printf('0193-7a5c-%08d', n)) AS BLOB), n, NULL, NULL
                     FROM numbers",
                    (from, (from + 50_000).min(count), &line, &document, ID),
                )
            })
            .await
            .unwrap();
        }
    }

    /// Lines had no worker and no duration before there was a search for them.
    #[tokio::test]
    async fn a_line_of_an_older_version_is_searched_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        fill(&db, 2, |job| codec::encode(&JobSummary { worker: None, ran_ms: None, ..job.summary() })).await;
        for (worker, found) in [("w-1", 2), ("w-2", 0)] {
            let worker = Some(WorkerId::parse(worker).unwrap());
            let search = Search { worker, longer_than_ms: Some(39), shorter_than_ms: Some(41), ..Search::default() };
            let filter = JobFilter { search, ..JobFilter::default() };
            assert_eq!(store.jobs(&filter, PageRequest::first(9)).await.unwrap().items.len(), found);
        }
    }

    /// `cargo test --lib pages_of_a_million -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "writes a file of 2 GB"]
    async fn pages_of_a_million_jobs_take_no_longer_than_fifty_milliseconds() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        fill(&db, 1_000_000, |job| codec::encode(&job.summary())).await;
        let search = |search: Search| JobFilter { search, ..JobFilter::default() };
        let filters = [
            ("all", JobFilter::default()),
            ("failed", JobFilter { states: vec![JobState::Failed, JobState::Active], ..JobFilter::default() }),
            ("text of none", search(Search { text: Some("nowhere".to_owned()), ..Search::default() })),
            ("text of one in 1000", search(Search { text: Some("123".to_owned()), ..Search::default() })),
            ("signal of none", search(Search { signal: Some(9), ..Search::default() })),
            ("worker of all", search(Search { worker: WorkerId::parse("w-1").ok(), ..Search::default() })),
        ];
        for (what, filter) in filters {
            let (mut times, mut scanned, mut cursor) = (Vec::new(), 0, None);
            for _ in 0..100 {
                let begun = std::time::Instant::now();
                let page = store.jobs(&filter, PageRequest { cursor, limit: 50 }).await.unwrap();
                times.push(begun.elapsed());
                scanned += page.scanned.unwrap_or(0);
                cursor = page.next;
            }
            times.sort_unstable();
            let begun = std::time::Instant::now();
            let count = store.count(&filter, 10_000).await.unwrap();
            let counted = begun.elapsed();
            eprintln!(
                "{what}: p50 {:?}, p95 {:?}, {} looked at a page; {count:?} in {counted:?}",
                times[50],
                times[95],
                scanned / 100
            );
            assert!(times[95] <= std::time::Duration::from_millis(50), "{what}: {:?}", times[95]);
        }
    }

    async fn plan(db: &Sqlite, (sql, values): Query) -> Vec<String> {
        db.read(move |c| {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            plan.query_map(params_from_iter(values), |row| row.get("detail"))?.collect()
        })
        .await
        .unwrap()
    }

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = ListCursor { submitted_at: 17, id: "repeat:a:1".to_owned() };
        assert_eq!(ListCursor::parse(&place.to_string()).unwrap(), place);
    }
}
