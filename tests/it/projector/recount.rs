//! The statistics against a recount by hand: every report of `jobber::stats`, made of the shards that the projector
//! folded, equals what is counted straight from the records of the jobs. Written without any of the code under test.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jobber::domain::{CategoryId, Day};
use jobber::stats::{
    AttemptLine, CategoryLine, CategorySums, CostLine, CostSums, DurationLine, ErrorFacts, JobStats, KnownErrors,
    Label, NameSums, Quantiles, Rate, SizeLine, SlimShard, co_running, sizing, survival,
};
use jobber::store::FirstEnd;

use super::*;

/// How one attempt goes.
#[derive(Debug, Clone)]
struct Try {
    how: u8,
    why: u8,
    beside: u32,
    wall_us: u64,
    cpu_ms: u64,
    peak_kib: u64,
    cores: usize,
    limit_mib: Option<u64>,
}

/// The life of one job.
#[derive(Debug, Clone)]
struct Life {
    name: u8,
    day: u8,
    allowed: u32,
    delay_ms: u64,
    asks_cores: Option<u32>,
    tries: Vec<Try>,
    /// Whether it is put back after it has failed, as often as there are tries left.
    is_put_back: bool,
    is_removed: bool,
}

fn a_try() -> impl Strategy<Value = Try> {
    let numbers = (
        0u32..4,
        prop_oneof![0u64..9000, 0u64..100_000_000],
        0u64..100_000,
        0u64..4_000_000,
        0usize..4,
        prop::option::of(1u64..4000),
    );
    (0u8..12, 0u8..5, numbers).prop_map(|(how, why, (beside, wall_us, cpu_ms, peak_kib, cores, limit_mib))| Try {
        how,
        why,
        beside,
        wall_us,
        cpu_ms,
        peak_kib,
        cores,
        limit_mib,
    })
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let life = (
        (0u8..3, 0u8..3, 1u32..5, 0u64..5000, prop::option::of(1u32..4)),
        prop::collection::vec(a_try(), 0..7),
        (prop::bool::weighted(0.3), prop::bool::weighted(0.1)),
    );
    let life = life.prop_map(|((name, day, allowed, delay_ms, asks_cores), tries, (is_put_back, is_removed))| Life {
        name,
        day,
        allowed,
        delay_ms,
        asks_cores,
        tries,
        is_put_back,
        is_removed,
    });
    prop::collection::vec(life, 0..60)
}

const DAY_MS: i64 = 86_400_000;
/// The queues of the jobs, in turn; the default one has no name.
const QUEUES: [Option<&str>; 3] = [None, Some("encode"), Some("render")];

fn outcome_of(how: u8) -> Outcome {
    match how {
        0..=3 => Outcome::Exit { code: 0 },
        4 => Outcome::Exit { code: 1 },
        5 => Outcome::Exit { code: 9 },
        6 => Outcome::Signal { signal: 11 },
        7 => Outcome::Timeout,
        8 => Outcome::Oom,
        9 => Outcome::Lost,
        10 => Outcome::Cancelled,
        _ => Outcome::Exit { code: 2 },
    }
}

fn report(one: &Try, at: Timestamp) -> AttemptReport {
    let why = ["disk full", "bad pixel", "out of range", "no route to host", "assertion failed"];
    let mut report = AttemptReport::bare(outcome_of(one.how), at, at, why[usize::from(one.why)]);
    report.peak_beside = one.beside;
    report.beside_at_start = (!one.cpu_ms.is_multiple_of(7)).then_some(one.beside / 2);
    report.no_retry = (one.how == 5).then_some(true).or((!one.cpu_ms.is_multiple_of(5)).then_some(false));
    report.cpus = (0..u32::try_from(one.cores).unwrap()).collect();
    report.memory_limit_bytes = one.limit_mib.map(|mib| mib << 20);
    report.usage = (report.outcome != Outcome::Lost).then_some(Usage {
        wall_us: one.wall_us,
        user_us: one.cpu_ms * 900,
        system_us: one.cpu_ms * 100,
        peak_rss_bytes: one.peak_kib * 1024,
    });
    report
}

