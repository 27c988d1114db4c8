//! What a history of builds tells readers: a line for each build, what differs from the build before, what looks have found.
//!
//! ```text
//! Ratio of two medians: each median has the limits that order statistics give it, the values at the ranks n/2 ± z √n / 2;
//! on the logarithms the limits of the difference are put together from those of the parts (Zou and Donner 2008, Stat. Med.
//! 27:1693), as Newcombe's are.
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decide::{self, ALPHA, Alarm, Change, FEWEST_BEFORE};
use super::history::{BuildEntry, BuildHistory};
use super::order::LOOKS;
use super::tally::BuildTally;
use crate::domain::crash::crashed_in;
use crate::domain::{BuildDigest, Fingerprint, JobName, Timestamp};
use crate::stats::intervals::{Z, newcombe};
use crate::stats::{Difference, Histogram, Rate};

/// The builds of one job name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildsReport {
    /// The binary's name.
    pub name: JobName,
    /// Its builds, the last that came first.
    pub builds: Vec<BuildLine>,
    /// Builds that were here before and are not kept any more.
    pub forgotten: u32,
    /// Builds that do worse than those before them, the last that came first.
    pub regressions: Vec<Regression>,
    /// What will be compared next, for people. `None` when no build has come yet.
    pub outlook: Option<String>,
}

/// One build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildLine {
    /// What tells this build from others.
    pub digest: BuildDigest,
    /// The size of its file, if an attempt has told it.
    pub bytes: Option<u64>,
    /// When its file had last changed, likewise.
    pub modified_at: Option<Timestamp>,
    /// When its first attempt was started.
    pub first_seen: Timestamp,
    /// When its last one was started. First attempts of jobs are counted, here and below; retries are not.
    pub last_seen: Timestamp,
    /// First attempts that run.
    pub running: i64,
    /// First attempts that succeeded, of those that succeeded or failed.
    pub success: Rate,
    /// What failed attempts said, most frequent first.
    pub failures: Vec<BuildFailure>,
    /// Wall time, in microseconds; `None` before an attempt has ended.
    pub run_us: Option<Spread>,
    /// CPU time, in microseconds.
    pub cpu_us: Option<Spread>,
    /// Peak resident set, in KiB.
    pub peak_kib: Option<Spread>,
    /// How it differs from the build that came before it; `None` of the first.
    pub against: Option<Compared>,
}

/// Failures of a build with one error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildFailure {
    /// The fingerprint of the error.
    pub fingerprint: Fingerprint,
    /// What was said, masked; `None` where that is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// First attempts that failed with it.
    pub attempts: i64,
    /// Whether no kept build that came before has failed with it.
    pub is_new: bool,
}

/// The middle of some values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// The median.
    pub p50: u64,
    /// The value below which nine of ten lie.
    pub p90: u64,
}

/// A build against the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Compared {
    /// The build before.
    pub digest: BuildDigest,
    /// Success of this build less that of the one before; `None` when there are too few of either.
    pub success: Option<Difference>,
    /// The median of wall time over that of the build before; `None` when there are too few of either.
    pub run: Option<Ratio>,
    /// The same of CPU time.
    pub cpu: Option<Ratio>,
    /// The same of peak memory.
    pub peak: Option<Ratio>,
}

/// How many times as large one median is as another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ratio {
    /// The first over the second.
    pub ratio: f64,
    /// The lower limit of the interval of 95 %.
    pub low: f64,
    /// The upper limit of the interval of 95 %.
    pub high: f64,
}

/// A build that does worse than those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Regression {
    /// The binary's name.
    pub name: JobName,
    /// The build.
    pub build: BuildDigest,
    /// When its first attempt was started.
    pub first_seen: Timestamp,
    /// When its last one was started.
    pub last_seen: Timestamp,
    /// What looks at it have found, in order.
    pub found: Vec<Alarm>,
    /// All of it in one sentence.
    pub says: String,
}

/// What each error said, masked.
pub type ErrorTexts = BTreeMap<Fingerprint, String>;

/// Medians of fewer values are not compared.
const FEWEST_VALUES: i64 = 20;
/// Before so many first attempts of a build its line says what would show when.
const EARLY: i64 = 20;

