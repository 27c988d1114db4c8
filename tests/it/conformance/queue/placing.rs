//! Jobs that ask for labels and resources, and workers that differ.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use jobber::domain::{
    Amounts, Capacity, Fairness, Free, GroupName, JobOptions, JobState, Labels, Needs, QueueLimit, QueueName, Verdict,
    WorkerId,
};
use jobber::queue::{ClaimOptions, Claims, Lease, Placement, Placing, QueueErrorKind};

use super::fixture::*;

fn with(labels: &str, resources: &str) -> Capacity {
    Capacity {
        cores: 4,
        memory_bytes: None,
        labels: Labels::parse(labels).unwrap(),
        resources: Amounts::parse(resources).unwrap(),
    }
}

async fn claim_by(here: &Instance, placement: Arc<dyn Placement>, concurrency: usize) -> Claims {
    let options = ClaimOptions { placement, ..ClaimOptions::new(WorkerId::generate("host"), concurrency, 4) };
    here.source.claim(options).await.unwrap()
}

/// Takes one job at a time, for a worker with these labels and resources, of which nothing is ever held.
pub(super) async fn claim_with(here: &Instance, labels: &str, resources: &str) -> Claims {
    claim_by(here, Arc::new(with(labels, resources)), 1).await
}

fn requiring(labels: &str) -> impl FnOnce(&mut JobOptions) {
    let labels = Labels::parse(labels).unwrap();
    move |o| o.require = Some(labels)
}

fn holding(resources: &str) -> impl FnOnce(&mut JobOptions) {
    let resources = Amounts::parse(resources).unwrap();
    move |o| o.resources = Some(resources)
}

/// A worker's resources, held by the leases that it has taken as a worker's slots would be.
#[derive(Debug)]
struct Pool {
    capacity: Capacity,
    held: Mutex<Amounts>,
}

impl Pool {
    fn new(resources: &str) -> Arc<Self> {
        Arc::new(Self { capacity: with("", resources), held: Mutex::default() })
    }

    fn free_now(&self) -> Amounts {
        let mut free = self.capacity.resources.clone();
        free.take(&self.held.lock().unwrap());
        free
    }

    /// Takes what the job asks for; false when that is not there, so that the job waits.
    fn hold(&self, lease: &Lease) -> bool {
        let wanted = lease.job().options.resources.clone().unwrap_or_default();
        if !self.free_now().cover(&wanted) {
            return false;
        }
        self.change(&wanted, u32::saturating_add);
        true
    }

    fn release(&self, lease: &Lease) {
        self.change(&lease.job().options.resources.clone().unwrap_or_default(), u32::saturating_sub);
    }

    fn change(&self, amounts: &Amounts, by: impl Fn(u32, u32) -> u32) {
        let mut held = self.held.lock().unwrap();
        *held = amounts.iter().map(|(name, n)| (name.clone(), by(held.of(name), n))).collect();
    }
}

impl Placement for Pool {
    fn judge(&self, queue: &QueueName, needs: &Needs) -> Placing {
        self.capacity.judge(queue, needs)
    }

    fn free(&self) -> Free {
        Free { memory_bytes: None, resources: self.free_now() }
    }

    fn is_awaited(&self) -> bool {
        true
    }
}

pub(super) async fn a_job_goes_to_a_worker_that_has_what_it_asks_for(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let european = here.submit(job_with(requiring("zone=eu"))).await;
    let graphic = here.submit(job_with(holding("gpu=2"))).await;
    let plain = here.submit(job()).await;
    let mut american = claim_by(&there, Arc::new(with("zone=us", "gpu=1")), 3).await;
    let lease = next(&mut american).await;
    assert_eq!(lease.job().id, plain);
    lease.settle(Verdict::Complete { result: None }).await;
    nothing(&mut american).await;
    let mut others = claim_by(&here, Arc::new(with("zone=eu,disk=ssd", "gpu=2")), 2).await;
    let (first, second) = (next(&mut others).await, next(&mut others).await);
    let ids: HashSet<_> = [&first, &second].into_iter().map(|lease| lease.job().id.clone()).collect();
    assert_eq!(ids, HashSet::from([european, graphic]));
    assert_eq!((first.attempt().0, second.attempt().0), (1, 1), "whoever handed them on has spent nothing");
    american.close().await;
}

pub(super) async fn jobs_for_others_do_not_hold_up_those_behind_them(fixture: Fixture) {
    let here = fixture.instance().await;
    let foreign: Vec<_> = (0..300).map(|_| job_with(requiring("zone=eu"))).collect();
    here.queue.submit(foreign, None).await.unwrap();
    let own: HashSet<_> = {
        let own: Vec<_> = (0..300).map(|_| job()).collect();
        here.queue.submit(own, None).await.unwrap().into_iter().map(|s| s.id).collect()
    };
    let mut claims = claim_by(&here, Arc::new(with("", "")), 8).await;
    let mut seen = HashSet::new();
    while seen.len() < 300 {
        let lease = next(&mut claims).await;
        seen.insert(lease.job().id.clone());
        lease.settle(Verdict::Complete { result: None }).await;
    }
    assert_eq!(seen, own);
    let mut rest = claim_by(&here, Arc::new(with("zone=eu", "")), 8).await;
    for _ in 0..300 {
        let lease = next(&mut rest).await;
        assert_eq!((lease.attempt().0, lease.attempts_finished(), lease.crashes()), (1, 0, 0));
        lease.settle(Verdict::Complete { result: None }).await;
    }
    claims.close().await;
}

