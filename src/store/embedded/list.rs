//! Lists jobs: pages in the order of submission, and counts.

use std::collections::{BTreeSet, VecDeque};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::{corrupt, history, labels};
use crate::domain::{Fingerprint, JobState, Timestamp};
use crate::stats::Label;
use crate::store::search::ScanBound;
use crate::store::{Categories, JobCount, JobFilter, JobPage, JobSummary, StoreError, StoreErrorKind, codec};

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

/// One page. It ends early when it has looked at enough jobs one by one.
pub(super) fn jobs(c: &Connection, filter: &JobFilter, start: Option<ListCursor>, limit: usize) -> Read<JobPage> {
    let transaction = c.unchecked_transaction()?;
    let is_bounded = looks_at_each(filter);
    // Asks for one more, to know whether there is another page.
    let mut list = Merged::new(filter, start, Columns::Line, if is_bounded { SEARCH_BATCH } else { limit + 1 });
    let conditions = match Conditions::of(c, filter)? {
        Ok(conditions) => conditions,
        Err(e) => return Ok(Err(e)),
    };
    let mut bound = ScanBound::of_page();
    let mut page = JobPage::default();
    let mut last = None;
    while let Some(row) = list.next(c)? {
        if page.items.len() == limit || (is_bounded && bound.is_reached()) {
            page.next = last.as_ref().map(ListCursor::to_string);
            break;
        }
        bound.count();
        match conditions.find(c, &row)? {
            Ok(found) => page.items.extend(found),
            Err(e) => return Ok(Err(e)),
        }
        last = Some(row.place);
    }
    transaction.finish()?;
    let is_search = !filter.search.is_empty();
    let ended_early = page.next.is_some() && page.items.len() < limit;
    page.scanned = (is_search || ended_early).then(|| bound.scanned());
    Ok(Ok(page))
}

/// Counts jobs, up to `most`. Without a search it reads indexes only, or those and the state of each job of an error.
pub(super) fn count(c: &Connection, filter: &JobFilter, most: usize) -> Read<JobCount> {
    let transaction = c.unchecked_transaction()?;
    let (is_search, is_bounded) = (!filter.search.is_empty(), looks_at_each(filter));
    let columns = if is_search { Columns::Line } else { Columns::Place };
    let mut list = Merged::new(filter, None, columns, if is_bounded { SEARCH_BATCH } else { COUNT_BATCH });
    let conditions = match Conditions::of(c, filter)? {
        Ok(conditions) => conditions,
        Err(e) => return Ok(Err(e)),
    };
    let mut bound = ScanBound::of_count();
    let (mut count, mut capped) = (0, false);
    while let Some(row) = list.next(c)? {
        if count == most || (is_bounded && bound.is_reached()) {
            capped = true;
            break;
        }
        bound.count();
        let is_counted = match is_search {
            true => conditions.find(c, &row)?.map(|found| found.is_some()),
            false => conditions.hold(c, &row)?,
        };
        match is_counted {
            Ok(is_counted) => count += usize::from(is_counted),
            Err(e) => return Ok(Err(e)),
        }
    }
    transaction.finish()?;
    Ok(Ok(JobCount { count: count as u64, capped }))
}

/// Whether a list must look at jobs one by one, because no one index has all of its conditions. Then most of the jobs
/// that it looks at may not meet them, so each page looks at a bounded number of them.
fn looks_at_each(filter: &JobFilter) -> bool {
    let JobFilter { states: _, name, group, since: _, until: _, errors, label, search } = filter;
    !search.is_empty() || !errors.is_empty() || label.is_some() || (group.is_some() && name.is_some())
}

/// What the rows of a range must still be looked at for.
struct Conditions<'f> {
    filter: &'f JobFilter,
    /// The label of an error that the job must have met, with the categories of now.
    label: Option<(&'f Label, Categories)>,
}

impl<'f> Conditions<'f> {
    fn of(c: &Connection, filter: &'f JobFilter) -> Read<Self> {
        let label = match &filter.label {
            None => Ok(None),
            Some(label) => labels::categories(c)?.map(|categories| Some((label, categories))),
        };
        Ok(label.map(|label| Self { filter, label }))
    }

