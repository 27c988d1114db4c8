//! Histories of builds that are made up, as the projector would fold them: how soon a planted change is named, and how
//! often one is named where there is none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::domain::{BuildDigest, Fingerprint, Timestamp};
use crate::events::Cursor;
use crate::stats::dice::Dice;

/// How jobs fare.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// The chance to fail with an error that was always there.
    fails: f64,
    /// The chance to fail with an error of this build's own.
    bug: f64,
    /// Factor on how long it runs.
    slower: f64,
    /// Standard deviation of the logarithm of its running time.
    sigma: f64,
}

const USUAL: Job = Job { fails: 0.02, bug: 0.0, slower: 1.0, sigma: 0.3 };

/// How alike the inputs of neighbours are: the mean number of jobs of one kind, how much their chance to fail differs from
/// kind to kind, and how much the logarithm of their running time.
#[derive(Debug, Clone, Copy)]
struct Batches {
    length: f64,
    failures: f64,
    times: f64,
}

const ALONE: Batches = Batches { length: 1.0, failures: 0.0, times: 0.0 };
const TOGETHER: Batches = Batches { length: 50.0, failures: 1.5, times: 0.4 };

struct World {
    dice: Dice,
    batches: Batches,
    history: BuildHistory,
    cursor: u64,
    now: f64,
    /// The end of each running attempt (in milliseconds, negative for the heap), and the attempt.
    running: BinaryHeap<(Reverse<i64>, u64)>,
    open: std::collections::BTreeMap<u64, (FirstAttempt, FirstAttempt)>,
    kind: (u64, f64, f64),
}

/// How many jobs run at once.
const BESIDE: usize = 8;

impl World {
    fn new(seed: u64, batches: Batches) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 20_261_129);
        for _ in 0..10 {
            dice.roll();
        }
        Self {
            dice,
            batches,
            history: BuildHistory::new("n".parse().unwrap()),
            cursor: 0,
            now: 1e12,
            running: BinaryHeap::new(),
            open: std::collections::BTreeMap::new(),
            kind: (0, 0.0, 0.0),
        }
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.dice.roll(), self.dice.roll());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn place(&mut self) -> (Cursor, Timestamp) {
        self.cursor += 1;
        (Cursor { major: 0, minor: self.cursor }, Timestamp::from_millis(self.now as i64))
    }

    fn end_one(&mut self) {
        let Some((Reverse(end), id)) = self.running.pop() else { return };
        self.now = self.now.max(end as f64);
        let (at, now) = self.place();
        let (before, after) = self.open.remove(&id).unwrap();
        let Fate::Running { since } = before.fate else { unreachable!() };
        self.history.apply(at, now, (Some(&before), Some(&after)), since, None);
    }

    /// Starts jobs of a build, one after the other, until `until` says that it is enough.
    fn run(&mut self, build: u8, job: Job, most: usize, until: impl Fn(&BuildHistory) -> bool) -> usize {
        let digest = BuildDigest::of_build_id(&[build; 8]);
        for n in 0..most {
            if until(&self.history) {
                return n;
            }
            while self.running.len() >= BESIDE {
                self.end_one();
            }
            if self.kind.0 == 0 {
                let length = self.dice.exponential(self.batches.length).max(1.0) as u64;
                let (fails, slower) = (self.normal() * self.batches.failures, self.normal() * self.batches.times);
                // Keeps the mean of the chances where it is.
                let fails = (fails - self.batches.failures.powi(2) / 2.0).exp();
                self.kind = (length, fails, slower);
            }
            self.kind.0 -= 1;
            let (at, now) = self.place();
            let place = self.history.place(at, &digest, now).unwrap();
            let running =
                FirstAttempt { build: digest.clone(), cell: Some(place.cell), fate: Fate::Running { since: now } };
            self.history.apply(at, now, (None, Some(&running)), now, None);
            let (roll, mut ms) =
                (self.dice.roll(), (self.normal() * job.sigma + self.kind.2).exp() * 2000.0 * job.slower);
            let usual = (job.fails * self.kind.1).min(0.9);
            let error = match roll {
                _ if roll < job.bug => Some(Fingerprint::from_bytes([200 + build; 32])),
                _ if roll < job.bug + usual => Some(Fingerprint::from_bytes([(roll * 1e6) as u8 % 3; 32])),
                _ => None,
            };
            if error.is_some() {
                // Those that fail end sooner.
                ms *= 0.1;
            }
            let (run_us, cpu_us) = ((ms * 1000.0) as u64, (ms * 900.0 * (1.0 + 0.1 * self.normal().abs())) as u64);
            let peak_kib = (50_000.0 * (self.normal() * 0.1 + self.kind.2 / 2.0).exp()) as u64;
            let fate = Fate::Ended { error, run_us, cpu_us, peak_kib };
            self.open.insert(self.cursor, (running.clone(), FirstAttempt { fate, ..running }));
            self.running.push((Reverse((self.now + ms) as i64), self.cursor));
            self.now += 1.0;
        }
        most
    }

    fn alarms(&self) -> usize {
        self.history.builds.iter().map(|entry| entry.alarms.len()).sum()
    }
}

