//! Random sequences of calls, on the queue and on a model of it that fits on a page.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::Bench;
use crate::domain::{Deduplication, Timestamp, Verdict};
use crate::queue::Lease;

#[derive(Debug, Clone)]
enum Step {
    Submit {
        priority: u32,
        delay_ms: u64,
        key: Option<(u8, Option<u64>)>,
    },
    Take,
    Start(usize),
    Withdraw(usize),
    /// Each index is taken modulo what there is.
    Settle(usize, Verdict),
    Drop(usize),
    Cancel(usize),
    Retry(usize),
    Promote(usize),
    Remove(usize),
    Pause(bool),
    Advance(u64),
    /// All leases run out.
    Lapse,
}

fn step() -> impl Strategy<Value = Step> {
    let error = || "broken".to_owned();
    let verdict = prop_oneof![
        Just(Verdict::Complete { result: None }),
        Just(Verdict::Fail { error: error() }),
        Just(Verdict::Retry { after: Duration::ZERO, error: error() }),
        Just(Verdict::Retry { after: Duration::from_millis(70), error: error() }),
        Just(Verdict::Release),
        Just(Verdict::PutOff { after: Duration::from_millis(70) }),
    ];
    let key = prop::option::weighted(0.3, (0u8..2, prop::option::of(1u64..150)));
    prop_oneof![
        4 => (0u32..3, prop_oneof![2 => Just(0u64), 1 => 1u64..100], key)
            .prop_map(|(priority, delay_ms, key)| Step::Submit { priority, delay_ms, key }),
        5 => Just(Step::Take),
        3 => any::<usize>().prop_map(Step::Start),
        1 => any::<usize>().prop_map(Step::Withdraw),
        4 => (any::<usize>(), verdict).prop_map(|(i, verdict)| Step::Settle(i, verdict)),
        1 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Retry),
        1 => any::<usize>().prop_map(Step::Promote),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => any::<bool>().prop_map(Step::Pause),
        2 => (1u64..100).prop_map(Step::Advance),
        1 => Just(Step::Lapse),
    ]
}

/// What the model knows of a job. Their order in the list is the order of submission.
#[derive(Debug, Clone)]
struct ModelJob {
    id: JobId,
    state: JobState,
    priority: u32,
    due_at: Option<Timestamp>,
    started: u32,
    /// Whether the lease that is out has started something: what is given back then, and what is lost.
    spawned: (bool, bool),
    finished: u32,
    crashes: u32,
    cancelled: bool,
    /// The deduplication key that it holds until it has ended.
    key: Option<u8>,
}

impl ModelJob {
    fn make_ready(&mut self) {
        self.due_at = None;
        self.state = if self.priority == 0 { JobState::Waiting } else { JobState::Prioritized };
    }

    fn settle(&mut self, verdict: &Verdict, now: Timestamp) {
        match verdict {
            Verdict::Complete { .. } => self.state = JobState::Completed,
            Verdict::Fail { .. } => {
                self.state = JobState::Failed;
                self.finished += 1;
            }
            Verdict::Retry { after, .. } => {
                self.finished += 1;
                self.make_ready();
                if !after.is_zero() && !self.cancelled {
                    self.state = JobState::Delayed;
                    self.due_at = Some(now + *after);
                }
            }
            Verdict::Release => return self.give_back(),
            Verdict::PutOff { after } => {
                self.give_back();
                if !self.cancelled {
                    self.state = JobState::Delayed;
                    self.due_at = Some(now + *after);
                }
                return;
            }
        }
        self.crashes = 0;
    }

    fn give_back(&mut self) {
        self.started -= u32::from(!self.spawned.0);
        self.make_ready();
    }
}

#[derive(Debug, Default)]
struct Model {
    jobs: Vec<ModelJob>,
    /// Keys with a time to live: who took them, and until when.
    keys: Vec<(u8, JobId, Timestamp)>,
    paused: bool,
}

impl Model {
    fn find(&mut self, id: &JobId) -> &mut ModelJob {
        self.jobs.iter_mut().find(|j| j.id == *id).unwrap()
    }

    fn pass_time(&mut self, now: Timestamp) {
        for job in self.jobs.iter_mut().filter(|j| j.due_at.is_some_and(|due| due <= now)) {
            job.make_ready();
        }
        self.keys.retain(|(_, _, until)| *until > now);
    }

    /// Who holds a key: at most one job.
    fn holders_of(&self, key: u8) -> Vec<JobId> {
        let timed = self.keys.iter().filter(|(k, ..)| *k == key).map(|(_, id, _)| id);
        let live = self.jobs.iter().filter(|j| j.key == Some(key) && !j.state.is_final()).map(|j| &j.id);
        timed.chain(live).cloned().collect()
    }