    /// Whether a job meets all conditions but for the search.
    fn hold(&self, c: &Connection, row: &Row) -> Read<bool> {
        match &self.label {
            Some((label, categories)) if row.fits => labels::has_met(c, &row.place.id, label, categories),
            _ => Ok(Ok(row.fits)),
        }
    }

    /// Reads a job's line; `None` if it does not meet all conditions.
    fn find(&self, c: &Connection, row: &Row) -> Read<Option<JobSummary>> {
        match self.hold(c, row)? {
            Ok(true) => read_line(c, self.filter, &row.place, &row.line),
            Ok(false) => Ok(Ok(None)),
            Err(e) => Ok(Err(e)),
        }
    }
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

/// What is read of a job.
struct Row {
    place: ListCursor,
    /// Whether the job meets the conditions that the index does not have.
    fits: bool,
    /// Empty unless it is read and fits.
    line: Vec<u8>,
}

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
            let newest =
                newest.max_by(|a, b| a.rows.front().map(|row| &row.place).cmp(&b.rows.front().map(|row| &row.place)));
            let Some(row) = newest.and_then(|range| range.rows.pop_front()) else { return Ok(None) };
            // A job that failed with several of the errors is in several ranges.
            if self.last.as_ref() != Some(&row.place) {
                self.last = Some(row.place.clone());
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
            let place = ListCursor { submitted_at: row.get(0)?, id: row.get(1)? };
            let line = if columns == Columns::Line { row.get::<_, Option<_>>(3)? } else { None };
            self.rows.push_back(Row { place, fits: row.get(2)?, line: line.unwrap_or_default() });
        }
        self.is_read = self.rows.len() < batch;
        self.before = self.rows.back().map(|row| row.place.clone());
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
    let mut of_range = String::new();
    let (mut fits, mut line) = ("1".to_owned(), ", summary".to_owned());
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        let condition = format!("name = ?{}", values.len());
        match filter.group {
            None => of_range += &format!(" AND {condition}"),
            Some(_) => (fits, line) = (condition.clone(), format!(", CASE WHEN {condition} THEN summary END")),
        }
    }
    if let Some(group) = &filter.group {
        values.push(group.to_string().into());
        of_range += &format!(" AND job_group = ?{}", values.len());
    }
    if let Some(state) = state {
        values.push(state.as_str().to_owned().into());
        of_range += &format!(" AND state = ?{}", values.len());
    }
    if columns == Columns::Place {
        line.clear();
    }
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    let sql = format!(
        "SELECT submitted_at, id, {fits}{line} FROM history_jobs INDEXED BY {index}
         WHERE removed = 0 AND (submitted_at, id) < (?1, ?2) AND submitted_at >= ?3{of_range}
         ORDER BY submitted_at DESC, id DESC LIMIT ?{}",
        values.len()
    );
    (sql, values)
}

