//! Answers readers: reads single documents, with the help of the directory where their keys are not known.

use super::directory::{self, Days, NameDocument};
use super::documents::{self, Room};
use super::kv::each;
use super::query::{self, GroupPlace};
use super::session::Connector;
use crate::domain::{GroupName, JobBody, JobId, JobName, Page, PageRequest};
use crate::stats::{ShardKey, StatShard};
use crate::store::search::ScanBound;
use crate::store::{
    DayRange, GroupTally, JobCount, JobFilter, JobPage, JobRecord, JobSummary, NameSummary, StoreError, StoreErrorKind,
    codec,
};

pub(super) async fn job(
    connector: &Connector,
    id: &JobId,
    decode: fn(&[u8]) -> Result<JobRecord, StoreError>,
) -> Result<Option<JobRecord>, StoreError> {
    let found = connector.get(Room::Jobs, id.as_str()).await?;
    found.map(|found| decode(&found.body)).transpose()
}

/// What jobs are given, beside their records or within them.
pub(super) async fn bodies(connector: &Connector, ids: &[JobId]) -> Result<Vec<Option<JobBody>>, StoreError> {
    each(ids, |id| async move {
        if let Some(found) = connector.get(Room::Jobs, &documents::body_key(id)).await? {
            return codec::body(&found.body).map(Some);
        }
        Ok(job(connector, id, codec::job).await?.and_then(|record| record.body_within()))
    })
    .await
}

/// How many jobs a search looks at for one page at most.
const MOST_SCANNED: usize = 1000;
/// How many of them are read at once.
const BATCH: usize = 50;

/// What is said of a list that can't be read.
fn what(filter: &JobFilter) -> &'static str {
    if filter.errors.is_empty() { "the list of jobs" } else { "the list of jobs by error or category" }
}

/// One page: places by the query service, lines by key. A job that has left the list since the index was read (removed,
/// or in another state) is left out, so a page may be short; it is the last when it has no `next`. A search ends it
/// early when it has looked at enough jobs.
pub(super) async fn jobs(
    connector: &Connector,
    filter: &JobFilter,
    start: Option<&str>,
    limit: usize,
) -> Result<JobPage, StoreError> {
    let is_search = !filter.search.is_empty();
    // Each range gives as many places, and their union is whole as far as the shortest goes.
    let wanted = if is_search { (MOST_SCANNED / query::ranges(filter).len()).max(limit) } else { limit };
    let session = connector.session().await?;
    // Asks for one more, to know whether there is another page.
    let places = query::places(&session, &connector.settings().key_prefix, filter, start, wanted + 1);
    let places = query::bounded(places, what(filter)).await?;
    let mut bound = ScanBound::of_page();
    let mut page = JobPage { items: Vec::new(), next: None, scanned: None };
    let newest: Vec<_> = places.iter().rev().take(wanted).collect();
    let mut looked_at: usize = 0;
    for part in newest.chunks(if is_search { BATCH } else { limit }) {
        let lines = each(part.iter().copied(), |place| line(connector, filter, place)).await?;
        for line in lines {
            if page.items.len() == limit {
                break;
            }
            looked_at += 1;
            bound.count();
            page.items.extend(line);
        }
        if page.items.len() == limit || (is_search && bound.is_reached()) {
            break;
        }
    }
    let last = looked_at.checked_sub(1).and_then(|last| newest.get(last));
    page.next = last.filter(|_| places.len() > looked_at).map(|place| documents::to_cursor(place));
    page.scanned = is_search.then(|| bound.scanned());
    Ok(page)
}

/// The ids that begin with `prefix`, in order.
pub(super) async fn ids_from(connector: &Connector, prefix: &str, limit: usize) -> Result<Vec<JobId>, StoreError> {
    let session = connector.session().await?;
    let ids = query::ids_from(&session, &connector.settings().key_prefix, prefix, limit);
    let ids = query::bounded(ids, "finding a job by the beginning of its id").await?;
    Ok(ids.iter().filter_map(|id| JobId::parse(id).ok()).collect())
}

/// Counts jobs, up to `most`: by places alone, or by a search that looks at as many jobs as that of a page.
pub(super) async fn count(connector: &Connector, filter: &JobFilter, most: usize) -> Result<JobCount, StoreError> {
    if !filter.search.is_empty() {
        let page = jobs(connector, filter, None, MOST_SCANNED).await?;
        return Ok(JobCount { count: page.items.len() as u64, capped: page.next.is_some() });
    }
    let session = connector.session().await?;
    let places = query::places(&session, &connector.settings().key_prefix, filter, None, most + 1);
    let places = query::bounded(places, what(filter)).await?;
    Ok(JobCount { count: places.len().min(most) as u64, capped: places.len() > most })
}

/// Counts the jobs of a group.
pub(super) async fn group(connector: &Connector, group: &GroupName) -> Result<GroupTally, StoreError> {
    let session = connector.session().await?;
    let tally = query::tally(&session, &connector.settings().key_prefix, group);
    query::bounded(tally, "counting the jobs of a group").await
}

/// One page of a group's jobs: places by the query service, records by key. A page may be short, as that of a list.
pub(super) async fn group_jobs(
    connector: &Connector,
    group: &GroupName,
    page: PageRequest,
) -> Result<Page<JobRecord>, StoreError> {
    let after = page.cursor.as_deref().map(read_group_cursor).transpose()?;
    let limit = page.limit.clamp(1, PageRequest::MAX);
    let session = connector.session().await?;
    // Asks for one more, to know whether there is another page.
    let places = query::group_places(&session, &connector.settings().key_prefix, group, after.as_ref(), limit + 1);
    let mut places = query::bounded(places, "the list of a group's jobs").await?;
    let more = places.len() > limit;
    places.truncate(limit);
    let next = places.last().filter(|_| more);
    let next = next.map(|last| format!("{}.{}", last.order, documents::to_cursor(&last.place)));
    let records = each(places, |at| async move {
        let Some((_, id)) = documents::read_place(&at.place) else { return Ok(None) };
        job(connector, &id, codec::job).await
    });
    let records = records.await?.into_iter().flatten().filter(|record| !record.removed);
    Ok(Page { items: records.collect(), next })
}