fn never(_: &BuildHistory) -> bool {
    false
}

fn has_alarm(history: &BuildHistory) -> bool {
    history.builds.iter().any(|entry| !entry.alarms.is_empty())
}

/// After how many first attempts of the second build each of so many histories names it, in order; `most` stands for never.
fn named_after(histories: u64, batches: Batches, before: usize, usual: Job, changed: Job, most: usize) -> Vec<usize> {
    let named = |seed| {
        let mut world = World::new(seed, batches);
        world.run(1, usual, before, never);
        assert_eq!(world.alarms(), 0);
        world.run(2, changed, most, has_alarm)
    };
    let mut all: Vec<_> = (1..=histories).map(named).collect();
    all.sort_unstable();
    all
}

/// How many of so many histories without a change have an alarm.
fn false_alarms(histories: u64, batches: Batches, builds: u8, each: usize, job: Job) -> usize {
    let alarms = |seed: &u64| {
        let mut world = World::new(*seed + 1_000_000, batches);
        world.run(1, job, 2000, never);
        for build in 2..builds + 2 {
            world.run(build, job, each, never);
        }
        world.alarms() > 0
    };
    (1..=histories).filter(alarms).count()
}

fn tell(what: &str, all: &[usize]) {
    let at = |q: f64| all[((all.len() - 1) as f64 * q) as usize];
    println!("{what}: named after {} (10 %), {} (half), {} (90 %), {} (all)", at(0.1), at(0.5), at(0.9), at(1.0));
}

#[test]
fn a_bug_in_one_of_twenty_runs_is_named_soon() {
    let all =
        named_after(10, ALONE, 2000, Job { fails: 0.001, ..USUAL }, Job { fails: 0.001, bug: 0.05, ..USUAL }, 1000);
    tell("5 % instead of 0.1 %", &all);
    assert!(all[5] <= 250 && all[9] < 1000, "{all:?}");
}

#[test]
fn without_a_change_alarms_are_rare() {
    assert!(false_alarms(20, TOGETHER, 2, 200, USUAL) <= 3);
}

/// The figures of the documentation: run with `--ignored --nocapture`, in a release build.
#[test]
#[ignore = "takes minutes"]
fn the_figures_of_the_documentation() {
    let rare = Job { fails: 0.001, ..USUAL };
    tell("alone, 0.1 % + 5 %", &named_after(200, ALONE, 2000, rare, Job { bug: 0.05, ..rare }, 3000));
    tell("alone, 2 % + 5 %", &named_after(200, ALONE, 2000, USUAL, Job { bug: 0.05, ..USUAL }, 3000));
    let milder = Batches { failures: 0.7, times: 0.3, ..TOGETHER };
    tell("milder batches, 2 % + 5 %", &named_after(200, milder, 2000, USUAL, Job { bug: 0.05, ..USUAL }, 3000));
    tell("batches, 2 % + 5 %", &named_after(200, TOGETHER, 2000, USUAL, Job { bug: 0.05, ..USUAL }, 3000));
    for sigma in [0.2, 0.5] {
        let usual = Job { sigma, ..USUAL };
        tell(
            &format!("alone, 30 % slower, sigma {sigma}"),
            &named_after(200, ALONE, 2000, usual, Job { slower: 1.3, ..usual }, 3000),
        );
    }
    for (what, batches) in [
        ("alone", ALONE),
        ("batches of 50", TOGETHER),
        ("milder batches of 50", milder),
        ("batches of 200", Batches { length: 200.0, ..TOGETHER }),
        ("batches of 10", Batches { length: 10.0, ..TOGETHER }),
    ] {
        for job in [USUAL, Job { fails: 0.2, ..USUAL }] {
            let alarms = false_alarms(1000, batches, 5, 700, job);
            println!("{what}, {} % fail: {alarms} of 1000 histories of 5 builds have a false alarm", job.fails * 100.0);
        }
    }
}