impl BuildHistory {
    /// All errors that it names.
    pub fn errors(&self) -> Vec<Fingerprint> {
        let mut all: Vec<_> = self.builds.iter().flat_map(|entry| entry.total().failures.into_keys()).collect();
        all.extend(self.builds.iter().flat_map(|entry| &entry.alarms).filter_map(Alarm::fingerprint));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether any of its builds does worse than those before it.
    pub fn has_regression(&self) -> bool {
        self.builds.iter().any(|entry| !entry.alarms.is_empty())
    }

    /// The builds that do worse, the last that came first.
    pub fn regressions(&self, texts: &ErrorTexts) -> Vec<Regression> {
        let regression = |entry: &BuildEntry| Regression {
            name: self.name.clone(),
            build: entry.digest.clone(),
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            found: entry.alarms.clone(),
            says: sentence(entry, texts),
        };
        self.builds.iter().rev().filter(|entry| !entry.alarms.is_empty()).map(regression).collect()
    }

    /// Errors that the last build brought: those with which no kept build before it has failed. `None` while there is but
    /// one build.
    pub fn new_failures(&self, texts: &ErrorTexts) -> Option<(&BuildEntry, Vec<BuildFailure>)> {
        let last = self.builds.len().checked_sub(1).filter(|last| *last > 0)?;
        let mut failures = self.failures(last, texts);
        failures.retain(|failure| failure.is_new && failure.fingerprint != Fingerprint::OTHER);
        Some((&self.builds[last], failures))
    }

    /// The report of it.
    pub fn report(&self, texts: &ErrorTexts) -> BuildsReport {
        BuildsReport {
            name: self.name.clone(),
            builds: (0..self.builds.len()).rev().map(|i| self.line(i, texts)).collect(),
            forgotten: self.forgotten,
            regressions: self.regressions(texts),
            outlook: self.builds.len().checked_sub(1).map(|last| self.outlook(last)),
        }
    }

    fn line(&self, i: usize, texts: &ErrorTexts) -> BuildLine {
        let entry = &self.builds[i];
        let tally = entry.total();
        BuildLine {
            digest: entry.digest.clone(),
            bytes: entry.bytes,
            modified_at: entry.modified_at,
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            running: tally.running.values().sum(),
            success: tally.success(),
            failures: self.failures(i, texts),
            run_us: spread(&tally.run_us),
            cpu_us: spread(&tally.cpu_us),
            peak_kib: spread(&tally.peak_kib),
            against: i.checked_sub(1).map(|before| compared(&tally, &self.builds[before])),
        }
    }

    fn failures(&self, i: usize, texts: &ErrorTexts) -> Vec<BuildFailure> {
        let before: Vec<BuildTally> = self.builds[..i].iter().map(BuildEntry::total).collect();
        let failure = |(fingerprint, attempts): (Fingerprint, i64)| BuildFailure {
            fingerprint,
            text: texts.get(&fingerprint).cloned(),
            attempts,
            is_new: i > 0 && before.iter().all(|tally| !tally.failures.contains_key(&fingerprint)),
        };
        let mut failures: Vec<_> = self.builds[i].total().failures.into_iter().map(failure).collect();
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.attempts));
        failures
    }

    /// What would be named of a build, and when.
    fn outlook(&self, i: usize) -> String {
        let entry = &self.builds[i];
        let (build, n) = (entry.digest.short(), entry.total().ended());
        if i == 0 {
            return format!("build {build} is the first that is known here; there is nothing to compare it with yet");
        }
        let Some(reference) = self.reference(i) else {
            let before: i64 = self.builds[..i].iter().filter(|b| b.alarms.is_empty()).map(|b| b.total().ended()).sum();
            return format!(
                "build {build} is compared when earlier builds without an alarm have {FEWEST_BEFORE} ended first attempts; \
                 they have {before}"
            );
        };
        let Some(look) = LOOKS.get(entry.looks as usize) else {
            return format!(
                "build {build} was looked at {} times, the last time at {} first attempts",
                LOOKS.len(),
                entry.started.min(LOOKS[LOOKS.len() - 1])
            );
        };
        let needed = decide::failures_to_alarm(&reference, entry.comparison.unwrap_or(self.compared + 1), *look);
        let when = if n < EARLY { format!("has {n} ended first attempts; ") } else { String::new() };
        match needed {
            Some(hits) => format!(
                "build {build} {when}is looked at next with {look} of them: {hits} failures would be named then"
            ),
            None => {
                format!("build {build} {when}is looked at next with {look} of them: too few for failures to be named")
            }
        }
    }
}