/// The query for a batch of jobs that failed with an error. It reads one range of one index. The other conditions leave
/// no job out, but tell of each whether it meets them: else one batch might look at all of them.
fn failed_with(
    filter: &JobFilter,
    error: Fingerprint,
    columns: Columns,
    start: Option<&ListCursor>,
    wanted: usize,
) -> Query {
    let mut values = span(filter, start);
    values.push(error.as_bytes().to_vec().into());
    let mut fits = "j.removed = 0".to_owned();
    if let Some(name) = &filter.name {
        values.push(name.to_string().into());
        fits += &format!(" AND j.name = ?{}", values.len());
    }
    if let Some(group) = &filter.group {
        values.push(group.to_string().into());
        fits += &format!(" AND j.job_group IS ?{}", values.len());
    }
    if !filter.states.is_empty() {
        let states = filter.states.iter().map(|state| {
            values.push(state.as_str().to_owned().into());
            format!("?{}", values.len())
        });
        let states = states.collect::<Vec<_>>().join(", ");
        fits += &format!(" AND j.state IN ({states})");
    }
    let line = if columns == Columns::Line { format!(", CASE WHEN {fits} THEN j.summary END") } else { String::new() };
    values.push(i64::try_from(wanted).unwrap_or(i64::MAX).into());
    let sql = format!(
        "SELECT e.submitted_at, e.id, {fits}{line}
         FROM history_job_errors e CROSS JOIN history_jobs j ON j.id = e.id
         WHERE e.fingerprint = ?4 AND (e.submitted_at, e.id) < (?1, ?2) AND e.submitted_at >= ?3
         ORDER BY e.submitted_at DESC, e.id DESC LIMIT ?{}",
        values.len()
    );
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
    use crate::store::{AttemptRecord, ErrorChoice, History, Search, WantedErrors};

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

    /// Of conditions that the index does not have, a batch tells; it does not look for jobs that meet them.
    #[tokio::test]
    async fn no_batch_looks_further_for_jobs_that_meet_other_conditions() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        fill(&db, 1000, |job| codec::encode(&job.summary())).await;
        db.write(|c| {
            c.execute_batch(
                "INSERT INTO history_job_errors SELECT zeroblob(32), submitted_at, id FROM history_jobs;
                 UPDATE history_jobs SET job_group = 'g', group_order = -1;",
            )
        })
        .await
        .unwrap();
        let (name, group) = (Some("other".parse().unwrap()), Some("g".parse().unwrap()));
        let errors = vec![Fingerprint::from_bytes([0; 32])];
        let of = |filter: JobFilter| {
            db.read(move |c| {
                let mut list = Merged::new(&filter, None, Columns::Line, SEARCH_BATCH);
                let first = list.next(c)?.unwrap();
                let read = list.ranges.iter().map(|range| range.rows.len()).sum::<usize>() + 1;
                Ok((first.fits, first.line.len(), read, looks_at_each(&filter)))
            })
        };
        let by_error = JobFilter { errors, ..JobFilter::default() };
        for filter in [
            JobFilter { states: vec![JobState::Active], ..by_error.clone() },
            JobFilter { name: name.clone(), ..by_error.clone() },
            JobFilter { group: Some("h".parse().unwrap()), ..by_error.clone() },
            JobFilter { name, group, states: vec![JobState::Failed], ..JobFilter::default() },
        ] {
            assert_eq!(of(filter.clone()).await.unwrap(), (false, 0, SEARCH_BATCH, true), "{filter:?}");
        }
        let (fits, line, ..) = of(by_error).await.unwrap();
        assert!(fits && line > 0);
    }

    /// What a page did not get to is on the next ones, and only there.
    #[tokio::test]
    async fn a_list_that_looks_at_each_job_goes_on_from_page_to_page() {
        const JOBS: u64 = 5000;
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let store = EmbeddedStore::open(db.clone()).await.unwrap();
        fill(&db, JOBS as i64, |job| codec::encode(&job.summary())).await;
        db.write(|c| {
            c.execute_batch(
                "INSERT INTO history_errors (fingerprint, seen, category, model)
                     WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100)
                     SELECT CAST(printf('%032d', n) AS BLOB), x'00', NULL, 'm' FROM numbers;
                 INSERT INTO history_job_errors
                     SELECT CAST(printf('%032d', 1 + submitted_at % 100) AS BLOB), submitted_at, id FROM history_jobs
                     WHERE submitted_at % 500 = 7;",
            )
        })
        .await
        .unwrap();
        let wanted = WantedErrors { label: Some(Label::Uncategorised), digits: None };
        let chosen = store.choose_errors(&wanted).await.unwrap();
        assert_eq!(chosen, ErrorChoice::AllOf(Label::Uncategorised), "too many to merge a list from");
        let filter = JobFilter { label: Some(Label::Uncategorised), ..JobFilter::default() };
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.jobs(&filter, PageRequest { cursor, limit: 3 }).await.unwrap();
            assert!(page.items.len() == 3 || page.next.is_none() || page.scanned.is_some(), "a short page says so");
            found.extend(page.items.iter().map(|job| job.id.to_string()));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, (0..10).rev().map(|n| format!("0193-7a5c-{:08}", n * 500 + 7)).collect::<Vec<_>>());
        let pending = JobFilter { label: Some(Label::Pending), ..JobFilter::default() };
        assert_eq!(store.count(&pending, 10).await.unwrap().count, 0);
        assert_eq!(store.count(&filter, 4).await.unwrap(), JobCount { count: 4, capped: true });
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
