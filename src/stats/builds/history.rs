//! The history of the builds of one job name, as a document of bounded size that is folded from the event log.
//!
//! **A build** is told by its digest. Builds are numbered as they come; one that comes back, or runs beside a newer one on
//! other workers, goes on under its number. The builds that are earlier than another are those with a smaller number.
//!
//! **Sums.** All counts are sums over first attempts, as the job records have them, so they can be counted anew from the
//! records. A record knows the place of its first attempt ([`BuildPlace`]), which is decided once, at the start.
//!
//! **Order.** The first attempts of a build are put into cells in the order of their starts: the first cells have 10, 5, 8, 11
//! and 16 attempts, all others 25. A cell is found again by the cursor at which it began, so that an event which is folded
//! again is put into the same. Cells lie in segments, whose ends are the looks; segments that were looked at become one part.
//!
//! **Looks.** A look at a build is made when the first 10, 15, 23, ... of its attempts have ended or run for long, within the
//! fold of the event with which that is so: the same events make the same looks. What a look has found stays.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decide::{self, Alarm, Reference, Sample};
use super::order::{LOOKS, RECENT, cell_end, cell_of, segment_of};
use super::tally::{BuildTally, Cell, Fate, FirstAttempt, add};
use crate::domain::{BuildDigest, FileBuild, Fingerprint, JobName, Timestamp};
use crate::events::Cursor;
use crate::stats::Histogram;
use crate::stats::shard::{CLOCKS_APART, Counter};

/// The history of the builds of one job name, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildHistory {
    /// The version of the document format: [`BuildHistory::SCHEMA`].
    pub schema: u32,
    /// The binary's name.
    pub name: JobName,
    /// The last event whose effect has been added: earlier ones are skipped.
    pub applied: Cursor,
    /// How many builds were compared with earlier ones.
    #[serde(default)]
    pub compared: u32,
    /// How many builds are not kept any more.
    #[serde(default)]
    pub forgotten: u32,
    /// The last of them. One that comes back begins anew, while its records are still there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past: Vec<BuildDigest>,
    /// The builds, in the order in which they came.
    pub builds: Vec<BuildEntry>,
}

/// One build in the history of a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildEntry {
    /// What tells this build from others.
    pub digest: BuildDigest,
    /// The size of its file, once an attempt has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When its file had last changed, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<Timestamp>,
    /// When its first attempt was started.
    pub first_seen: Timestamp,
    /// When its last first attempt was started.
    pub last_seen: Timestamp,
    /// The time until which the store certainly holds the records of all its jobs; `None` while no end is in sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_until: Option<Timestamp>,
    /// How many attempts were given a place.
    #[serde(default)]
    pub started: u64,
    /// The last cells that began, each with the cursor at which it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opened: Vec<(u32, Cursor)>,
    /// How many looks are done.
    #[serde(default)]
    pub looks: u32,
    /// Segments before this one are one part.
    #[serde(default)]
    merged: u32,
    /// Which of the name's comparisons this build's is, from 1; `None` before its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<u32>,
    /// The sums of the segments.
    #[serde(default)]
    parts: BTreeMap<u32, BuildTally>,
    /// The sums of attempts without a place: their build was not known when they were started.
    #[serde(default, skip_serializing_if = "BuildTally::is_zero")]
    unplaced: BuildTally,
    /// The last cells.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cells: BTreeMap<u32, Cell>,
    /// Failures with each error in these cells.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failed_cells: BTreeMap<Fingerprint, Counter<u32>>,
    /// The errors that are counted one by one. It only grows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    admitted: BTreeSet<Fingerprint>,
    /// What looks have found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
}

/// Where the first attempt of a job stands in the history of its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildPlace {
    /// The build that the file was when the attempt was started.
    pub digest: BuildDigest,
    /// Its cell: some attempts of the build that were started one after the other, counted from 0.
    pub cell: u32,
}

/// How many ended attempts of earlier builds a build is compared with, if there are so many.
pub(super) const REFERENCE: i64 = 5000;

impl BuildHistory {
    /// The document format that this version writes.
    pub const SCHEMA: u32 = 1;
    /// How many builds are kept.
    pub const MOST_BUILDS: usize = 12;
    /// How many digests of builds are kept that were forgotten.
    const MOST_PAST: usize = 256;