/// Reads the `next` of a page before.
fn read_group_cursor(text: &str) -> Result<GroupPlace, StoreError> {
    let parts = text.split_once('.').and_then(|(order, place)| Some((order.parse().ok()?, place)));
    let (order, place) = parts.ok_or_else(|| {
        let message = "the cursor is not one of this group; give back that of the page before";
        StoreError::new(StoreErrorKind::Rejected, message)
    })?;
    Ok(GroupPlace { order, place: documents::from_cursor(place)? })
}

/// Reads the line of the job at a place; `None` if it has left the list, or is not one that is looked for.
async fn line(connector: &Connector, filter: &JobFilter, place: &str) -> Result<Option<JobSummary>, StoreError> {
    let Some((_, id)) = documents::read_place(place) else { return Ok(None) };
    let Some(line) = connector.part(Room::Jobs, id.as_str(), "summary").await? else { return Ok(None) };
    let mut found: JobSummary = documents::read("a job's summary", &line)?;
    if filter.search.needs_record(&found) {
        let Some(record) = job(connector, &id, codec::job_without_result).await? else { return Ok(None) };
        found = record.summary();
    }
    let is_wanted = filter.states.is_empty() || filter.states.contains(&found.state);
    Ok(Some(found).filter(|found| is_wanted && filter.search.finds(found)))
}

/// A name's line comes from three documents, however many jobs it has.
pub(super) async fn job_names(connector: &Connector) -> Result<Vec<NameSummary>, StoreError> {
    let names = directory::names(connector).await?;
    let listed = NameSummary::listed(names.len());
    let lines = each(names, |name| async move {
        let (known, recent) =
            tokio::try_join!(directory::known(connector, &name), directory::recent(connector, &name))?;
        Ok(known.summary(name, &recent, listed))
    });
    Ok(lines.await?.into_iter().flatten().collect())
}

/// The keys of the aggregates of these days, in order.
pub(super) async fn keys(
    connector: &Connector,
    days: DayRange,
    name: Option<&JobName>,
) -> Result<Vec<ShardKey>, StoreError> {
    let names = match name {
        Some(name) => vec![name.clone()],
        None => directory::names(connector).await?,
    };
    let found = each(names, |name| async move {
        let known: NameDocument = directory::known(connector, &name).await?;
        let wanted =
            known.years().filter(|year| directory::overlaps(year, days)).map(str::to_owned).collect::<Vec<_>>();
        let mut keys = Vec::new();
        for year in wanted {
            let of_year: Days = directory::days(connector, &name, &year).await?;
            keys.extend(of_year.days().map(|day| ShardKey { day, name: name.clone() }));
        }
        Ok(keys)
    });
    let mut keys: Vec<_> = found.await?.into_iter().flatten().collect();
    keys.retain(|key| days.from.is_none_or(|from| key.day >= from) && days.to.is_none_or(|to| key.day <= to));
    keys.sort_unstable();
    Ok(keys)
}

pub(super) async fn shards(
    connector: &Connector,
    keys: &[ShardKey],
    decode: fn(&[u8]) -> Result<StatShard, StoreError>,
) -> Result<Vec<StatShard>, StoreError> {
    let found = each(keys, |key| async move {
        let found = connector.get(Room::Aggregates, &documents::shard_key(key)).await?;
        // The directory is written first: a day may be in it a moment before its aggregate is there.
        found.map(|found| decode(&found.body)).transpose()
    });
    Ok(found.await?.into_iter().flatten().collect())
}

pub(super) async fn shard_keys(connector: &Connector) -> Result<Vec<ShardKey>, StoreError> {
    keys(connector, DayRange::default(), None).await
}

pub(super) async fn build_names(connector: &Connector) -> Result<Vec<JobName>, StoreError> {
    let found = each(directory::names(connector).await?, |name| async move {
        let found = connector.get(Room::Aggregates, &documents::builds_key(&name)).await?;
        Ok(found.map(|_| name))
    });
    Ok(found.await?.into_iter().flatten().collect())
}

pub(super) async fn scan(
    connector: &Connector,
    after: Option<&JobId>,
    limit: usize,
) -> Result<Vec<JobRecord>, StoreError> {
    let session = connector.session().await?;
    // The empty text comes before every id, because ids are never empty.
    let mut after = after.map_or("", JobId::as_str).to_owned();
    loop {
        let ids = query::ids(&session, &connector.settings().key_prefix, &after, limit);
        let ids = query::bounded(ids, "reading all jobs").await?;
        let Some(last) = ids.last().cloned() else { return Ok(Vec::new()) };
        let records = each(ids, |id| async move {
            let id = JobId::parse(&id).map_err(|e| {
                StoreError::new(StoreErrorKind::Corrupt, "a job's id in Couchbase makes no sense").caused_by(e)
            })?;
            job(connector, &id, codec::job).await
        });
        let records: Vec<_> = records.await?.into_iter().flatten().collect();
        // All of them may have expired since the index was read. The caller would take an empty answer for the end.
        if !records.is_empty() {
            return Ok(records);
        }
        after = last;
    }
}
