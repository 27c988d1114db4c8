//! Several queues, and workers that serve some of them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use jobber::domain::{
    AcceptedJob, JobId, JobState, PageRequest, QueueLimit, QueueName, QueueOrder, QueueShare, StartRate, Verdict,
    WorkerId,
};
use jobber::queue::{ClaimOptions, Claims, CleanRequest, Lease};

use super::fixture::*;

fn name(queue: &str) -> QueueName {
    QueueName::parse(queue).unwrap()
}

fn job_in(queue: &str) -> AcceptedJob {
    job_with(|o| o.queue = Some(name(queue)))
}

/// Takes jobs of these queues.
async fn serve(here: &Instance, shares: &[&str], order: QueueOrder, concurrency: usize) -> Claims {
    let queues = shares.iter().map(|share| QueueShare::parse(share).unwrap()).collect();
    let options = ClaimOptions { queues, order, ..ClaimOptions::new(WorkerId::generate("host"), concurrency, 4) };
    here.source.claim(options).await.unwrap()
}

fn queue_of(lease: &Lease) -> String {
    lease.job().options.queue.as_ref().map_or("default".to_owned(), ToString::to_string)
}

/// Takes so many, and counts them by queue.
async fn taken(claims: &mut Claims, count: usize) -> (Vec<Lease>, BTreeMap<String, usize>) {
    let (mut leases, mut by_queue) = (Vec::new(), BTreeMap::new());
    for _ in 0..count {
        let lease = next(claims).await;
        *by_queue.entry(queue_of(&lease)).or_default() += 1;
        leases.push(lease);
    }
    (leases, by_queue)
}

async fn fill(here: &Instance, queues: &[&str], each: usize) {
    for queue in queues {
        here.queue.submit((0..each).map(|_| job_in(queue)).collect(), None).await.unwrap();
    }
}

fn counted(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(queue, n)| ((*queue).to_owned(), *n)).collect()
}

pub(super) async fn a_job_waits_in_the_queue_that_it_names(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let (named, plain) = (here.submit(job_in("encode")).await, here.submit(job()).await);
    let mut claims = there.claim(2).await;
    assert_eq!(next(&mut claims).await.job().id, plain);
    claims.close().await;
    let mut claims = serve(&there, &["encode", "empty"], QueueOrder::Weighted, 2).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, queue_of(&lease).as_str()), (&named, "encode"));
    nothing(&mut claims).await;
    assert_eq!(here.find(&named).await.unwrap().job.options.queue, Some(name("encode")));
    assert_eq!(here.find(&plain).await.unwrap().job.options.queue, None);
    // One that comes later is heard of, too.
    let later = here.submit(job_in("empty")).await;
    // Held, for one that is dropped comes again.
    let held = next(&mut claims).await;
    assert_eq!(held.job().id, later);
    lease.settle(Verdict::Retry { after: Duration::ZERO, error: "again".to_owned() }).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.attempt().0, queue_of(&lease).as_str()), (&named, 2, "encode"));
    lease.settle(Verdict::Complete { result: None }).await;
    there.until(&named, JobState::Completed).await;
}

pub(super) async fn slots_go_to_queues_by_weight(fixture: Fixture) {
    let here = fixture.instance().await;
    fill(&here, &["encode", "render"], 20).await;
    let mut claims = serve(&here, &["encode=4", "render"], QueueOrder::Weighted, 5).await;
    let (leases, by_queue) = taken(&mut claims, 5).await;
    assert_eq!(by_queue, counted(&[("encode", 4), ("render", 1)]));
    nothing(&mut claims).await;
    for lease in leases {
        lease.settle(Verdict::Complete { result: None }).await;
    }
    let (_held, by_queue) = taken(&mut claims, 5).await;
    assert_eq!(by_queue, counted(&[("encode", 4), ("render", 1)]));
}

pub(super) async fn in_strict_order_the_first_queue_comes_first(fixture: Fixture) {
    let here = fixture.instance().await;
    fill(&here, &["low", "high"], 3).await;
    let mut claims = serve(&here, &["high", "low"], QueueOrder::Strict, 1).await;
    let mut order = Vec::new();
    for _ in 0..6 {
        let lease = next(&mut claims).await;
        order.push(queue_of(&lease));
        lease.settle(Verdict::Complete { result: None }).await;
    }
    assert_eq!(order, ["high", "high", "high", "low", "low", "low"]);
}