    /// Of a name of which no build is known.
    pub fn new(name: JobName) -> Self {
        Self {
            schema: Self::SCHEMA,
            name,
            applied: Cursor::START,
            compared: 0,
            forgotten: 0,
            past: Vec::new(),
            builds: Vec::new(),
        }
    }

    /// The entry of a build.
    pub fn entry(&self, digest: &BuildDigest) -> Option<&BuildEntry> {
        self.builds.iter().find(|entry| entry.digest == *digest)
    }

    /// Gives a place to the first attempt of a job that was started with this build, by the event at `at`. To be followed
    /// by [`BuildHistory::apply`] with the same `at`, and to be kept even where that changes nothing. `None` when the event
    /// was folded before, but so long ago that its place is forgotten.
    pub fn place(&mut self, at: Cursor, digest: &BuildDigest, now: Timestamp) -> Option<BuildPlace> {
        let is_old = at <= self.applied;
        let entry = match self.builds.iter().position(|entry| entry.digest == *digest) {
            Some(i) => &mut self.builds[i],
            None if is_old => return None,
            None => self.add_build(digest, now),
        };
        let cell = if is_old { entry.cell_at(at)? } else { entry.next_cell(at) };
        Some(BuildPlace { digest: digest.clone(), cell })
    }

    fn add_build(&mut self, digest: &BuildDigest, now: Timestamp) -> &mut BuildEntry {
        if self.builds.len() >= Self::MOST_BUILDS {
            self.forget_one();
        }
        let mut entry = BuildEntry::new(digest.clone(), now);
        // Its records add up to more than it counts from now on.
        entry.whole_until = self.past.contains(digest).then_some(Timestamp::EPOCH);
        self.builds.push(entry);
        self.builds.last_mut().expect("one was just added")
    }

    /// Forgets the build that has not been seen for longest: rather one of which no attempt runs, and not the last one that
    /// others are compared with.
    fn forget_one(&mut self) {
        let is_reference =
            |entry: &BuildEntry| entry.alarms.is_empty() && entry.placed().ended() >= decide::FEWEST_BEFORE;
        let kept = self.builds.iter().rposition(is_reference);
        let runs = |entry: &BuildEntry| !entry.total().running.is_empty();
        let age = |i: &usize| (runs(&self.builds[*i]), self.builds[*i].last_seen);
        if let Some(oldest) = (0..self.builds.len()).filter(|i| Some(*i) != kept).min_by_key(age) {
            self.past.push(self.builds.remove(oldest).digest);
            self.past.drain(..self.past.len().saturating_sub(Self::MOST_PAST));
            self.forgotten += 1;
        }
    }

    /// The builds that do worse than those before them, as looks have found.
    pub fn worse(&self) -> impl Iterator<Item = &BuildEntry> {
        self.builds.iter().filter(|entry| !entry.alarms.is_empty())
    }

    /// Adds the effect of the event at `at` on the first attempt of one job, unless it has been added before: what it
    /// contributed before the event, and after it. `file` is what the attempt told of its build's file. Answers whether
    /// anything has changed.
    pub fn apply(
        &mut self,
        at: Cursor,
        now: Timestamp,
        (before, after): (Option<&FirstAttempt>, Option<&FirstAttempt>),
        started_at: Timestamp,
        file: Option<&FileBuild>,
    ) -> bool {
        if at <= self.applied || before == after {
            return false;
        }
        self.applied = at;
        if let Some(after) = after
            && self.entry(&after.build).is_none()
        {
            self.add_build(&after.build, started_at);
        }
        for (attempt, sign) in [(before, -1), (after, 1)] {
            let Some(attempt) = attempt else { continue };
            let Some(entry) = self.builds.iter_mut().find(|entry| entry.digest == attempt.build) else { continue };
            entry.count(attempt, sign);
            if sign > 0 {
                entry.first_seen = entry.first_seen.min(started_at);
                entry.last_seen = entry.last_seen.max(started_at);
            }
            if let Some(file) = file.filter(|file| file.digest == entry.digest) {
                entry.bytes = Some(file.bytes);
                entry.modified_at = Some(file.modified_at);
            }
        }
        for attempt in [before, after].into_iter().flatten() {
            self.look(&attempt.build, now);
        }
        true
    }