pub(super) async fn no_more_is_held_than_there_is(fixture: Fixture) {
    let here = fixture.instance().await;
    here.queue.submit((0..6).map(|_| job_with(holding("gpu=1"))).collect(), None).await.unwrap();
    let pool = Pool::new("gpu=2");
    let mut claims = claim_by(&here, pool.clone(), 1).await;
    let mut held = Vec::new();
    // One after another: what is on its way here is not yet held.
    for more in [2, 6] {
        let lease = next(&mut claims).await;
        assert!(pool.hold(&lease));
        held.push(lease);
        claims.set_concurrency(more);
    }
    nothing(&mut claims).await;
    for _ in 0..4 {
        let done = held.remove(0);
        pool.release(&done);
        done.settle(Verdict::Complete { result: None }).await;
        let lease = next(&mut claims).await;
        assert!(pool.hold(&lease));
        held.push(lease);
    }
    claims.close().await;
}

pub(super) async fn a_large_job_is_not_starved_by_small_ones(fixture: Fixture) {
    let here = fixture.instance().await;
    let pool = Pool::new("gpu=2");
    let mut claims = claim_by(&here, pool.clone(), 4).await;
    here.submit(job_with(holding("gpu=1"))).await;
    let running = next(&mut claims).await;
    assert!(pool.hold(&running));
    let large = here.submit(job_with(holding("gpu=2"))).await;
    here.queue.submit((0..20).map(|_| job_with(holding("gpu=1"))).collect(), None).await.unwrap();
    // On Redis small ones may pass while the large one is put off, but it comes as soon as both are free.
    let mut held = vec![running];
    for _ in 0..100 {
        if let Some(done) = held.pop() {
            pool.release(&done);
            done.settle(Verdict::Complete { result: None }).await;
        }
        let lease = next(&mut claims).await;
        if lease.job().id == large {
            return;
        }
        assert!(pool.hold(&lease));
        held.push(lease);
    }
    panic!("the large job never came");
}

/// Refuses everything.
#[derive(Debug)]
struct Refusing;

impl Placement for Refusing {
    fn judge(&self, _queue: &QueueName, _needs: &Needs) -> Placing {
        Placing::Refused
    }

    fn free(&self) -> Free {
        Free::default()
    }

    fn is_awaited(&self) -> bool {
        true
    }
}

pub(super) async fn a_job_that_no_worker_can_run_is_taken_to_be_refused(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job_with(holding("gpu=2"))).await;
    let mut claims = claim_by(&here, Arc::new(Refusing), 1).await;
    let lease = next(&mut claims).await;
    lease.settle(Verdict::Fail { error: "no worker could run it".to_owned() }).await;
    here.until(&id, JobState::Failed).await;
}

fn of_group(group: &str) -> impl FnOnce(&mut JobOptions) {
    let group = GroupName::parse(group).unwrap();
    move |o| o.group = Some(group)
}

fn group_of(lease: &Lease) -> String {
    lease.job().options.group.as_ref().map_or("none".to_owned(), ToString::to_string)
}

pub(super) async fn groups_take_turns_in_a_fair_queue_or_that_is_refused(fixture: Fixture) {
    let here = fixture.instance().await;
    for group in ["alice", "bob"] {
        here.queue.submit((0..20).map(|_| job_with(of_group(group))).collect(), None).await.unwrap();
    }
    here.submit(job()).await;
    let fair = QueueLimit { fair: Some(Fairness::Group), ..QueueLimit::default() };
    let name = here.queue.queues().await.unwrap().remove(0).name;
    let set = here.operator.set_limit(&name, fair).await;
    let Ok(()) = set else {
        let error = set.unwrap_err();
        assert_eq!(error.kind, QueueErrorKind::Rejected, "{error}");
        return assert!(error.to_string().contains("a queue of its own"), "{error}");
    };
    assert_eq!(here.queue.queues().await.unwrap()[0].limit, fair);
    let mut claims = here.claim(3).await;
    let mut order = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let lease = next(&mut claims).await;
        order.push(group_of(&lease));
        held.push(lease);
    }
    order.sort();
    assert_eq!(order, ["alice", "bob", "none"], "one of each, though all of alice's were there first");
    for turn in 0..10 {
        let done = held.remove(0);
        done.settle(Verdict::Complete { result: None }).await;
        held.push(next(&mut claims).await);
        let mut running: Vec<_> = held.iter().map(group_of).collect();
        running.sort();
        let alice = running.iter().filter(|group| *group == "alice").count();
        assert!((1..=2).contains(&alice), "{turn}: {running:?}");
    }
}
