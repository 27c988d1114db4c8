//! What saturates first in a fleet: the model of docs/architecture/performance.md, and a simulation that it is held against.
//!
//! The constants for each job are measured, in microseconds of one core, by the commands that the document names; the
//! others are estimates. Change both together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A part that does one thing after the other, and what it spends.
#[derive(Debug, Clone, Copy)]
struct Part {
    name: &'static str,
    /// For each job: its submission, claim, events and end.
    job_us: f64,
    /// For each running job and second: the renewal of its lease.
    running_us: f64,
    /// For each worker and second: heartbeats, and looks for cancelled jobs.
    worker_us: f64,
}

/// A fleet and its work.
#[derive(Debug, Clone, Copy)]
struct Fleet {
    workers: f64,
    cores: f64,
    jobs_per_second: f64,
    /// The mean time for which a job runs.
    seconds: f64,
}

/// Redis runs one command at a time. All commands of a job through queue and event log, by `INFO commandstats`.
const REDIS: Part = Part { name: "redis", job_us: 430.0, running_us: 1.5, worker_us: 30.0 };
/// One process folds the log at a time: 4 events a job.
const PROJECTOR: Part = Part { name: "projector", job_us: 70.0, running_us: 0.0, worker_us: 0.0 };
/// A key-value node of Couchbase: six operations a job, of some 8 us, spread over its threads (4 here).
const COUCHBASE: Part = Part { name: "couchbase", job_us: 12.0, running_us: 0.0, worker_us: 0.0 };

const FLEET: Fleet = Fleet { workers: 1000.0, cores: 64.0, jobs_per_second: 10_000.0, seconds: 5.0 };

impl Fleet {
    /// The part of a second that one of `shares` equal parts is busy in a second.
    fn load(&self, part: &Part, shares: f64) -> f64 {
        let running = self.jobs_per_second * self.seconds;
        let us = self.jobs_per_second * part.job_us + running * part.running_us + self.workers * part.worker_us;
        us / 1e6 / shares
    }
}

/// Pseudo-random numbers between 0 and 1 (Steele, Lea and Flood, 2014): the same in each run.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.next()).ln()
    }
}

/// What a simulation saw.
struct Seen {
    /// Jobs that ended in a second, in the second half of the time.
    jobs_per_second: f64,
    /// From when a part was asked until it had answered, on average over all requests, in milliseconds.
    answer_ms: f64,
    /// The part of the time that one of the shares was busy.
    load: f64,
}

/// Jobs come at random, wait for a free core anywhere, ask the part before and after they run, and renew their leases
/// meanwhile. The part answers in the order in which it is asked.
fn simulate(fleet: &Fleet, part: &Part, shares: usize, until: f64) -> Seen {
    #[derive(Clone, Copy, PartialEq, PartialOrd)]
    enum What {
        Submitted,
        Ended,
        Renewed { left: f64 },
    }
    #[derive(Clone, Copy, PartialEq)]
    struct Due(f64, What);
    impl Eq for Due {}
    impl PartialOrd for Due {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Due {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.total_cmp(&other.0)
        }
    }
    /// How long a worker leaves a lease before it renews it.
    const RENEWAL: f64 = 15.0;
    let mut random = SplitMix(7);
    let mut due = BinaryHeap::from([Reverse(Due(0.0, What::Submitted))]);
    let mut free_at = vec![0.0_f64; shares];
    let (mut busy, mut answered, mut waited, mut ended) = (0.0, 0_u64, 0.0, 0_u64);
    let (mut idle_cores, mut waiting) = ((fleet.workers * fleet.cores) as u64, 0_u64);
    // Heartbeats take their share without events of their own.
    let usable = 1.0 - fleet.workers * part.worker_us / 1e6 / shares as f64;
    while let Some(Reverse(Due(now, what))) = due.pop() {
        if now > until {
            break;
        }
        let mut ask = |us: f64, random: &mut SplitMix| {
            let share = (random.next() * shares as f64) as usize;
            let took = us / 1e6 / usable;
            let done = free_at[share].max(now) + took;
            free_at[share] = done;
            busy += took;
            answered += 1;
            waited += done - now;
            done
        };
        let mut begins = None;
        match what {
            What::Submitted => {
                due.push(Reverse(Due(now + random.exponential(1.0 / fleet.jobs_per_second), What::Submitted)));
                begins = Some(ask(part.job_us / 2.0, &mut random));
                if idle_cores == 0 {
                    waiting += 1;
                    begins = None;
                } else {
                    idle_cores -= 1;
                }
            }
            What::Ended => {
                let done = ask(part.job_us / 2.0, &mut random);
                if done < until && now > until / 2.0 {
                    ended += 1;
                }
                if waiting > 0 {
                    waiting -= 1;
                    begins = Some(done);
                } else {
                    idle_cores += 1;
                }
            }
            What::Renewed { left } => {
                ask(part.running_us * RENEWAL, &mut random);
                if left > RENEWAL {
                    due.push(Reverse(Due(now + RENEWAL, What::Renewed { left: left - RENEWAL })));
                }
            }
        }
        if let Some(begins) = begins {
            let seconds = random.exponential(fleet.seconds);
            due.push(Reverse(Due(begins + seconds, What::Ended)));
            if seconds > RENEWAL && part.running_us > 0.0 {
                due.push(Reverse(Due(begins + RENEWAL, What::Renewed { left: seconds - RENEWAL })));
            }
        }
    }
    Seen {
        jobs_per_second: ended as f64 / (until / 2.0),
        answer_ms: waited / answered as f64 * 1000.0,
        load: busy / until / shares as f64 + (1.0 - usable),
    }
}

