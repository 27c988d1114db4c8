//! The directory, which finds aggregates and jobs without a scan. It lists the names that there
//! are, the days of each, and each name's sums and last ids.
//!
//! | document | what it holds | written when |
//! |---|---|---|
//! | `names` | all job names | a name is new |
//! | `name:<name>` | sums by year, the running jobs | a job of it starts, ends or arrives |
//! | `days:<year>:<name>` | sums by day: 366 at most | the same |
//! | `recent:<name>` | the last 1000 jobs | a job of it arrives or is removed |
//!
//! All values in it are set, never added to: a day's sums are those of its aggregate, a year's are
//! those of its days, and a job is in a list or not. So writing the same again changes nothing. The
//! directory is written before the documents that it describes, so a replay repeats what has
//! stopped half-way. A batch that finds an aggregate or a job already folded sets the values that
//! it has *read*, so that the directory always ends at what the documents say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::documents::{self, NAMES, Room, read};
use super::kv::{Written, each};
use super::session::Connector;
use super::term;
use crate::domain::{Day, JobId, JobName, JobState, Timestamp};
use crate::reconnect::ReconnectBackoff;
use crate::stats::{Counts, ShardKey};
use crate::store::{DayRange, JobRecord, NameSummary, StoreError, StoreErrorKind, Term, codec};

/// The format number of these documents.
const SCHEMA: u32 = 1;
/// How often to start over when another process writes the same document.
const TRIES: u32 = 20;
/// How many documents of a kind to remember between two commits.
const REMEMBERED: usize = 2000;

/// How many jobs of a day or year are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    waiting: i64,
    active: i64,
    completed: i64,
    failed: i64,
}

impl Tally {
    pub(super) fn of(counts: &Counts) -> Self {
        Self { waiting: counts.waiting, active: counts.active, completed: counts.completed(), failed: counts.failed() }
    }

    fn sum<'a>(all: impl IntoIterator<Item = &'a Tally>) -> Self {
        all.into_iter().fold(Self::default(), |sum, one| Self {
            waiting: sum.waiting + one.waiting,
            active: sum.active + one.active,
            completed: sum.completed + one.completed,
            failed: sum.failed + one.failed,
        })
    }
}

/// The document `names`: all job names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Names {
    schema: u32,
    names: BTreeSet<JobName>,
}

/// A document `name:<name>`: the sums by year, and the running jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NameDocument {
    schema: u32,
    years: BTreeMap<String, Tally>,
    /// Places of the jobs that run.
    running: BTreeSet<String>,
}

/// A document `days:<year>:<name>`: the sums by day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Days {
    schema: u32,
    days: BTreeMap<Day, Tally>,
}

/// A document `recent:<name>`: the last jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent {
    schema: u32,
    /// When the newest job of all time was submitted.
    latest: Option<Timestamp>,
    /// Whether there were jobs before the first of `places`.
    more: bool,
    places: BTreeSet<String>,
}

impl NameDocument {
    pub(super) fn years(&self) -> impl Iterator<Item = &str> {
        self.years.keys().map(String::as_str)
    }

    /// The name's line, with so many ids in each list at most. `None` when all its jobs have been removed.
    pub(super) fn summary(&self, name: JobName, recent: &Recent, listed: usize) -> Option<NameSummary> {
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let newest = recent.places.last().and_then(|place| documents::read_place(place)).map(|(at, _)| at);
        let latest = newest.or(recent.latest.filter(|_| recent.more))?;
        let Tally { waiting, active, completed, failed } = Tally::sum(self.years.values());
        Some(NameSummary {
            name,
            latest,
            waiting: count(waiting),
            active: count(active),
            completed: count(completed),
            failed: count(failed),
            recent: ids(&recent.places, listed),
            running: ids(&self.running, listed),
        })
    }
}

fn ids(places: &BTreeSet<String>, most: usize) -> Vec<JobId> {
    let newest = places.iter().rev().take(most);
    newest.filter_map(|place| documents::read_place(place)).map(|(_, id)| id).collect()
}

impl Days {
    pub(super) fn days(&self) -> impl Iterator<Item = Day> {
        self.days.keys().copied()
    }
}

/// Whether a year has days in this range.
pub(super) fn overlaps(year: &str, days: DayRange) -> bool {
    let of = |day: Day| year_of(day);
    days.from.is_none_or(|from| of(from).as_str() <= year) && days.to.is_none_or(|to| of(to).as_str() >= year)
}

fn year_of(day: Day) -> String {
    day.to_string().split('-').next().unwrap_or_default().to_owned()
}