pub(super) async fn of_a_queue_no_more_than_its_share_is_held(fixture: Fixture) {
    let here = fixture.instance().await;
    fill(&here, &["encode", "render"], 6).await;
    let mut claims = serve(&here, &["encode:2", "render"], QueueOrder::Weighted, 5).await;
    let (mut held, by_queue) = taken(&mut claims, 5).await;
    assert_eq!(by_queue, counted(&[("encode", 2), ("render", 3)]));
    nothing(&mut claims).await;
    let at = held.iter().position(|lease| queue_of(lease) == "encode").unwrap();
    held.remove(at).settle(Verdict::Complete { result: None }).await;
    held.push(next(&mut claims).await);
    nothing(&mut claims).await;
    let encoding = held.iter().filter(|lease| queue_of(lease) == "encode").count();
    assert!(encoding <= 2, "{encoding}");
}

pub(super) async fn one_slot_serves_all_queues(fixture: Fixture) {
    let here = fixture.instance().await;
    fill(&here, &["a", "b", "c"], 4).await;
    let mut claims = serve(&here, &["a", "b", "c"], QueueOrder::Weighted, 1).await;
    let mut order = Vec::new();
    for _ in 0..12 {
        let lease = next(&mut claims).await;
        order.push(queue_of(&lease));
        lease.settle(Verdict::Complete { result: None }).await;
    }
    let early: HashSet<_> = order[..6].iter().collect();
    assert_eq!(early.len(), 3, "each has its turn: {order:?}");
}

pub(super) async fn a_queue_is_paused_alone(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    here.operator.set_paused(Some(&name("a")), true).await.unwrap();
    fill(&here, &["a", "b"], 1).await;
    let mut claims = serve(&there, &["a", "b"], QueueOrder::Strict, 2).await;
    let lease = next(&mut claims).await;
    assert_eq!(queue_of(&lease), "b");
    nothing(&mut claims).await;
    assert!(!here.queue.counts().await.unwrap().paused, "not all are");
    here.operator.set_paused(Some(&name("a")), false).await.unwrap();
    assert_eq!(queue_of(&next(&mut claims).await), "a");
    here.operator.set_paused(None, true).await.unwrap();
    assert!(there.queue.counts().await.unwrap().paused);
    assert!(there.queue.queues().await.unwrap().iter().all(|queue| queue.counts.paused));
}

pub(super) async fn a_queue_runs_no_more_at_once_than_its_limit(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let limit = QueueLimit { concurrency: Some(2), ..QueueLimit::default() };
    here.operator.set_limit(&name("a"), limit).await.unwrap();
    let listed = there.queue.queues().await.unwrap();
    assert_eq!(listed.iter().find(|queue| queue.name == name("a")).unwrap().limit, limit);
    fill(&here, &["a"], 6).await;
    let mut mine = serve(&here, &["a"], QueueOrder::Weighted, 4).await;
    let mut held = taken(&mut mine, 2).await.0;
    nothing(&mut mine).await;
    let mut theirs = serve(&there, &["a"], QueueOrder::Weighted, 4).await;
    nothing(&mut theirs).await;
    // What ends in one process lets another go on.
    mine.close().await;
    held.remove(0).settle(Verdict::Complete { result: None }).await;
    held.push(next(&mut theirs).await);
    nothing(&mut theirs).await;
    here.operator.set_limit(&name("a"), QueueLimit::default()).await.unwrap();
    held.extend(taken(&mut theirs, 3).await.0);
}

pub(super) async fn a_queue_starts_no_more_in_a_time_than_its_rate(fixture: Fixture) {
    let here = fixture.instance().await;
    let rate = StartRate { jobs: 2, per: Duration::from_secs(4) };
    here.operator.set_limit(&name("a"), QueueLimit { rate: Some(rate), ..QueueLimit::default() }).await.unwrap();
    fill(&here, &["a"], 4).await;
    let mut claims = serve(&here, &["a"], QueueOrder::Weighted, 4).await;
    let began = Instant::now();
    let _held = taken(&mut claims, 2).await;
    // The time is over at some moment.
    let _later = taken(&mut claims, 2).await;
    assert!(began.elapsed() > Duration::from_secs(2), "they came after {:?}", began.elapsed());
}