/// What happens to one job, in order.
fn events_of(number: usize, life: &Life) -> Vec<Event> {
    let submitted_at = Timestamp::from_millis(i64::from(life.day) * DAY_MS + number as i64 * 1000);
    let options = JobOptions {
        attempts: life.allowed,
        delay: Duration::from_millis(life.delay_ms),
        cores: life.asks_cores,
        queue: QUEUES[number % QUEUES.len()].map(|queue| queue.parse().unwrap()),
        ..JobOptions::default()
    };
    let job = Arc::new(Job {
        id: JobId::parse(&format!("job-{number}")).unwrap(),
        name: JobName::parse(["a", "b", "c"][usize::from(life.name)]).unwrap(),
        options,
        submitted_at,
        trace: None,
    });
    let mut events = Vec::new();
    let mut clock = submitted_at + Duration::from_millis(life.delay_ms);
    let mut add = |at: Timestamp, kind| events.push(Event::new(at, job.clone(), kind));
    add(submitted_at, EventKind::Submitted);
    let (mut spent, mut has_ended) = (0, false);
    for (attempt, one) in (1u32..).zip(&life.tries) {
        if has_ended {
            if !life.is_put_back {
                break;
            }
            add(clock, EventKind::Retried { attempts: attempt - 1 });
            (spent, has_ended) = (0, false);
        }
        clock = clock + Duration::from_millis(700);
        add(clock, attempt_started(attempt, 3));
        if one.how == 11 {
            // It still runs.
            return events;
        }
        clock = clock + Duration::from_micros(one.wall_us);
        let outcome = outcome_of(one.how);
        spent += u32::from(has_failed(outcome));
        let is_last = match outcome {
            Outcome::Lost => false,
            Outcome::Exit { code: 0 | 9 } | Outcome::Cancelled => true,
            _ => spent >= life.allowed,
        };
        let next_at = (!is_last && outcome != Outcome::Lost).then(|| clock + Duration::from_secs(1));
        let worker = WorkerId::parse("w").unwrap();
        let report = Box::new(report(one, clock));
        add(clock, EventKind::AttemptFinished { attempt: AttemptNumber(attempt), worker, report, next_at });
        if is_last {
            let state = if outcome.is_success() { FinalState::Completed } else { FinalState::Failed };
            let attempt = Some(AttemptNumber(attempt));
            add(clock, EventKind::Finished { attempt, state, outcome, result: None, error: None });
            // What has completed is not put back.
            if outcome.is_success() {
                break;
            }
            has_ended = true;
        }
    }
    if life.is_removed {
        add(clock, EventKind::Removed);
    }
    events
}

/// All jobs at once: each moves a step on in turn.
fn history(lives: &[Life]) -> Vec<Event> {
    let all: Vec<_> = lives.iter().enumerate().map(|(number, life)| events_of(number, life)).collect();
    let longest = all.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|step| all.iter().filter_map(move |events| events.get(step).cloned())).collect()
}

fn has_failed(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Exit { code: 0 } | Outcome::Lost | Outcome::Cancelled)
}

fn has_told(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Lost | Outcome::Cancelled)
}

/// One attempt that has ended, and how many of its job's had failed before.
struct Ended<'a> {
    report: &'a AttemptReport,
    fingerprint: Option<Fingerprint>,
    failures_before: u32,
}

/// One job as it is counted by hand.
struct Counted<'a> {
    record: &'a JobRecord,
    attempts: Vec<Ended<'a>>,
}

impl<'a> Counted<'a> {
    fn new(record: &'a JobRecord) -> Self {
        let (mut attempts, mut failures) = (Vec::new(), 0);
        for attempt in &record.attempts {
            let Some(report) = &attempt.report else { continue };
            attempts.push(Ended { report, fingerprint: attempt.fingerprint, failures_before: failures });
            failures += u32::from(has_failed(report.outcome));
        }
        Self { record, attempts }
    }

    fn is_completed(&self) -> bool {
        self.record.state == JobState::Completed
    }

    fn has_ended(&self) -> bool {
        matches!(self.record.state, JobState::Completed | JobState::Failed)
    }

    fn measured(&self) -> impl Iterator<Item = (&Ended<'a>, &Usage)> {
        self.attempts.iter().filter_map(|attempt| Some((attempt, attempt.report.usage.as_ref()?)))
    }

    /// The most jobs that ran beside it.
    fn beside(&self) -> Option<u32> {
        self.measured().map(|(attempt, _)| attempt.report.peak_beside).max()
    }