async fn stored<D: DeserializeOwned>(connector: &Connector, key: &str) -> Result<Option<(D, u64)>, StoreError> {
    let found = connector.get(Room::Aggregates, key).await?;
    found.map(|found| Ok((read(&format!("document {key:?}"), &found.body)?, found.cas))).transpose()
}

async fn or_empty<D: DeserializeOwned + Default>(connector: &Connector, key: &str) -> Result<D, StoreError> {
    Ok(stored(connector, key).await?.map(|(document, _)| document).unwrap_or_default())
}

pub(super) async fn names(connector: &Connector) -> Result<Vec<JobName>, StoreError> {
    Ok(or_empty::<Names>(connector, NAMES).await?.names.into_iter().collect())
}

pub(super) async fn known(connector: &Connector, name: &JobName) -> Result<NameDocument, StoreError> {
    or_empty(connector, &documents::name_key(name)).await
}

pub(super) async fn days(connector: &Connector, name: &JobName, year: &str) -> Result<Days, StoreError> {
    or_empty(connector, &documents::days_key(name, year)).await
}

pub(super) async fn recent(connector: &Connector, name: &JobName) -> Result<Recent, StoreError> {
    or_empty(connector, &documents::recent_key(name)).await
}

/// The place of a job in the lists of its name.
#[derive(Debug, Clone)]
pub(super) struct DirectoryLine {
    place: String,
    is_listed: bool,
    is_running: bool,
}

impl DirectoryLine {
    pub(super) fn of(record: &JobRecord) -> Self {
        let is_listed = !record.removed;
        Self {
            place: documents::place(record.submitted_at, &record.id),
            is_listed,
            is_running: is_listed && record.state == JobState::Active,
        }
    }

    fn set_in(&self, places: &mut BTreeSet<String>, is_in: bool) {
        if is_in {
            places.insert(self.place.clone());
        } else {
            places.remove(&self.place);
        }
    }
}

/// What a commit changes for one name.
#[derive(Debug, Default)]
pub(super) struct DirectoryChange {
    days: BTreeMap<Day, Tally>,
    lines: Vec<DirectoryLine>,
}

/// What a commit changes, by name.
#[derive(Debug, Default)]
pub(super) struct DirectoryChanges(BTreeMap<JobName, DirectoryChange>);

impl DirectoryChanges {
    pub(super) fn set(&mut self, key: &ShardKey, tally: Tally) {
        self.0.entry(key.name.clone()).or_default().days.insert(key.day, tally);
    }

    pub(super) fn put(&mut self, name: &JobName, line: DirectoryLine) {
        self.0.entry(name.clone()).or_default().lines.push(line);
    }
}

/// Documents as this process wrote them last, so that a commit need not read them again.
struct Remembered<D>(Mutex<HashMap<String, (D, u64)>>);

impl<D> Default for Remembered<D> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

/// Writes the directory for the projector.
#[derive(Default)]
pub(super) struct DirectoryWriter {
    names: Remembered<Names>,
    known: Remembered<NameDocument>,
    days: Remembered<Days>,
    recent: Remembered<Recent>,
}

impl DirectoryWriter {
    /// Forgets all remembered documents, so that they are read anew.
    pub(super) async fn forget(&self) {
        self.names.0.lock().await.clear();
        self.known.0.lock().await.clear();
        self.days.0.lock().await.clear();
        self.recent.0.lock().await.clear();
    }

    /// Writes the changes of a commit.
    ///
    /// # Errors
    /// `Fenced` when another projector has written in between.
    pub(super) async fn set(
        &self,
        connector: &Connector,
        term: &Term,
        changes: DirectoryChanges,
    ) -> Result<(), StoreError> {
        if changes.0.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = changes.0.keys().cloned().collect();
        self.names.update(connector, term, NAMES, |names| names.names.extend(named.iter().cloned())).await?;
        each(changes.0, |(name, changes)| async move { self.set_name(connector, term, &name, &changes).await }).await?;
        Ok(())
    }