    /// Makes the looks at a build that are due at `now`.
    fn look(&mut self, digest: &BuildDigest, now: Timestamp) {
        let Some(i) = self.builds.iter().position(|entry| entry.digest == *digest) else { return };
        while let Some(n) = LOOKS.get(self.builds[i].looks as usize)
            && self.builds[i].started >= *n
        {
            if let Some(reference) = self.reference(i) {
                let entry = &self.builds[i];
                let Some(sample) = entry.sample(&reference, now) else { return };
                let comparison = entry.comparison.unwrap_or(self.compared + 1);
                let found = decide::look(&sample, &reference, comparison, now, &entry.alarms);
                self.compared = self.compared.max(comparison);
                let entry = &mut self.builds[i];
                entry.comparison = Some(comparison);
                entry.alarms.extend(found);
            }
            let entry = &mut self.builds[i];
            entry.looks += 1;
            entry.merge(entry.looks);
        }
    }

    /// The last attempts of builds before the one at `i` that have no alarm; `None` when there are too few.
    pub(super) fn reference(&self, i: usize) -> Option<Reference> {
        let mut reference = Reference::default();
        for entry in self.builds[..i].iter().rev().filter(|entry| entry.alarms.is_empty()) {
            if reference.tally.ended() >= REFERENCE {
                break;
            }
            for part in entry.parts.values().rev() {
                if reference.tally.ended() < REFERENCE {
                    reference.tally.add(part);
                }
            }
            reference.groups.push(entry.groups(|_| true));
        }
        (reference.tally.ended() >= decide::FEWEST_BEFORE).then_some(reference)
    }

    /// Notes that records of jobs whose first attempts had been started by `started_by` may be gone from `until` on. Answers
    /// whether that is news.
    pub fn expire_from(&mut self, started_by: Timestamp, until: Timestamp) -> bool {
        // A build that came later has none of them, unless the clocks of its workers differ.
        let latest = started_by + CLOCKS_APART;
        let mut is_news = false;
        for entry in self.builds.iter_mut().filter(|entry| entry.first_seen <= latest) {
            if entry.whole_until.is_none_or(|before| until < before) {
                entry.whole_until = Some(until);
                is_news = true;
            }
        }
        is_news
    }

    /// The same history with nothing counted, for counting it anew.
    pub fn emptied(&self) -> Self {
        let mut empty = self.clone();
        for entry in &mut empty.builds {
            entry.parts.clear();
            entry.unplaced = BuildTally::default();
            entry.cells.clear();
            entry.failed_cells.clear();
        }
        empty
    }

    /// Counts an attempt anew. Of a history that was lost, with `is_new`, builds are made as they come up; they are not
    /// looked at again.
    pub fn recount(&mut self, attempt: &FirstAttempt, started_at: Timestamp, is_new: bool) {
        if is_new && self.entry(&attempt.build).is_none() {
            let at = self.builds.partition_point(|entry| entry.first_seen <= started_at);
            let entry = BuildEntry { looks: LOOKS.len() as u32, ..BuildEntry::new(attempt.build.clone(), started_at) };
            self.builds.insert(at, entry);
        }
        let Some(entry) = self.builds.iter_mut().find(|entry| entry.digest == attempt.build) else { return };
        if is_new {
            entry.first_seen = entry.first_seen.min(started_at);
            entry.last_seen = entry.last_seen.max(started_at);
            if let Some(cell) = attempt.cell.filter(|cell| cell_end(*cell) > entry.started) {
                entry.started = cell_end(cell);
                entry.merge(segment_of(cell) + 1);
                entry.prune();
            }
        }
        entry.count(attempt, 1);
    }

    /// The builds whose counts differ from those of `counted`, of those of which all records are still there.
    pub fn differing<'a>(&'a self, counted: &'a Self, now: Timestamp) -> impl Iterator<Item = &'a BuildDigest> {
        let differs = move |entry: &BuildEntry| {
            counted.entry(&entry.digest).is_some_and(|counted| !entry.has_same_counts(counted)) && entry.is_whole(now)
        };
        self.builds.iter().filter(move |entry| differs(entry)).map(|entry| &entry.digest)
    }

    /// Takes the counts of these builds from `counted`.
    pub fn take_counts(&mut self, counted: &Self, builds: &[BuildDigest]) {
        for entry in self.builds.iter_mut().filter(|entry| builds.contains(&entry.digest)) {
            if let Some(BuildEntry { parts, unplaced, cells, failed_cells, .. }) = counted.entry(&entry.digest) {
                entry.parts.clone_from(parts);
                entry.unplaced = unplaced.clone();
                entry.cells.clone_from(cells);
                entry.failed_cells.clone_from(failed_cells);
            }
        }
    }
}