    /// The attempts until it was first put back; all of them when it was not.
    fn first_life(&self) -> &[Ended<'a>] {
        let until = self.first_end().map_or(usize::MAX, |first| first.attempts as usize);
        &self.attempts[..until.min(self.attempts.len())]
    }

    fn first_end(&self) -> Option<FirstEnd> {
        self.record.retried_after.map(|after| after.first_end().expect("it was folded by this version"))
    }

    /// How it had ended when it was first put back, or else now.
    fn first_outcome(&self) -> Option<Outcome> {
        self.first_end().map_or(self.record.outcome.filter(|_| self.has_ended()), |first| first.outcome)
    }

    fn first_failures(&self) -> u32 {
        u32::try_from(self.first_life().iter().filter(|a| has_failed(a.report.outcome)).count()).unwrap()
    }

    /// It completed, and was never put back.
    fn made_it(&self) -> bool {
        self.is_completed() && self.first_end().is_none()
    }

    /// It failed by itself, since another attempt was pointless or since none was left.
    fn gave_up(&self, out_of_attempts: bool) -> bool {
        let last = self.first_life().iter().rev().find(|a| has_told(a.report.outcome));
        let spent = self.first_failures() >= self.record.options.attempts;
        let pointless = last.is_none_or(|a| a.report.no_retry.unwrap_or(!spent));
        !self.made_it() && self.first_outcome().is_some_and(has_failed) && pointless != out_of_attempts
    }

    fn was_stopped(&self) -> bool {
        matches!(self.first_outcome(), Some(Outcome::Cancelled | Outcome::Lost))
    }
}

fn cpu_us(usage: &Usage) -> u64 {
    usage.user_us + usage.system_us
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => close(a, b),
        (a, b) => a == b,
    }
}

/// The part, and limits that solve Wilson's own equation: so far from the part as the limit itself makes likely.
fn check_rate(rate: &Rate, hits: usize, n: usize) {
    assert_eq!((rate.hits, rate.n), (hits as i64, n as i64));
    let part = hits as f64 / n as f64;
    assert!(same(rate.rate, (n >= 5).then_some(part)), "{rate:?}");
    assert_eq!((rate.low.is_some(), rate.high.is_some()), (n > 0, n > 0), "{rate:?}");
    for limit in [rate.low, rate.high].into_iter().flatten() {
        let reach = 1.959_963_984_540_054 * (limit * (1.0 - limit) / n as f64).max(0.0).sqrt();
        assert!(((part - limit).abs() - reach).abs() < 1e-7, "{rate:?}");
    }
    assert!(n == 0 || (rate.low.unwrap() <= part + 1e-9 && part <= rate.high.unwrap() + 1e-9), "{rate:?}");
}

fn check_original(stats: &JobStats, jobs: &[Counted]) {
    let ended: Vec<_> = jobs.iter().filter(|job| job.has_ended()).collect();
    let most = ended.iter().map(|job| job.record.attempts.len()).max().map_or(0, |most| most.max(1));
    assert_eq!(stats.per_attempts_stats.len(), most);
    for (line, n) in stats.per_attempts_stats.iter().zip(1..) {
        let within = ended.iter().filter(|job| job.is_completed() && job.record.attempts.len() <= n).count();
        assert_eq!(
            (line.attempts_up_to as usize, line.total_jobs_up_to as usize, line.completed_jobs_up_to as usize),
            (n, ended.len(), within)
        );
        assert!((line.success_rate_percentage - 100.0 * within as f64 / ended.len() as f64).abs() <= 0.005 + 1e-9);
    }
    let crowd: Vec<_> = ended.iter().filter(|job| job.beside().is_some_and(|n| n > 0)).collect();
    let line = &stats.per_concurrent_jobs_stats[0];
    let completed = crowd.iter().filter(|job| job.is_completed()).count();
    assert_eq!((line.total_concurrent_jobs as usize, line.completed_jobs as usize), (crowd.len(), completed));
}

/// The jobs of names that allow the same numbers of attempts, and how many of them went which way at each attempt.
struct Cohort<'a>(Vec<&'a Counted<'a>>);