    async fn set_name(
        &self,
        connector: &Connector,
        term: &Term,
        name: &JobName,
        changes: &DirectoryChange,
    ) -> Result<(), StoreError> {
        let mut by_year: BTreeMap<String, Vec<(Day, Tally)>> = BTreeMap::new();
        for (day, tally) in &changes.days {
            by_year.entry(year_of(*day)).or_default().push((*day, *tally));
        }
        let years = each(by_year, |(year, set)| async move {
            let key = documents::days_key(name, &year);
            let of_year = self.days.update(connector, term, &key, |days| days.days.extend(set.iter().copied())).await?;
            Ok((year, Tally::sum(of_year.days.values())))
        });
        let recent = async {
            if changes.lines.is_empty() {
                return Ok(());
            }
            let key = documents::recent_key(name);
            self.recent.update(connector, term, &key, |recent| recent.set(&changes.lines)).await.map(|_| ())
        };
        let (years, ()) = tokio::try_join!(years, recent)?;
        let set = |known: &mut NameDocument| {
            known.years.extend(years.iter().cloned());
            for line in &changes.lines {
                line.set_in(&mut known.running, line.is_running);
            }
        };
        self.known.update(connector, term, &documents::name_key(name), set).await.map(|_| ())
    }
}

impl Recent {
    fn set(&mut self, lines: &[DirectoryLine]) {
        for line in lines {
            line.set_in(&mut self.places, line.is_listed);
        }
        let newest = self.places.last().and_then(|place| documents::read_place(place)).map(|(at, _)| at);
        self.latest = self.latest.max(newest);
        while self.places.len() > NameSummary::RECENT {
            self.places.pop_first();
            self.more = true;
        }
    }
}

/// One of the documents of the directory.
trait Document: Clone + Default + PartialEq + Serialize + DeserializeOwned {
    fn set_schema(&mut self);
}

macro_rules! document {
    ($($name:ident),+) => {
        $(impl Document for $name {
            fn set_schema(&mut self) {
                self.schema = SCHEMA;
            }
        })+
    };
}
document!(Names, NameDocument, Days, Recent);

impl<D: Document> Remembered<D> {
    /// Changes a document under its version, again and again until no other process writes in
    /// between. Returns the document as it is then.
    async fn update(
        &self,
        connector: &Connector,
        term: &Term,
        key: &str,
        change: impl Fn(&mut D),
    ) -> Result<D, StoreError> {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(2), Duration::from_millis(200));
        let mut remembered = self.0.lock().await.remove(key);
        for _ in 0..TRIES {
            let (before, version) = match remembered.take() {
                Some((document, version)) => (document, Some(version)),
                None => match stored::<D>(connector, key).await? {
                    Some((document, version)) => (document, Some(version)),
                    None => (D::default(), None),
                },
            };
            let mut after = before.clone();
            change(&mut after);
            after.set_schema();
            let written = match version {
                Some(version) if after == before => Written::Done(version),
                version => connector.write(Room::Aggregates, key, &codec::encode(&after), version).await?,
            };
            if let Written::Done(version) = written {
                let mut all = self.0.lock().await;
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(key.to_owned(), (after.clone(), version));
                return Ok(after);
            }
            // The other writer may have taken the term.
            term::check(connector, term).await?;
            tokio::time::sleep(waits.next_wait()).await;
        }
        Err(StoreError::new(
            StoreErrorKind::Conflict,
            format!("document {key:?} is written by another process all the time"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: i64, is_listed: bool) -> DirectoryLine {
        let place = documents::place(Timestamp::from_millis(n), &JobId::parse("j").unwrap());
        DirectoryLine { place, is_listed, is_running: false }
    }

    #[test]
    fn the_last_jobs_are_kept_and_that_there_were_more() {
        let mut recent = Recent::default();
        for n in 0..1500 {
            recent.set(&[line(n, true)]);
        }
        assert_eq!(recent.places.len(), NameSummary::RECENT);
        assert!(recent.more && recent.latest == Some(Timestamp::from_millis(1499)));
        let removed: Vec<_> = (0..1500).map(|n| line(n, false)).collect();
        recent.set(&removed);
        let known = NameDocument { running: [line(3, true).place].into(), ..NameDocument::default() };
        let summary = known.summary(JobName::parse("n").unwrap(), &recent, 10).expect("older ones are left");
        assert_eq!((summary.recent.len(), summary.running.len()), (0, 1));
        assert_eq!(summary.latest, Timestamp::from_millis(1499));
        let none = Recent { more: false, ..recent };
        assert!(known.summary(JobName::parse("n").unwrap(), &none, 10).is_none());
    }

    #[test]
    fn years_outside_a_range_are_not_read() {
        let day = |text| Some(Day::parse(text).unwrap());
        let range = DayRange { from: day("2025-12-31"), to: day("2026-01-01") };
        assert_eq!(["2024", "2025", "2026", "2027"].map(|y| overlaps(y, range)), [false, true, true, false]);
        assert!(overlaps("1970", DayRange::default()));
    }
}