impl BuildEntry {
    /// How many different errors are counted one by one.
    const MOST_ERRORS: usize = 24;
    /// How many of the last cells are kept: they hold as many attempts as a reference.
    const CELLS: u32 = 200;
    /// How many beginnings of cells are kept: a batch of events that is folded again has fewer.
    const OPENED: usize = 64;

    fn new(digest: BuildDigest, now: Timestamp) -> Self {
        Self {
            digest,
            bytes: None,
            modified_at: None,
            first_seen: now,
            last_seen: now,
            whole_until: None,
            started: 0,
            opened: Vec::new(),
            looks: 0,
            merged: 0,
            comparison: None,
            parts: BTreeMap::new(),
            unplaced: BuildTally::default(),
            cells: BTreeMap::new(),
            failed_cells: BTreeMap::new(),
            admitted: BTreeSet::new(),
            alarms: Vec::new(),
        }
    }

    /// The sums of all its attempts.
    pub fn total(&self) -> BuildTally {
        let mut total = self.placed();
        total.add(&self.unplaced);
        total
    }

    /// The sums of all attempts that have a place.
    fn placed(&self) -> BuildTally {
        let mut total = BuildTally::default();
        self.parts.values().for_each(|part| total.add(part));
        total
    }

    /// Whether the store certainly holds the records of all its jobs.
    pub fn is_whole(&self, now: Timestamp) -> bool {
        self.whole_until.is_none_or(|until| now + CLOCKS_APART < until)
    }

    fn next_cell(&mut self, at: Cursor) -> u32 {
        self.started += 1;
        let cell = cell_of(self.started);
        if self.opened.last().is_none_or(|(last, _)| *last < cell) {
            self.opened.push((cell, at));
            if self.opened.len() > Self::OPENED {
                self.opened.remove(0);
            }
            let segment = segment_of(cell);
            if segment >= LOOKS.len() as u32 + RECENT {
                self.merge(segment - RECENT);
            }
            self.prune();
        }
        cell
    }

    /// The cell of the attempt whose start was folded at `at`.
    fn cell_at(&self, at: Cursor) -> Option<u32> {
        self.opened.iter().rev().find(|(_, began)| *began <= at).map(|(cell, _)| *cell)
    }

    /// Makes one part of all segments before `until`.
    fn merge(&mut self, until: u32) {
        // Those that were not looked at stay apart.
        self.merged = self.merged.max(until.min(if (self.looks as usize) < LOOKS.len() { self.looks } else { until }));
        let apart = self.parts.split_off(&self.merged);
        let together = std::mem::replace(&mut self.parts, apart);
        let mut sum = BuildTally::default();
        together.values().for_each(|part| sum.add(part));
        if !sum.is_zero() {
            self.parts.insert(0, sum);
        }
    }

    fn first_cell(&self) -> u32 {
        cell_of(self.started.max(1)).saturating_sub(Self::CELLS)
    }

    /// Lets go of old cells.
    fn prune(&mut self) {
        let first = self.first_cell();
        self.cells = self.cells.split_off(&first);
        for cells in self.failed_cells.values_mut() {
            *cells = cells.split_off(&first);
        }
        self.failed_cells.retain(|_, cells| !cells.is_empty());
    }

    fn count(&mut self, attempt: &FirstAttempt, sign: i64) {
        let fate = self.bounded(attempt.fate);
        let Some(cell) = attempt.cell.filter(|cell| *cell <= cell_of(self.started.max(1)) && self.started > 0) else {
            self.unplaced.count(&fate, sign);
            return;
        };
        let segment = segment_of(cell);
        let part = if segment < self.merged { 0 } else { segment };
        let tally = self.parts.entry(part).or_default();
        tally.count(&fate, sign);
        if tally.is_zero() {
            self.parts.remove(&part);
        }
        if cell < self.first_cell() {
            return;
        }
        let sums = self.cells.entry(cell).or_default();
        sums.count(&fate, sign);
        if sums.is_zero() {
            self.cells.remove(&cell);
        }
        if let Fate::Ended { error: Some(error), .. } = fate {
            let cells = self.failed_cells.entry(error).or_default();
            add(cells, cell, sign);
            if cells.is_empty() {
                self.failed_cells.remove(&error);
            }
        }
    }