    fn next(&mut self) -> Option<&mut ModelJob> {
        if self.paused {
            return None;
        }
        self.jobs.iter_mut().filter(|j| j.state.is_ready()).min_by_key(|j| j.priority)
    }
}

/// A queue, its model, and the leases that are out: with `true`, those that are still good.
struct Run {
    bench: Bench,
    model: Model,
    claims: Claims,
    leases: Vec<(Lease, bool)>,
}

impl Run {
    async fn step(&mut self, step: Step) {
        let now = self.bench.clock.now();
        let known =
            |model: &Model, i: usize| (!model.jobs.is_empty()).then(|| model.jobs[i % model.jobs.len()].id.clone());
        match step {
            Step::Submit { priority, delay_ms, key } => self.submit(priority, delay_ms, key).await,
            Step::Take => {
                let Some(expected) = self.model.next() else { return };
                expected.state = JobState::Active;
                expected.started += 1;
                expected.spawned = (false, false);
                let expected = expected.clone();
                self.claims.set_concurrency(self.leases.len() + 1);
                let lease = tokio::time::timeout(Duration::from_secs(60), self.claims.next()).await.unwrap().unwrap();
                assert_eq!(lease.job().id, expected.id);
                assert_eq!(
                    (lease.attempt().0, lease.attempts_finished(), lease.crashes()),
                    (expected.started, expected.finished, expected.crashes)
                );
                let told = tokio::time::timeout(Duration::ZERO, lease.lost()).await;
                assert_eq!(told.is_ok(), expected.cancelled);
                self.leases.push((lease, true));
            }
            Step::Start(i) if !self.leases.is_empty() => {
                let (lease, good) = &self.leases[i % self.leases.len()];
                assert_eq!(lease.publisher().started().await, *good);
                if *good {
                    self.model.find(&lease.job().id).spawned = (true, true);
                }
            }
            Step::Withdraw(i) if !self.leases.is_empty() => {
                let (lease, good) = &self.leases[i % self.leases.len()];
                lease.withdraw();
                if *good {
                    self.model.find(&lease.job().id).spawned.0 = false;
                }
            }
            Step::Settle(i, verdict) if !self.leases.is_empty() => {
                let (lease, good) = self.hand_in(i);
                if good {
                    self.model.find(&lease.job().id).settle(&verdict, now);
                }
                lease.settle(verdict).await;
            }
            Step::Drop(i) if !self.leases.is_empty() => {
                let (lease, good) = self.hand_in(i);
                if good {
                    self.model.find(&lease.job().id).give_back();
                }
                drop(lease);
            }
            Step::Settle(..) | Step::Drop(_) | Step::Start(_) | Step::Withdraw(_) => {}
            Step::Cancel(i) => {
                let Some(id) = known(&self.model, i) else { return };
                let answer = self.bench.queue.cancel(&id, "why").await.unwrap();
                let job = self.model.find(&id);
                match job.state {
                    JobState::Active => {
                        assert!(matches!(answer, Cancellation::Signalled(_)));
                        job.cancelled = true;
                    }
                    JobState::Waiting | JobState::Prioritized | JobState::Delayed => {
                        assert!(matches!(answer, Cancellation::Ended(_)));
                        (job.state, job.due_at, job.cancelled) = (JobState::Failed, None, true);
                    }
                    JobState::Completed | JobState::Failed => {
                        assert_eq!(answer, Cancellation::AlreadyFinal(job.state));
                    }
                }
            }
            Step::Retry(i) => {
                let Some(id) = known(&self.model, i) else { return };
                let answer = self.bench.queue.retry(&id).await.unwrap();
                let key = self.model.find(&id).key;
                let holders = key.map(|key| self.model.holders_of(key)).unwrap_or_default();
                let job = self.model.find(&id);
                let is_free = holders.is_empty();
                assert_eq!(matches!(answer, Change::Done(..)), job.state == JobState::Failed && is_free);
                if job.state == JobState::Failed && is_free {
                    (job.finished, job.crashes, job.cancelled) = (0, 0, false);
                    job.make_ready();
                }
            }
            Step::Promote(i) => {
                let Some(id) = known(&self.model, i) else { return };
                let answer = self.bench.queue.promote(&id).await.unwrap();
                let job = self.model.find(&id);
                assert_eq!(matches!(answer, Change::Done(..)), job.state == JobState::Delayed);
                if job.state == JobState::Delayed {
                    job.make_ready();
                }
            }
            Step::Remove(i) => {
                let Some(id) = known(&self.model, i) else { return };
                let answer = self.bench.queue.remove(&id).await.unwrap();
                let active = self.model.find(&id).state == JobState::Active;
                assert_eq!(matches!(answer, Change::Done(..)), !active);
                if !active {
                    self.model.keys.retain(|(_, holder, _)| *holder != id);
                    self.model.jobs.retain(|j| j.id != id);
                }
            }
            Step::Pause(paused) => {
                self.bench.queue.set_paused(None, paused).await.unwrap();
                self.model.paused = paused;
            }
            Step::Advance(ms) => {
                self.bench.clock.advance(Duration::from_millis(ms));
                self.model.pass_time(self.bench.clock.now());
                self.bench.sweep().await;
            }
            Step::Lapse => {
                let lapse =
                    self.bench.queue.inner.db.write(|c| c.execute("UPDATE queue_claims SET expires_at = 0", []));
                lapse.await.unwrap();
                self.bench.sweep().await;
                for (lease, good) in &mut self.leases {
                    if std::mem::take(good) {
                        let job = self.model.find(&lease.job().id);
                        job.crashes += u32::from(job.spawned.1);
                        job.started -= u32::from(!job.spawned.1);
                        job.make_ready();
                    }
                }
            }
        }
    }