impl Cohort<'_> {
    fn count(&self, holds: impl Fn(&Counted) -> bool) -> usize {
        self.0.iter().filter(|job| holds(job)).count()
    }

    fn completed(&self, n: u32) -> usize {
        self.count(|job| job.made_it() && job.first_failures() == n)
    }

    fn tried(&self, n: u32) -> usize {
        self.completed(n) + self.count(|job| job.first_failures() > n)
    }

    fn hopeless(&self, n: u32) -> usize {
        self.count(|job| job.gave_up(false) && job.first_failures() == n)
    }

    fn stages(&self) -> u32 {
        (0..20).rev().find(|n| self.tried(*n) > 0).map_or(0, |n| n + 1)
    }

    /// The chance to complete at one of these attempts: at each, having come through all before it.
    fn chance(&self, from: u32, to: u32) -> f64 {
        let part = |hits: usize, of: usize| if of > 0 { hits as f64 / of as f64 } else { 0.0 };
        let p = |n| part(self.completed(n), self.tried(n));
        let goes_on = |n| 1.0 - p(n) - part(self.hopeless(n + 1), self.tried(n));
        (from..to.min(self.stages())).map(|n| p(n) * (from..n).map(goes_on).product::<f64>()).sum()
    }
}

fn cohorts<'a>(jobs: &'a [Counted<'a>]) -> Vec<Cohort<'a>> {
    let mut budgets: BTreeMap<&JobName, BTreeSet<u32>> = BTreeMap::new();
    for job in jobs {
        budgets.entry(&job.record.name).or_default().insert(job.record.options.attempts);
    }
    let mut cohorts: BTreeMap<&BTreeSet<u32>, Vec<&Counted>> = BTreeMap::new();
    for job in jobs {
        cohorts.entry(&budgets[&job.record.name]).or_default().push(job);
    }
    cohorts.into_values().map(Cohort).collect()
}

fn check_attempts(lines: &[AttemptLine], jobs: &[Counted]) {
    let cohorts = cohorts(jobs);
    let sum = |of: &dyn Fn(&Cohort) -> usize| cohorts.iter().map(of).sum::<usize>();
    let tried = |n| sum(&|cohort| cohort.tried(n));
    let completed = |n| sum(&|cohort| cohort.completed(n));
    // Each cohort in the proportion of its jobs.
    let chance = |from: u32, to: u32| -> f64 {
        let parts = cohorts.iter().filter(|c| c.tried(from) > 0);
        parts.map(|c| c.tried(from) as f64 / tried(from) as f64 * c.chance(from, to)).sum()
    };
    let count = |holds: &dyn Fn(&Counted) -> bool| jobs.iter().filter(|job| holds(job)).count();
    let ended = count(&|job| job.made_it() || job.gave_up(true) || job.gave_up(false) || job.was_stopped());
    assert_eq!(lines.len() as u32, cohorts.iter().map(Cohort::stages).max().unwrap_or(0));
    for (line, n) in lines.iter().zip(0u32..) {
        assert_eq!(line.attempt, n + 1);
        check_rate(&line.completed_within, count(&|job| job.made_it() && job.first_failures() <= n), ended);
        check_rate(&line.next, completed(n), tried(n));
        assert!(same(line.completes.chance, (tried(n) >= 5).then(|| chance(n, 20))), "{line:?}");
        assert!(same(line.allowed.chance, (tried(0) >= 5).then(|| chance(0, n + 1))), "{line:?}");
        for (estimate, stages) in [(&line.completes, n..lines.len() as u32), (&line.allowed, 0..n + 1)] {
            let of = |m: u32| cohorts.iter().filter(|c| c.tried(stages.start) > 0).map(|c| c.tried(m)).sum::<usize>();
            assert_eq!(estimate.rests_on as usize, stages.clone().map(of).filter(|n| *n > 0).min().unwrap_or(0));
            let (Some(value), Some(low), Some(high)) = (estimate.chance, estimate.low, estimate.high) else { continue };
            assert!((0.0..=value).contains(&low) && (value..=1.0).contains(&high), "{estimate:?}");
        }
        assert!(close(line.wins, chance(0, n + 1) - chance(0, n)), "{line:?}");
        let mut cpu = 0;
        for job in jobs {
            let told = job.first_life().iter().filter(|a| a.failures_before == n && has_told(a.report.outcome));
            cpu += told.filter_map(|a| a.report.usage.as_ref()).map(cpu_us).sum::<u64>();
        }
        let each = |of: usize| (of > 0).then(|| cpu as f64 / 1e6 / of as f64);
        assert!(same(line.cpu_seconds, each(tried(n))) && same(line.cpu_seconds_a_win, each(completed(n))), "{line:?}");
        let undecided =
            count(&|job| job.first_failures() == n && !job.made_it() && !job.gave_up(true) && !job.gave_up(false));
        let exhausted = count(&|job| job.gave_up(true) && job.first_failures() == n);
        assert_eq!(
            (line.hopeless as usize, line.exhausted as usize, line.undecided as usize),
            (sum(&|cohort| cohort.hopeless(n)), exhausted, undecided)
        );
    }
}

fn check_concurrency(report: &co_running::BesideStats, jobs: &[Counted]) {
    let levels: BTreeSet<u32> = jobs.iter().flat_map(Counted::measured).map(|(a, _)| a.report.peak_beside).collect();
    assert_eq!(report.levels.iter().map(|line| line.jobs_beside).collect::<Vec<_>>(), Vec::from_iter(levels));
    // Completed and all of the ended jobs for whose number this holds.
    let ended = |holds: &dyn Fn(u32) -> bool| {
        let of = jobs.iter().filter(|job| job.has_ended());
        let of: Vec<_> = of.filter(|job| job.beside().is_some_and(holds)).collect();
        (of.iter().filter(|job| job.is_completed()).count(), of.len())
    };
    for line in &report.levels {
        let (completed, all) = ended(&|n| n == line.jobs_beside);
        check_rate(&line.completed, completed, all);
        let attempts =
            jobs.iter().flat_map(Counted::measured).filter(|(a, _)| a.report.peak_beside == line.jobs_beside);
        let attempts: Vec<_> = attempts.collect();
        let good = attempts.iter().filter(|(a, _)| a.report.outcome.is_success()).count();
        check_rate(&line.succeeded, good, attempts.len());
    }
    // First attempts that succeeded or failed, by what ran when they started.
    let first = |name: Option<&str>, holds: &dyn Fn(u32) -> bool| {
        let of = jobs.iter().filter(|job| name.is_none_or(|n| job.record.name.as_str() == n));
        let firsts = of.filter_map(|job| job.record.attempts.first()?.report.as_ref());
        let firsts =
            firsts.filter(|r| r.usage.is_some() && has_told(r.outcome) && r.beside_at_start.is_some_and(holds));
        let firsts: Vec<_> = firsts.collect();
        (firsts.iter().filter(|r| r.outcome.is_success()).count(), firsts.len())
    };
    let (alone, crowd) = (first(None, &|n| n == 0), first(None, &|n| n > 0));
    check_rate(&report.alone, alone.0, alone.1);
    check_rate(&report.beside, crowd.0, crowd.1);
    let part = |(hits, n): (usize, usize)| hits as f64 / n as f64;
    let difference = (alone.1 >= 5 && crowd.1 >= 5).then(|| part(alone) - part(crowd));
    assert!(same(report.difference.map(|d| d.difference), difference), "{report:?}");
    let pairs = ["a", "b", "c"].map(|name| (first(Some(name), &|n| n == 0), first(Some(name), &|n| n > 0)));
    let pairs: Vec<_> = pairs.into_iter().filter(|(alone, crowd)| alone.1 > 0 && crowd.1 > 0).collect();
    assert_eq!(report.names, pairs.len());
    // Each name's difference, weighed by how much it has to say.
    let weight = |a: (usize, usize), b: (usize, usize)| a.1 as f64 * b.1 as f64 / (a.1 + b.1) as f64;
    let weights: f64 = pairs.iter().map(|(a, b)| weight(*a, *b)).sum();
    let weighed: f64 = pairs.iter().map(|(a, b)| weight(*a, *b) * (part(*a) - part(*b))).sum();
    let are_enough = pairs.iter().map(|p| p.0.1).sum::<usize>() >= 5 && pairs.iter().map(|p| p.1.1).sum::<usize>() >= 5;
    assert!(same(report.within_names.map(|d| d.difference), are_enough.then(|| weighed / weights)), "{report:?}");
    for d in report.difference.iter().chain(&report.within_names) {
        assert!(d.low <= d.difference + 1e-9 && d.difference <= d.high + 1e-9, "{d:?}");
    }
}

/// Failed attempts under their labels, with their usage.
fn failures<'a>(jobs: &'a [Counted], known: &Known) -> Vec<(Label, &'a Counted<'a>, &'a Ended<'a>)> {
    let mut all = Vec::new();
    for job in jobs {
        for attempt in job.attempts.iter().filter(|attempt| has_failed(attempt.report.outcome)) {
            let fingerprint = attempt.fingerprint.expect("a failed attempt has one");
            let label = known.get(&fingerprint).map_or(Label::Pending, |facts| facts.label.clone());
            all.push((label, job, attempt));
        }
    }
    all
}