impl Alarm {
    fn fingerprint(&self) -> Option<Fingerprint> {
        match self.change {
            Change::Error { fingerprint } => Some(fingerprint),
            Change::Failures | Change::Duration | Change::Cpu | Change::Memory => None,
        }
    }
}

fn spread(values: &Histogram) -> Option<Spread> {
    Some(Spread { p50: values.quantile(0.5)?, p90: values.quantile(0.9)? })
}

fn compared(tally: &BuildTally, before: &BuildEntry) -> Compared {
    let other = before.total();
    Compared {
        digest: before.digest.clone(),
        success: newcombe(&tally.success(), &other.success()),
        run: ratio(&tally.run_us, &other.run_us),
        cpu: ratio(&tally.cpu_us, &other.cpu_us),
        peak: ratio(&tally.peak_kib, &other.peak_kib),
    }
}

/// The ratio of two medians; `None` when there are fewer than [`FEWEST_VALUES`] of either, or one of them is 0.
fn ratio(first: &Histogram, second: &Histogram) -> Option<Ratio> {
    let limits = |values: &Histogram| {
        let n = values.count();
        if n < FEWEST_VALUES {
            return None;
        }
        let reach = Z / 2.0 / (n as f64).sqrt();
        let ln = |q: f64| values.quantile(q).filter(|value| *value > 0).map(|value| (value as f64).ln());
        Some((ln(0.5 - reach)?, ln(0.5)?, ln(0.5 + reach)?))
    };
    let ((l1, m1, u1), (l2, m2, u2)) = (limits(first)?, limits(second)?);
    let middle = m1 - m2;
    let low = middle - ((m1 - l1).powi(2) + (u2 - m2).powi(2)).sqrt();
    let high = middle + ((u1 - m1).powi(2) + (m2 - l2).powi(2)).sqrt();
    Some(Ratio { ratio: middle.exp(), low: low.exp(), high: high.exp() })
}

/// What looks have found at a build, for people.
fn sentence(entry: &BuildEntry, texts: &ErrorTexts) -> String {
    let mut parts = Vec::new();
    let has_error = entry.alarms.iter().any(|alarm| alarm.fingerprint().is_some());
    for alarm in &entry.alarms {
        let Alarm { n, hits, n_before, hits_before, .. } = alarm;
        let counts = |what: &str| {
            let [hits, n, hits_before, n_before] = [*hits, *n, *hits_before, *n_before].map(thousands);
            format!("{hits} of {n} first attempts {what}, before {hits_before} of {n_before}")
        };
        match alarm.change {
            Change::Error { fingerprint } => {
                let short = |text: &str| text.chars().take(100).collect::<String>();
                parts.push(counts(&match texts.get(&fingerprint) {
                    None => format!("fail with {}", fingerprint.short()),
                    Some(text) => match crashed_in(text) {
                        Some(function) => format!("crash in {}", short(function)),
                        None => format!("fail with \"{}\"", short(crate::domain::first_line(text))),
                    },
                }));
            }
            // An error of its own says more.
            Change::Failures if has_error => {}
            Change::Failures => parts.push(counts("fail")),
            Change::Duration => parts.push(longer("running", alarm, &counts("run for longer than three of four did"))),
            Change::Cpu => parts.push(longer("CPU time", alarm, &counts("use more CPU time than three of four did"))),
            Change::Memory => parts.push(longer("memory", alarm, &counts("use more memory than three of four did"))),
        }
    }
    let minute: String = entry.first_seen.to_string().chars().take(16).collect();
    format!(
        "since build {}, first seen {}Z: {}; chance of any such alarm for this name without a change: under {:.0} %; inputs \
         may have changed too",
        entry.digest.short(),
        minute.replace('T', " "),
        parts.join("; "),
        ALPHA * 100.0
    )
}

/// By how much the median is larger; where it is not, how many values are large.
fn longer(what: &str, alarm: &Alarm, counts: &str) -> String {
    let percent = alarm
        .median
        .zip(alarm.median_before)
        .map_or(0.0, |(now, before)| (now as f64 / before.max(1) as f64 - 1.0) * 100.0);
    if percent >= 1.0 { format!("{what} p50 +{percent:.0} %") } else { counts.to_owned() }
}

