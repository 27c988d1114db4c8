//! Groups of jobs: counts of their states, and their jobs in order.

use rusqlite::Connection;

use super::corrupt;
use super::list::ListCursor;
use crate::domain::{GroupName, JobState, Page, Timestamp};
use crate::store::{GroupTally, JobRecord, StoreError, StoreErrorKind, codec};

type Read<T> = rusqlite::Result<Result<T, StoreError>>;

/// Counts a group's jobs, from its part of one index.
pub(super) fn tally(c: &Connection, group: &GroupName) -> Read<GroupTally> {
    let mut select = c.prepare_cached(TALLY)?;
    let mut rows = select.query([group.as_str()])?;
    let mut tally = GroupTally::default();
    while let Some(row) = rows.next()? {
        let state: String = row.get(0)?;
        let Some(state) = JobState::ALL.into_iter().find(|known| known.as_str() == state) else {
            return Ok(Err(corrupt("a job's state", format!("{state:?} is none"))));
        };
        let time = |column| row.get(column).map(|ms: Option<i64>| ms.map(Timestamp::from_millis));
        tally.add(state, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0), time(2)?, time(3)?);
    }
    Ok(Ok(tally))
}

const TALLY: &str = "SELECT state, count(*), min(submitted_at), max(ended_at)
    FROM history_jobs INDEXED BY history_jobs_by_group WHERE removed = 0 AND job_group = ?1 GROUP BY state";

/// A place among the jobs of a group: all before it comes before it in their list.
#[derive(Debug, PartialEq)]
pub(super) struct GroupCursor {
    order: i64,
    place: ListCursor,
}

impl GroupCursor {
    /// Reads a cursor that `Display` wrote.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let wrong = || {
            let message = "the cursor is not one of this group; give back that of the page before";
            StoreError::new(StoreErrorKind::Rejected, message)
        };
        let (order, place) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { order: order.parse().map_err(|_| wrong())?, place: ListCursor::parse(place)? })
    }
}

impl std::fmt::Display for GroupCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.order, self.place)
    }
}

/// One page of a group's jobs.
pub(super) fn jobs(
    c: &Connection,
    group: &GroupName,
    after: Option<GroupCursor>,
    limit: usize,
) -> Read<Page<JobRecord>> {
    let after = after.unwrap_or(GroupCursor { order: i64::MIN, place: ListCursor::OLDEST });
    let mut select = c.prepare_cached(JOBS)?;
    // One more, to know whether there is another page.
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let (submitted_at, id) = after.place.parts();
    let mut rows = select.query((group.as_str(), after.order, submitted_at, id, wanted))?;
    let mut page = Page { items: Vec::new(), next: None };
    let mut last = None;
    while let Some(row) = rows.next()? {
        if page.items.len() == limit {
            page.next = last.as_ref().map(GroupCursor::to_string);
            break;
        }
        match codec::job(row.get_ref(3)?.as_blob()?) {
            Ok(record) => page.items.push(record),
            Err(e) => return Ok(Err(e)),
        }
        last = Some(GroupCursor { order: row.get(0)?, place: ListCursor::new(row.get(1)?, row.get(2)?) });
    }
    Ok(Ok(page))
}

const JOBS: &str = "SELECT group_order, submitted_at, id, document FROM history_jobs INDEXED BY history_jobs_by_index
    WHERE removed = 0 AND job_group = ?1 AND (group_order, submitted_at, id) > (?2, ?3, ?4)
    ORDER BY group_order, submitted_at, id LIMIT ?5";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Durability, Sqlite};
    use crate::store::embedded::EmbeddedStore;

    #[tokio::test]
    async fn a_group_is_counted_and_read_from_its_part_of_an_index() {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        EmbeddedStore::open(db.clone()).await.unwrap();
        for (sql, index) in [(TALLY, "COVERING INDEX history_jobs_by_group"), (JOBS, "INDEX history_jobs_by_index")] {
            let plan: Vec<String> = db
                .read(move |c| {
                    let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                    let count = plan.parameter_count();
                    plan.query_map(rusqlite::params_from_iter(vec![1; count]), |row| row.get("detail"))?.collect()
                })
                .await
                .unwrap();
            assert_eq!(plan.len(), 1, "nothing is sorted: {plan:?}");
            assert!(plan[0].contains(index) && plan[0].contains("job_group=?"), "{plan:?}");
        }
    }

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = GroupCursor { order: -1, place: ListCursor::new(17, "a-1".to_owned()) };
        assert_eq!(GroupCursor::parse(&place.to_string()).unwrap(), place);
        assert!(GroupCursor::parse("1").is_err());
    }
}