fn spent(attempt: &Ended) -> u64 {
    attempt.report.usage.as_ref().map_or(0, cpu_us)
}

fn check_categories(lines: &[CategoryLine], jobs: &[Counted], known: &Known) {
    let failures = failures(jobs, known);
    let labels: BTreeSet<&Label> = failures.iter().map(|(label, ..)| label).collect();
    assert_eq!(lines.len(), labels.len());
    assert!(lines.is_sorted_by_key(|line| -line.failures));
    let all_cpu: u64 = jobs.iter().flat_map(Counted::measured).map(|(_, usage)| cpu_us(usage)).sum();
    for label in labels {
        let line = lines.iter().find(|line| line.category == label.as_str()).expect("every label has a line");
        let of: Vec<_> = failures.iter().filter(|(other, ..)| other == label).collect();
        let met: BTreeMap<_, _> = of.iter().map(|(_, job, _)| (&job.record.id, *job)).collect();
        let completed = met.values().filter(|job| job.is_completed()).count();
        assert_eq!((line.failures as usize, line.jobs as usize), (of.len(), met.len()));
        check_rate(&line.completed, completed, met.values().filter(|job| job.has_ended()).count());
        let cpu: u64 = of.iter().map(|(.., attempt)| spent(attempt)).sum();
        assert!(close(line.cpu_seconds, cpu as f64 / 1e6), "{line:?}");
        assert!(close(line.cpu_share, if all_cpu > 0 { cpu as f64 / all_cpu as f64 } else { 0.0 }), "{line:?}");
        let mut trend: BTreeMap<Day, i64> = BTreeMap::new();
        let mut errors: BTreeMap<Fingerprint, i64> = BTreeMap::new();
        for (_, job, attempt) in &of {
            *trend.entry(job.record.submitted_at.day()).or_insert(0) += 1;
            *errors.entry(attempt.fingerprint.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(line.trend, jobber::stats::Trend::Sparse(trend));
        let facts = || errors.keys().filter_map(|error| known.get(error));
        assert_eq!(line.first_seen, facts().map(|f| f.first_seen).min());
        assert_eq!(line.last_seen, facts().map(|f| f.last_seen).max());
        let count = |text: &String| errors.get(&text.parse::<Fingerprint>().ok()?).copied();
        let told: Vec<_> = line.examples.iter().map(|text| count(text).expect("an example of its own")).collect();
        assert!(told.is_sorted_by(|a, b| a >= b) && told.len() == facts().count().min(3), "{line:?}");
    }
}

fn check_cost(lines: &[CostLine], jobs: &[Counted], known: &Known) {
    assert!(lines.is_sorted_by(|a, b| a.cpu_seconds >= b.cpu_seconds));
    let mut expected: BTreeMap<(String, String), (Option<i64>, u64)> = BTreeMap::new();
    for (label, job, attempt) in failures(jobs, known) {
        let line = expected.entry((job.record.name.to_string(), label.as_str().to_owned())).or_insert((Some(0), 0));
        line.0 = line.0.map(|n| n + 1);
        line.1 += spent(attempt);
    }
    // What was stopped from outside has no error.
    for job in jobs {
        let stopped = job.measured().filter(|(a, _)| matches!(a.report.outcome, Outcome::Cancelled | Outcome::Lost));
        let cpu: u64 = stopped.map(|(_, usage)| cpu_us(usage)).sum();
        if cpu > 0 {
            expected.entry((job.record.name.to_string(), "none".to_owned())).or_insert((None, 0)).1 += cpu;
        }
    }
    assert_eq!(lines.len(), expected.len());
    for line in lines {
        let (failures, cpu) = expected[&(line.name.to_string(), line.category.clone())];
        let of_name = jobs.iter().filter(|job| job.record.name == line.name).flat_map(Counted::measured);
        let all: u64 = of_name.map(|(_, usage)| cpu_us(usage)).sum();
        assert_eq!(line.failures, failures);
        assert!(close(line.cpu_seconds, cpu as f64 / 1e6), "{line:?}");
        assert!(close(line.cpu_share, if all > 0 { cpu as f64 / all as f64 } else { 0.0 }), "{line:?}");
    }
}

/// Quantiles of a histogram are off by one part in eight at most.
fn check_quantiles(found: &Quantiles, mut values: Vec<u64>, unit: f64) {
    values.sort_unstable();
    assert_eq!(found.n as usize, values.len());
    for (q, told) in [(0.5, found.p50), (0.9, found.p90), (0.99, found.p99)] {
        assert_eq!(told.is_some(), !values.is_empty());
        let Some(told) = told else { continue };
        let rank = ((q * values.len() as f64).ceil() as usize).max(1);
        let exact = values[rank - 1] as f64;
        assert!((told * unit - exact).abs() <= exact / 8.0 + 1e-6, "{q} of {values:?}: {found:?}");
    }
}

fn check_durations(lines: &[DurationLine], jobs: &[Counted]) {
    for line in lines {
        let of: Vec<_> = jobs.iter().filter(|job| job.record.name == line.name).collect();
        let waited = of.iter().filter_map(|job| {
            let first = job.record.attempts.first()?;
            Some(first.started_at.since(job.record.submitted_at + job.record.options.delay).as_millis() as u64)
        });
        check_quantiles(&line.waiting, waited.collect(), 1000.0);
        let ran = of.iter().flat_map(|job| job.measured()).map(|(_, usage)| usage.wall_us);
        check_quantiles(&line.running, ran.collect(), 1e6);
    }
}

fn check_sizes(lines: &[SizeLine], jobs: &[Counted]) {
    for line in lines {
        let of = || jobs.iter().filter(|job| job.record.name == line.name);
        let ran: Vec<_> = of().flat_map(|job| job.measured().map(move |(a, usage)| (job, a.report, usage))).collect();
        assert_eq!(line.n as usize, ran.len());
        let mut given: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut cpu, mut core_time) = (0, 0);
        for (job, report, usage) in &ran {
            let pinned = u32::try_from(report.cpus.len()).unwrap();
            let Some(cores) = (pinned > 0).then_some(pinned).or(job.record.options.cores) else { continue };
            *given.entry(cores).or_insert(0) += 1;
            cpu += cpu_us(usage);
            core_time += u64::from(cores) * usage.wall_us;
        }
        let most = given.values().max().copied();
        assert!(
            line.cores.is_none_or(|cores| given.get(&cores).copied() == most) && line.cores.is_some() == most.is_some()
        );
        assert!(same(line.utilisation, (core_time > 0).then(|| cpu as f64 / core_time as f64)), "{line:?}");
        let busy = ran.iter().filter_map(|(_, _, usage)| (cpu_us(usage) * 100).checked_div(usage.wall_us));
        check_quantiles(&line.cores_used, busy.collect(), 100.0);
        check_quantiles(&line.memory_mib, ran.iter().map(|(_, _, u)| u.peak_rss_bytes / 1024).collect(), 1024.0);
        let limited = ran.iter().filter_map(|(_, report, u)| Some(u.peak_rss_bytes * 100 / report.memory_limit_bytes?));
        check_quantiles(&line.memory_used, limited.collect(), 100.0);
        let oom = of().flat_map(|job| &job.attempts).filter(|a| a.report.outcome == Outcome::Oom).count();
        assert_eq!(line.out_of_memory as usize, oom);
        assert_eq!(line.suggested_memory_mib.is_some(), ran.len() >= 20);
    }
}

/// What is known of the errors that were seen.
type Known = HashMap<Fingerprint, ErrorFacts>;

/// What is known of the errors that were seen; by `labels` each belongs to a category, to none, or is still pending.
fn knowns(sightings: &[Sighting], records: &[JobRecord], labels: &[u8]) -> Known {
    let id = |n: u8| CategoryId::parse(["disk", "image"][usize::from(n)]).unwrap();
    let mut known = Known::new();
    for (sighting, label) in sightings.iter().zip(labels.iter().cycle()) {
        let attempts = records.iter().flat_map(|record| &record.attempts);
        let times = attempts.filter(|a| a.fingerprint == Some(sighting.fingerprint));
        let times: Vec<_> = times.filter_map(|a| Some(a.report.as_ref()?.ended_at)).collect();
        let seen = (times.iter().min().copied(), times.iter().max().copied());
        assert_eq!((Some(sighting.first_seen), Some(sighting.last_seen)), seen);
        let label = match label % 4 {
            3 => Label::Uncategorised,
            2 => Label::Pending,
            n => Label::Category(id(n)),
        };
        let (first_seen, last_seen) = (sighting.first_seen, sighting.last_seen);
        let facts = ErrorFacts { label, first_seen, last_seen };
        known.insert(sighting.fingerprint, facts);
    }
    known
}

/// Every report of the jobs of some days and names, against the records.
fn check_all(shards: &[StatShard], records: &[JobRecord], known: &Known) {
    let jobs: Vec<_> = records.iter().map(Counted::new).collect();
    let (mut names, mut counts) = (NameSums::default(), Counts::default());
    let (mut categories, mut cost) = (CategorySums::with_examples(), CostSums::default());
    let mut numbered = KnownErrors::default();
    for shard in shards {
        counts.add(&shard.counts.clone().without_parts());
        let slim = SlimShard::of(shard.clone(), &mut numbered);
        known.iter().for_each(|(error, facts)| numbered.learn(*error, Some(facts.clone())));
        categories.add(&[&slim], &numbered);
        cost.add(&slim, &numbered);
        names.add(shard.clone());
    }
    let names = names.0;
    // What an error says does not matter here: it is told by its fingerprint.
    let texts = known.keys().map(|error| (*error, error.to_string())).collect();
    let categories = categories.lines(&BTreeMap::new(), &texts);
    let expected: BTreeSet<_> = records.iter().map(|record| record.name.clone()).collect();
    assert_eq!(names.keys().cloned().collect::<BTreeSet<_>>(), expected);
    check_original(&JobStats::of(&counts, categories.clone()), &jobs);
    check_attempts(&survival::attempts(&names), &jobs);
    check_concurrency(&co_running::beside(&names), &jobs);
    check_categories(&categories, &jobs, known);
    check_cost(&cost.lines(&names), &jobs, known);
    check_durations(&sizing::durations(&names), &jobs);
    check_sizes(&sizing::sizes(&names), &jobs);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_report_equals_a_recount_by_hand(
        lives in lives(), steps in steps(), labels in prop::collection::vec(0u8..8, 1..6),
        later in prop::collection::vec(0u8..8, 1..6), days in (0u8..3, 0u8..3), hours in 0u64..200,
    ) {
        let log = as_log(history(&lives));
        let store = HalfStore::default();
        folded_by_several(&store, &log, &steps, &[Retention::new(Some(Duration::from_secs(86_400)))]);
        let (records, _, sightings) = documents(&store);
        // What expires afterwards stays counted.
        now(store.expire(&term(), Retention::FOREVER, EARLY + Duration::from_secs(hours * 3600), 0)).unwrap();
        let shards: Vec<StatShard> = store.0.lock().unwrap().shards.values().map(|(_, shard)| shard.clone()).collect();
        let known = knowns(&sightings, &records, &labels);
        check_all(&shards, &records, &known);
        // The categories have changed: the past is counted by those of now.
        check_all(&shards, &records, &knowns(&sightings, &records, &later));
        let day = |n: u8| Timestamp::from_millis(i64::from(n) * DAY_MS).day();
        let span = day(days.0)..=day(days.1);
        for name in [None, Some("b")] {
            let is_asked = |day: Day, of: &JobName| span.contains(&day) && name.is_none_or(|name| of.as_str() == name);
            let shards: Vec<_> = shards.iter().filter(|s| is_asked(s.key.day, &s.key.name)).cloned().collect();
            let records: Vec<_> =
                records.iter().filter(|r| is_asked(r.submitted_at.day(), &r.name)).cloned().collect();
            check_all(&shards, &records, &known);
        }
        for queue in QUEUES.map(|queue| queue.map(|queue| queue.parse().unwrap())) {
            let shards = shards.iter().map(|shard| shard.clone().of_queue(queue.as_ref()));
            let shards: Vec<_> = shards.filter(|shard| !shard.counts.is_zero()).collect();
            let records: Vec<_> = records.iter().filter(|record| record.options.queue == queue).cloned().collect();
            check_all(&shards, &records, &known);
        }
    }
}