#[test]
fn redis_saturates_first_then_the_projector() {
    let load = |part: &Part| FLEET.load(part, 1.0);
    let mut parts = [REDIS, PROJECTOR, COUCHBASE];
    parts.sort_by(|a, b| load(b).total_cmp(&load(a)));
    assert_eq!(parts.map(|part| part.name), ["redis", "projector", "couchbase"]);
    assert!(load(&REDIS) > 4.0 && load(&PROJECTOR) < 0.8 && load(&COUCHBASE) < 0.5);
    // What one of each carries, as the document says.
    let carried = |part: &Part| {
        let mut fleet = FLEET;
        fleet.jobs_per_second = 20_000.0;
        while fleet.load(part, 1.0) > 0.8 {
            fleet.jobs_per_second -= 10.0;
        }
        fleet.jobs_per_second
    };
    assert!((1_500.0..2_000.0).contains(&carried(&REDIS)), "{}", carried(&REDIS));
    assert!((11_000.0..12_000.0).contains(&carried(&PROJECTOR)), "{}", carried(&PROJECTOR));
}

#[test]
fn a_simulation_of_jobs_agrees_with_the_model() {
    // Twenty seconds of a tenth of the fleet, with parts ten times as slow: the same loads, and fewer events.
    let slower = |part: Part| Part {
        job_us: part.job_us * 10.0,
        running_us: part.running_us * 10.0,
        worker_us: part.worker_us * 10.0,
        ..part
    };
    let fleet = Fleet { workers: 100.0, jobs_per_second: 1000.0, ..FLEET };
    for (part, shares) in [(REDIS, 6), (PROJECTOR, 1), (COUCHBASE, 1)] {
        let model = FLEET.load(&part, shares as f64);
        let seen = simulate(&fleet, &slower(part), shares, 60.0);
        assert!(model < 0.9, "{} in {shares}: {model}", part.name);
        assert!((seen.load - model).abs() < 0.1, "{}: {} seen, {model} by the model", part.name, seen.load);
        assert!((seen.jobs_per_second / 1000.0 - 1.0).abs() < 0.05, "{}: {}", part.name, seen.jobs_per_second);
        assert!(seen.answer_ms < 100.0, "{}: {} ms", part.name, seen.answer_ms);
    }
    // One Redis carries what the model says, and no more: the rest waits, and answers take seconds.
    let seen = simulate(&fleet, &slower(REDIS), 1, 60.0);
    assert!(seen.load > 0.97 && seen.jobs_per_second < 300.0 && seen.answer_ms > 1000.0, "{}", seen.jobs_per_second);
}