pub(super) async fn queues_are_listed_with_what_they_hold(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let alone = here.queue.queues().await.unwrap();
    assert_eq!(alone.len(), 1, "the default one: {alone:?}");
    fill(&here, &["b", "a"], 2).await;
    here.submit(job_with(|o| (o.queue, o.priority) = (Some(name("a")), 3))).await;
    here.submit(job_with(|o| (o.queue, o.delay) = (Some(name("a")), Duration::from_secs(3600)))).await;
    let mut claims = serve(&here, &["a"], QueueOrder::Weighted, 1).await;
    let _held = next(&mut claims).await;
    let mut listed = there.queue.queues().await.unwrap();
    let default = listed.iter().position(|queue| queue.name == alone[0].name).unwrap();
    listed.remove(default);
    let names: Vec<_> = listed.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let counts = listed[0].counts;
    assert_eq!((counts.waiting, counts.prioritized, counts.delayed, counts.active), (1, 1, 1, 1));
    assert_eq!(listed[1].counts.waiting, 2);
    let total = there.queue.counts().await.unwrap();
    assert_eq!((total.waiting, total.prioritized, total.delayed, total.active), (3, 1, 1, 1));
}

pub(super) async fn a_list_is_of_one_queue_or_of_all(fixture: Fixture) {
    let here = fixture.instance().await;
    fill(&here, &["a", "b"], 3).await;
    here.submit(job()).await;
    let list = async |queue: Option<&QueueName>| {
        let mut found: Vec<JobId> = Vec::new();
        let mut request = PageRequest::first(2);
        loop {
            let page = here.queue.page(queue, JobState::Waiting, request).await.unwrap();
            found.extend(page.items.iter().map(|queued| queued.job.id.clone()));
            let Some(next) = page.next else { return found };
            request = PageRequest { cursor: Some(next), limit: 2 };
        }
    };
    assert_eq!(list(Some(&name("a"))).await.len(), 3);
    assert_eq!(list(Some(&name("none"))).await.len(), 0);
    let all = list(None).await;
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (7, 7));
}

pub(super) async fn a_queue_is_cleaned_alone(fixture: Fixture) {
    let here = fixture.instance().await;
    let (a, b) = (here.submit(job_in("a")).await, here.submit(job_in("b")).await);
    let mut claims = serve(&here, &["a", "b"], QueueOrder::Weighted, 2).await;
    for _ in 0..2 {
        next(&mut claims).await.settle(Verdict::Fail { error: "broken".to_owned() }).await;
    }
    here.until(&a, JobState::Failed).await;
    here.until(&b, JobState::Failed).await;
    let request = |queue: &str| CleanRequest {
        queue: Some(name(queue)),
        state: JobState::Failed,
        older_than: Duration::ZERO,
        limit: 10,
    };
    assert_eq!(here.operator.clean(request("none")).await.unwrap(), 0);
    assert_eq!(here.operator.clean(request("a")).await.unwrap(), 1);
    assert!(here.find(&a).await.is_none());
    assert!(here.find(&b).await.is_some());
}

pub(super) async fn jobs_of_several_queues_are_submitted_together(fixture: Fixture) {
    let here = fixture.instance().await;
    let jobs = vec![job_in("a"), job(), job_in("b"), job_in("a")];
    let ids: Vec<_> = jobs.iter().map(|job| job.job.id.clone()).collect();
    let submitted = here.queue.submit(jobs, None).await.unwrap();
    let answered: Vec<_> = submitted.iter().map(|submission| submission.id.clone()).collect();
    assert_eq!(answered, ids, "in the order of the call");
    let found = here.queue.find(&ids).await.unwrap();
    let queues: Vec<_> = found.into_iter().map(|job| job.unwrap().job.options.queue.clone()).collect();
    assert_eq!(queues, [Some(name("a")), None, Some(name("b")), Some(name("a"))]);
}