    /// The same with an error that is counted one by one, or with [`Fingerprint::OTHER`].
    fn bounded(&mut self, fate: Fate) -> Fate {
        let Fate::Ended { error: Some(error), run_us, cpu_us, peak_kib } = fate else { return fate };
        if self.admitted.len() < Self::MOST_ERRORS {
            self.admitted.insert(error);
        }
        let error = if self.admitted.contains(&error) { error } else { Fingerprint::OTHER };
        Fate::Ended { error: Some(error), run_us, cpu_us, peak_kib }
    }

    /// The attempts of the look that is due. `None` while some of them may yet end in time.
    fn sample(&self, reference: &Reference, now: Timestamp) -> Option<Sample> {
        let mut tally = BuildTally::default();
        self.parts.range(..=self.looks).for_each(|(_, part)| tally.add(part));
        let (long, undecided) = tally.running_for(Histogram::end_of(reference.run_threshold()), now);
        let end = LOOKS.get(self.looks as usize).copied().unwrap_or(u64::MAX);
        (undecided == 0).then(|| Sample { tally, long, groups: self.groups(|cell| cell_end(cell) <= end) })
    }

    fn groups(&self, takes: impl Fn(u32) -> bool) -> decide::Groups {
        let cells = self.cells.iter().filter(|(cell, _)| takes(**cell)).map(|(cell, sums)| (*cell, *sums));
        decide::Groups { cells: cells.collect(), failed: self.failed_cells.clone() }
    }