/// A number with commas between thousands.
fn thousands(n: i64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Cursor;
    use crate::stats::builds::{Fate, FirstAttempt};

    /// A history of builds with so many attempts each, of which so many fail and all take so long.
    fn history(builds: &[(u8, i64, i64, u64)]) -> BuildHistory {
        let mut history = BuildHistory::new("resize".parse().unwrap());
        let mut minor = 0;
        for (build, n, failed, run_us) in builds {
            let digest = BuildDigest::of_build_id(&[*build; 8]);
            for i in 0..*n {
                let mut next = || {
                    minor += 1;
                    (
                        Cursor { major: 0, minor },
                        Timestamp::from_millis(1_800_000_000_000 + 10 * i64::try_from(minor).unwrap()),
                    )
                };
                let (at, now) = next();
                let cell = history.place(at, &digest, now).map(|place| place.cell);
                let running = FirstAttempt { build: digest.clone(), cell, fate: Fate::Running { since: now } };
                history.apply(at, now, (None, Some(&running)), now, None);
                let error = (i % (n / failed.max(&1)).max(1) == 0 && *failed > 0)
                    .then(|| Fingerprint::from_bytes([*build; 32]));
                let fate = Fate::Ended { error, run_us: run_us + i.unsigned_abs() % 7, cpu_us: 50, peak_kib: 100 };
                let (at, now) = next();
                history.apply(at, now, (Some(&running), Some(&FirstAttempt { fate, ..running.clone() })), now, None);
            }
        }
        history
    }

    #[test]
    fn a_regression_is_told_in_one_sentence() {
        let history = history(&[(1, 600, 0, 1000), (2, 100, 20, 1500)]);
        let texts = [(Fingerprint::from_bytes([2; 32]), "bad pixel at #\nmore".to_owned())].into();
        let report = history.report(&texts);
        assert_eq!(report.regressions.len(), 1);
        let says = &report.regressions[0].says;
        assert!(says.starts_with("since build 020202020202, first seen 2027-01-15 "), "{says}");
        assert!(says.contains("first attempts fail with \"bad pixel at #\", before 0 of 600"), "{says}");
        assert!(says.contains("running p50 +") && says.ends_with("inputs may have changed too"), "{says}");
        let text = "killed by signal 11 (segmentation fault) in Image::resize < main\ntile #";
        let crash = history.report(&[(Fingerprint::from_bytes([2; 32]), text.to_owned())].into());
        let says = &crash.regressions[0].says;
        assert!(says.contains("first attempts crash in Image::resize, before 0 of 600"), "{says}");
        let last = &report.builds[0];
        assert_eq!((last.success.hits, last.success.n), (80, 100));
        assert!(last.failures[0].is_new && last.failures[0].attempts == 20);
        let against = last.against.as_ref().unwrap();
        assert!(against.success.unwrap().high < 0.0);
        let run = against.run.unwrap();
        assert!(run.low <= run.ratio && run.ratio <= run.high && run.low > 1.2, "{run:?}");
        let (newest, new) = history.new_failures(&texts).unwrap();
        assert_eq!((newest.digest.short(), new.len()), ("020202020202", 1));
    }

    #[test]
    fn before_there_is_enough_it_says_what_would_show_when() {
        let says = |builds: &[(u8, i64, i64, u64)]| history(builds).report(&ErrorTexts::new()).outlook.unwrap();
        assert!(says(&[(1, 3, 0, 10)]).contains("nothing to compare it with yet"));
        assert!(says(&[(1, 300, 0, 10), (2, 5, 0, 10)]).contains("500 ended first attempts; they have 300"));
        let early = says(&[(1, 600, 0, 10), (2, 12, 0, 10)]);
        assert!(
            early.contains("has 12 ended first attempts; is looked at next with 15 of them: 3 failures would be named"),
            "{early}"
        );
        assert_eq!(BuildHistory::new("a".parse().unwrap()).report(&ErrorTexts::new()).outlook, None);
    }

    #[test]
    fn numbers_are_written_with_commas() {
        assert_eq!([7, 999, 1000, 1_234_567].map(thousands), ["7", "999", "1,000", "1,234,567"]);
    }
}