    async fn submit(&mut self, priority: u32, delay_ms: u64, key: Option<(u8, Option<u64>)>) {
        let now = self.bench.clock.now();
        let delay = Duration::from_millis(delay_ms);
        let job = self.bench.job(|o| {
            (o.priority, o.delay) = (priority, delay);
            o.deduplication =
                key.map(|(key, ttl)| Deduplication { key: key.to_string(), ttl: ttl.map(Duration::from_millis) });
        });
        let submission = self.bench.submit(job.clone()).await;
        let holders = key.map(|(key, _)| self.model.holders_of(key)).unwrap_or_default();
        if !holders.is_empty() {
            assert!(submission.duplicate && holders.contains(&submission.id), "{submission:?} {holders:?}");
            return;
        }
        assert_eq!(submission, Submission::new(job.clone()));
        let mut known = ModelJob {
            id: job.job.id.clone(),
            state: JobState::Delayed,
            priority,
            due_at: Some(now + delay),
            started: 0,
            spawned: (false, false),
            finished: 0,
            crashes: 0,
            cancelled: false,
            key: key.filter(|(_, ttl)| ttl.is_none()).map(|(key, _)| key),
        };
        if delay.is_zero() {
            known.make_ready();
        }
        if let Some((key, Some(ttl))) = key {
            self.model.keys.push((key, job.job.id.clone(), now + Duration::from_millis(ttl)));
        }
        self.model.jobs.push(known);
    }

    /// Takes a lease out of the list, and keeps the claim from filling its place.
    fn hand_in(&mut self, i: usize) -> (Lease, bool) {
        self.claims.set_concurrency(0);
        let i = i % self.leases.len();
        self.leases.swap_remove(i)
    }

    async fn compare(&self) {
        // Writes are run in the order in which they were queued: what a drop has queued is done after this.
        self.bench.queue.inner.db.write(|_| Ok(())).await.unwrap();
        let ids: Vec<_> = self.model.jobs.iter().map(|j| j.id.clone()).collect();
        let found = self.bench.queue.find(&ids).await.unwrap();
        let mut counts = StateCounts { paused: self.model.paused, ..StateCounts::default() };
        for (known, found) in self.model.jobs.iter().zip(found) {
            let found = found.unwrap();
            assert_eq!(
                (found.state, found.attempts_started, found.attempts_finished, found.due_at),
                (known.state, known.started, known.finished, known.due_at),
            );
            assert_eq!(found.cancel_requested.is_some(), known.cancelled);
            assert_eq!(found.finished_at.is_some(), known.state.is_final());
            assert_eq!(found.worker.is_some(), known.state == JobState::Active);
            match known.state {
                JobState::Waiting => counts.waiting += 1,
                JobState::Delayed => counts.delayed += 1,
                JobState::Prioritized => counts.prioritized += 1,
                JobState::Active => counts.active += 1,
                JobState::Completed => counts.completed += 1,
                JobState::Failed => counts.failed += 1,
            }
        }
        assert_eq!(self.bench.queue.counts().await.unwrap(), counts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = QueueSettings { lease: Duration::from_secs(3600), ..QueueSettings::default() };
            let bench = Bench::with(settings).await;
            let claims = bench.claim("w", 0).await;
            let mut run = Run { bench, model: Model::default(), claims, leases: Vec::new() };
            for step in steps {
                let before: Vec<_> = run.model.jobs.iter().map(|j| (j.id.clone(), j.state)).collect();
                run.step(step).await;
                run.compare().await;
                for (id, old) in before {
                    if let Some(job) = run.model.jobs.iter().find(|j| j.id == id) {
                        assert!(old == job.state || old.may_become(job.state), "{old} became {}", job.state);
                    }
                }
            }
        });
    }
}
