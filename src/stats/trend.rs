//! How often attempts failed on each of the last days. As in all aggregates, a day is the one on which jobs were
//! submitted (UTC).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::Day;

/// The failures of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DayCount {
    /// The day.
    pub day: Day,
    /// Attempts of jobs of that day that failed.
    pub count: i64,
}

/// Failures by day: only the days that have any, or every day of a time that was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Trend {
    /// The days that have failures.
    Sparse(BTreeMap<Day, i64>),
    /// Every day, the oldest first.
    Daily(Vec<DayCount>),
}

/// Failures of the last days, by what the caller tells them apart by.
#[derive(Debug, Clone)]
pub struct DailyTrends<K> {
    days: Vec<Day>,
    counts: BTreeMap<(K, Day), i64>,
}

impl<K: Ord + Clone> DailyTrends<K> {
    /// Trends over these days, which are in order, before anything is counted.
    pub fn new(days: Vec<Day>) -> Self {
        Self { days, counts: BTreeMap::new() }
    }

    /// The first of the days and the last.
    pub fn span(&self) -> (Option<Day>, Option<Day>) {
        (self.days.first().copied(), self.days.last().copied())
    }

    /// Counts failures of jobs of this day.
    pub fn add(&mut self, key: K, day: Day, failures: i64) {
        *self.counts.entry((key, day)).or_insert(0) += failures;
    }

    /// The trend of one group: every day, with 0 where it has no failures.
    pub fn get(&self, key: &K) -> Vec<DayCount> {
        let count = |day: &Day| self.counts.get(&(key.clone(), *day)).copied().unwrap_or(0);
        self.days.iter().map(|day| DayCount { day: *day, count: count(day) }).collect()
    }
}

/// The last `count` days up to and including `today`, the oldest first.
pub fn last_days(today: Day, count: u16) -> Vec<Day> {
    let day_before = |day: &Day| Some((day.start() - std::time::Duration::from_millis(1)).day());
    let mut days: Vec<_> = std::iter::successors(Some(today), day_before).take(usize::from(count)).collect();
    days.reverse();
    days
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_has_a_count() {
        let day = |text| Day::parse(text).unwrap();
        let mut trends = DailyTrends::new(last_days(day("2026-03-02"), 3));
        [("2026-02-28", 2), ("2026-03-02", 3)].iter().for_each(|(on, failures)| trends.add("x", day(on), *failures));
        let counts = |key| trends.get(&key).iter().map(|day| (day.day.to_string(), day.count)).collect::<Vec<_>>();
        let expected = [("2026-02-28", 2), ("2026-03-01", 0), ("2026-03-02", 3)].map(|(day, n)| (day.to_owned(), n));
        assert_eq!(counts("x"), expected);
        assert_eq!(counts("y").iter().map(|(_, n)| n).sum::<i64>(), 0);
    }
}