    fn has_same_counts(&self, other: &Self) -> bool {
        let of = |entry: &Self| {
            (entry.parts.clone(), entry.unplaced.clone(), entry.cells.clone(), entry.failed_cells.clone())
        };
        of(self) == of(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decide::Change;
    use super::*;

    fn digest(n: u8) -> BuildDigest {
        BuildDigest::of_build_id(&[n; 4])
    }

    fn at(minor: u64) -> Cursor {
        Cursor { major: 0, minor }
    }

    fn time(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + i64::try_from(ms).unwrap())
    }

    fn ended(build: u8, cell: Option<u32>, run_us: u64, fails: bool) -> FirstAttempt {
        let error = fails.then(|| Fingerprint::from_bytes([9; 32]));
        FirstAttempt {
            build: digest(build),
            cell,
            fate: Fate::Ended { error, run_us, cpu_us: run_us / 2, peak_kib: 7 },
        }
    }

    /// Starts and ends one attempt with events at these two places.
    fn run(history: &mut BuildHistory, minor: u64, build: u8, run_us: u64, fails: bool) -> FirstAttempt {
        let cell = history.place(at(minor), &digest(build), time(minor)).map(|place| place.cell);
        let running = FirstAttempt { build: digest(build), cell, fate: Fate::Running { since: time(minor) } };
        history.apply(at(minor), time(minor), (None, Some(&running)), time(minor), None);
        let after = ended(build, cell, run_us, fails);
        history.apply(at(minor + 1), time(minor + 1), (Some(&running), Some(&after)), time(minor), None);
        after
    }

    fn named() -> BuildHistory {
        BuildHistory::new("n".parse().unwrap())
    }

    #[test]
    fn an_event_that_is_folded_again_is_placed_alike_and_adds_nothing() {
        let mut history = named();
        let mut places = Vec::new();
        for i in 0..300 {
            places.push(run(&mut history, 2 * i + 1, 1, 1000, i % 9 == 0).cell);
        }
        let before = history.clone();
        for (i, cell) in places.iter().enumerate().skip(50) {
            let minor = 2 * i as u64 + 1;
            assert_eq!(history.place(at(minor), &digest(1), time(minor)).map(|place| place.cell), *cell);
            let again = ended(1, *cell, 5, false);
            assert!(!history.apply(at(minor), time(minor), (None, Some(&again)), time(minor), None));
        }
        assert_eq!(history, before);
    }

    #[test]
    fn a_build_that_comes_back_goes_on_under_its_number_and_is_not_judged_again() {
        let mut history = named();
        for i in 0..600 {
            run(&mut history, 2 * i + 1, 1, 1000, false);
        }
        for i in 600..700 {
            run(&mut history, 2 * i + 1, 2, 1000, i % 2 == 0);
        }
        for i in 700..800 {
            run(&mut history, 2 * i + 1, 1, 1000, i % 2 == 0);
        }
        let [first, second] = &history.builds[..] else { panic!("two builds") };
        assert_eq!((first.started, second.started), (700, 100));
        assert!(first.alarms.is_empty() && first.comparison.is_none(), "there is nothing earlier");
        let changes: Vec<_> = second.alarms.iter().map(|alarm| alarm.change).collect();
        assert!(changes.contains(&Change::Failures), "{changes:?}");
        // A third build is compared with the first alone, for the second does worse.
        assert_eq!(history.reference(2).unwrap().tally.ended(), 700);
    }

    #[test]
    fn a_look_waits_for_those_that_may_yet_end_in_time_and_counts_the_others_as_slow() {
        let mut history = named();
        for i in 0..600 {
            run(&mut history, 2 * i + 1, 1, 2_000_000, false);
        }
        let mut minor = 2000;
        let start = |history: &mut BuildHistory, minor: u64| {
            let cell = history.place(at(minor), &digest(2), time(minor)).map(|place| place.cell);
            let running = FirstAttempt { build: digest(2), cell, fate: Fate::Running { since: time(minor) } };
            history.apply(at(minor), time(minor), (None, Some(&running)), time(minor), None);
        };
        for _ in 0..10 {
            minor += 1;
            start(&mut history, minor);
        }
        assert_eq!(history.builds[1].looks, 0, "they have just begun");
        // So late that all of them run for longer than those before did.
        minor += 60_000;
        start(&mut history, minor);
        let second = &history.builds[1];
        assert_eq!(second.looks, 1);
        assert_eq!(
            second.alarms.iter().map(|alarm| (alarm.change, alarm.hits)).collect::<Vec<_>>(),
            [(Change::Duration, 10)]
        );
    }

    #[test]
    fn builds_that_are_many_are_forgotten_but_not_the_one_to_compare_with() {
        let mut history = named();
        for i in 0..600 {
            run(&mut history, 2 * i + 1, 1, 1000, false);
        }
        for build in 2..40 {
            run(&mut history, 2000 + 2 * u64::from(build), build, 1000, false);
        }
        assert_eq!((history.builds.len(), history.forgotten), (BuildHistory::MOST_BUILDS, 27));
        assert_eq!(history.builds[0].digest, digest(1));
        run(&mut history, 5000, 2, 1000, false);
        let back = history.entry(&digest(2)).unwrap();
        assert!(!back.is_whole(time(0)), "its records are more than it counts");
    }

    #[test]
    fn the_document_stays_small() {
        let mut history = named();
        for build in 1..=20_u8 {
            for i in 0..1500 {
                let minor = (u64::from(build) * 1500 + i) * 2;
                let spread = 1000 + (i * 7919) % 100_000;
                run(&mut history, minor, build, spread, i % 3 == 0);
            }
        }
        let size = serde_json::to_vec(&history).unwrap().len();
        assert!(size < 120_000, "{size} bytes");
    }

    proptest! {
        /// Counted anew from the attempts as they stand, in any order, the counts are the same; of a lost document, too.
        #[test]
        fn a_recount_gives_the_same(
            draws in prop::collection::vec((1u8..5, 1u64..100_000, any::<bool>(), 0u8..12), 1..400),
        ) {
            let mut history = named();
            let mut all = Vec::new();
            for (i, (build, run_us, fails, dice)) in (0u64..).zip(&draws) {
                let minor = 2 * i + 1;
                match dice {
                    // It was not known in time.
                    0 => {
                        let after = ended(*build, None, *run_us, *fails);
                        history.apply(at(minor), time(minor), (None, Some(&after)), time(minor), None);
                        all.push(after);
                    }
                    // It runs on.
                    1 => {
                        let cell = history.place(at(minor), &digest(*build), time(minor)).map(|place| place.cell);
                        let fate = Fate::Running { since: time(minor) };
                        let running = FirstAttempt { build: digest(*build), cell, fate };
                        history.apply(at(minor), time(minor), (None, Some(&running)), time(minor), None);
                        all.push(running);
                    }
                    _ => all.push(run(&mut history, minor, *build, *run_us, *fails)),
                }
            }
            let (mut counted, mut anew) = (history.emptied(), named());
            for attempt in all.iter().rev() {
                counted.recount(attempt, time(0), false);
                anew.recount(attempt, time(0), true);
            }
            prop_assert_eq!(history.differing(&counted, time(0)).count(), 0);
            for entry in &history.builds {
                prop_assert_eq!(anew.entry(&entry.digest).map(BuildEntry::total), Some(entry.total()));
            }
            let text = serde_json::to_string(&history).unwrap();
            prop_assert_eq!(serde_json::from_str::<BuildHistory>(&text).unwrap(), history);
        }
    }
}
