//! What an operator does and sees.

use std::collections::HashSet;
use std::time::Duration;

use jobber::domain::{Clock, JobId, JobState, Labels, PageRequest, ResourceUnits, Verdict, WorkerId};
use jobber::queue::{Cancellation, Change, Claims, CleanRequest, QueueErrorKind, WorkerInfo};

use super::fixture::*;

fn later(priority: u32) -> jobber::domain::AcceptedJob {
    job_with(|o| {
        o.delay = Duration::from_secs(3600);
        o.priority = priority;
    })
}

async fn finish(here: &Instance, claims: &mut Claims, verdict: Verdict) -> JobId {
    let lease = next(claims).await;
    let id = lease.job().id.clone();
    let state = if matches!(verdict, Verdict::Fail { .. }) { JobState::Failed } else { JobState::Completed };
    lease.settle(verdict).await;
    here.until(&id, state).await;
    id
}

fn fail() -> Verdict {
    Verdict::Fail { error: "broken".to_owned() }
}

const DONE: Verdict = Verdict::Complete { result: None };

pub(super) async fn cancel_ends_a_job_that_is_not_running(fixture: Fixture) {
    let here = fixture.instance().await;
    for job in [job(), later(0), job_with(|o| o.priority = 4)] {
        let id = here.submit(job.clone()).await;
        assert_eq!(here.operator.cancel(&id, "a mistake").await.unwrap(), Cancellation::Ended(job.job));
        let ended = here.find(&id).await.unwrap();
        assert_eq!((ended.state, ended.cancel_requested.as_deref()), (JobState::Failed, Some("a mistake")));
        assert_eq!((ended.attempts_started, ended.attempts_finished), (0, 0));
        assert!(ended.finished_at.is_some());
    }
    let mut claims = here.claim(1).await;
    nothing(&mut claims).await;
}

pub(super) async fn cancel_can_be_repeated(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    for reason in ["first", "second"] {
        let answer = here.operator.cancel(&id, reason).await.unwrap();
        assert_eq!(answer, Cancellation::Signalled(lease.job().clone()));
    }
    assert_eq!(here.find(&id).await.unwrap().cancel_requested.as_deref(), Some("first"));
    lease.settle(fail()).await;
    let failed = here.until(&id, JobState::Failed).await;
    assert_eq!(here.operator.cancel(&id, "third").await.unwrap(), Cancellation::AlreadyFinal(JobState::Failed));
    assert_eq!(here.find(&id).await.unwrap(), failed);
}

pub(super) async fn a_request_to_stop_ends_with_the_attempt_that_it_stopped(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut claims = here.claim(1).await;
    for _ in 0..40 {
        let id = here.submit(job()).await;
        let lease = next(&mut claims).await;
        let obey = async {
            lease.lost().await;
            lease.settle(Verdict::Fail { error: "cancelled: no use".to_owned() }).await;
        };
        let (asked, ()) = tokio::join!(there.operator.cancel(&id, "no use"), obey);
        assert!(matches!(asked.unwrap(), Cancellation::Signalled(_)));
        here.until(&id, JobState::Failed).await;
        let put_back = here.operator.retry(&id).await.unwrap();
        assert!(matches!(put_back, Change::Done(_, 1)), "{put_back:?}");
        let lease = next(&mut claims).await;
        let lost = tokio::time::timeout(Duration::from_millis(40), lease.lost()).await;
        assert!(lost.is_err(), "what was put back is stopped again: {lost:?}");
        lease.settle(DONE).await;
        here.until(&id, JobState::Completed).await;
    }
}

pub(super) async fn a_job_is_not_lost_to_a_cancel_of_the_one_before(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    here.operator.set_paused(None, true).await.unwrap();
    for n in 0..60 {
        let id = format!("again-{n}");
        let id = here.submit(job_named(&id)).await;
        let next = async {
            let removed = here.operator.remove(&id).await.unwrap();
            let submitted = here.queue.submit(vec![job_named(id.as_str())], None).await.unwrap().remove(0);
            matches!(removed, Change::Done(..)) && !submitted.duplicate
        };
        let (cancelled, is_new) = tokio::join!(there.operator.cancel(&id, "no use"), next);
        cancelled.unwrap();
        assert!(!is_new || here.find(&id).await.is_some(), "{id} was accepted and is gone");
    }
}

pub(super) async fn promote_makes_a_delayed_job_ready_now(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut promoted = Vec::new();
    for (priority, ready) in [(0, JobState::Waiting), (5, JobState::Prioritized)] {
        let id = here.submit(later(priority)).await;
        let Change::Done(job, 0) = there.operator.promote(&id).await.unwrap() else { panic!("it was delayed") };
        assert_eq!(job.id, id);
        let found = here.find(&id).await.unwrap();
        assert_eq!((found.state, found.due_at), (ready, None));
        assert_eq!(there.operator.promote(&id).await.unwrap(), Change::WrongState(ready));
        promoted.push(id);
    }
    let mut claims = here.claim(1).await;
    for id in promoted {
        assert_eq!(finish(&here, &mut claims, DONE).await, id);
    }
    // One that is promoted while a worker waits comes to it at once.
    let id = here.submit(later(0)).await;
    nothing(&mut claims).await;
    assert!(matches!(there.operator.promote(&id).await.unwrap(), Change::Done(..)));
    assert_eq!(finish(&here, &mut claims, DONE).await, id);
}

pub(super) async fn retry_is_only_for_failed_jobs_and_renews_the_budget(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    assert_eq!(there.operator.retry(&id).await.unwrap(), Change::WrongState(JobState::Waiting));
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    assert_eq!(there.operator.retry(&id).await.unwrap(), Change::WrongState(JobState::Active));
    lease.settle(Verdict::Retry { after: Duration::ZERO, error: "once".to_owned() }).await;
    assert_eq!(finish(&here, &mut claims, fail()).await, id);

    let Change::Done(job, 2) = there.operator.retry(&id).await.unwrap() else { panic!("it had failed") };
    assert_eq!(job.id, id);
    let lease = next(&mut claims).await;
    assert_eq!((lease.attempt().0, lease.attempts_finished(), lease.crashes()), (3, 0, 0));
    let active = here.find(&id).await.unwrap();
    assert_eq!((active.finished_at, active.cancel_requested), (None, None));
    lease.settle(DONE).await;
    here.until(&id, JobState::Completed).await;
    assert_eq!(there.operator.retry(&id).await.unwrap(), Change::WrongState(JobState::Completed));
}

pub(super) async fn remove_takes_out_all_but_running_jobs(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let completed = here.submit(job()).await;
    let failed = here.submit(job()).await;
    let active = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    finish(&here, &mut claims, DONE).await;
    finish(&here, &mut claims, fail()).await;
    let lease = next(&mut claims).await;
    assert_eq!(there.operator.remove(&active).await.unwrap(), Change::WrongState(JobState::Active));
    let waiting = here.submit(job()).await;
    let prioritized = here.submit(job_with(|o| o.priority = 1)).await;
    let delayed = here.submit(later(0)).await;
    for id in [&completed, &failed, &waiting, &prioritized, &delayed] {
        assert!(matches!(there.operator.remove(id).await.unwrap(), Change::Done(job, _) if job.id == *id));
        assert_eq!(here.find(id).await, None);
        assert_eq!(there.operator.remove(id).await.unwrap(), Change::NotFound);
    }
    lease.settle(DONE).await;
    nothing(&mut claims).await;
    assert!(here.find(&active).await.is_some());
}

pub(super) async fn clean_is_bounded_and_takes_the_oldest_first(fixture: Fixture) {
    let here = fixture.instance().await;
    here.queue.submit((0..5).map(|_| job()).collect(), None).await.unwrap();
    let mut claims = here.claim(1).await;
    let mut ended = Vec::new();
    for _ in 0..4 {
        ended.push(finish(&here, &mut claims, DONE).await);
    }
    let failed = finish(&here, &mut claims, fail()).await;
    let clean = |state, older_than, limit| {
        let request = CleanRequest { queue: None, state, older_than, limit };
        async { here.operator.clean(request).await.unwrap() }
    };
    assert_eq!(clean(JobState::Completed, Duration::from_secs(3600), 100).await, 0, "none ended so long ago");
    assert_eq!(clean(JobState::Completed, Duration::ZERO, 0).await, 0);
    assert_eq!(clean(JobState::Completed, Duration::ZERO, 3).await, 3);
    let left = here.queue.find(&ended).await.unwrap();
    assert_eq!(left.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(clean(JobState::Completed, Duration::ZERO, 3).await, 1);
    assert!(here.find(&failed).await.is_some());
    assert_eq!(clean(JobState::Failed, Duration::ZERO, 3).await, 1);
    let request = CleanRequest { queue: None, state: JobState::Waiting, older_than: Duration::ZERO, limit: 1 };
    assert_eq!(here.operator.clean(request).await.unwrap_err().kind, QueueErrorKind::Rejected);
}

pub(super) async fn pages_have_no_gap_and_no_repeat_while_jobs_move(fixture: Fixture) {
    let here = fixture.instance().await;
    let jobs: Vec<_> = here.queue.submit((0..20).map(|_| job()).collect(), None).await.unwrap();
    let stays: Vec<_> = jobs[6..].iter().map(|s| s.id.clone()).collect();
    let mut claims = here.claim(1).await;
    claims.set_concurrency(0);
    let mut request = PageRequest::first(3);
    let mut seen = Vec::new();
    loop {
        let page = here.queue.page(None, JobState::Waiting, request.clone()).await.unwrap();
        assert!(page.items.len() <= 3);
        assert!(page.items.iter().all(|j| j.state == JobState::Waiting));
        seen.extend(page.items.into_iter().map(|j| j.job.id.clone()));
        let Some(next) = page.next else { break };
        request.cursor = Some(next);
        // The first of those that are left goes away, and another comes.
        if here.queue.counts().await.unwrap().completed < 6 {
            claims.set_concurrency(1);
            let lease = super::fixture::next(&mut claims).await;
            claims.set_concurrency(0);
            lease.settle(DONE).await;
            here.submit(job()).await;
        }
    }
    let unique: HashSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len());
    let stayed: Vec<_> = seen.iter().filter(|id| stays.contains(id)).cloned().collect();
    assert_eq!(stayed, stays, "all that stayed, in the order in which they will be taken");

    let completed = here.queue.page(None, JobState::Completed, PageRequest::first(2)).await.unwrap();
    assert_eq!(completed.items.len(), 2);
    assert!(completed.items[0].finished_at >= completed.items[1].finished_at, "newest first");
    let alien = PageRequest { cursor: completed.next, limit: 2 };
    assert_eq!(here.queue.page(None, JobState::Waiting, alien).await.unwrap_err().kind, QueueErrorKind::Rejected);
    let broken = PageRequest { cursor: Some("nonsense".to_owned()), limit: 2 };
    assert_eq!(here.queue.page(None, JobState::Waiting, broken).await.unwrap_err().kind, QueueErrorKind::Rejected);
}

pub(super) async fn counts_tell_every_state(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    here.queue.submit((0..6).map(|_| job()).collect(), None).await.unwrap();
    let mut claims = here.claim(1).await;
    finish(&here, &mut claims, DONE).await;
    finish(&here, &mut claims, fail()).await;
    let _lease = next(&mut claims).await;
    here.queue.submit(vec![later(0), later(7), job_with(|o| o.priority = 1)], None).await.unwrap();
    let counts = there.queue.counts().await.unwrap();
    assert_eq!((counts.waiting, counts.delayed, counts.prioritized), (3, 2, 1));
    assert_eq!((counts.active, counts.completed, counts.failed, counts.paused), (1, 1, 1, false));
    for (state, n) in [
        (JobState::Waiting, 3),
        (JobState::Delayed, 2),
        (JobState::Prioritized, 1),
        (JobState::Active, 1),
        (JobState::Completed, 1),
        (JobState::Failed, 1),
    ] {
        let page = there.queue.page(None, state, PageRequest::first(10)).await.unwrap();
        assert_eq!((page.items.len(), page.next), (n, None), "{state}");
        assert!(page.items.iter().all(|j| j.state == state));
    }
}

pub(super) async fn unknown_jobs_are_told_apart(fixture: Fixture) {
    let here = fixture.instance().await;
    let known = here.submit(job()).await;
    let unknown = JobId::generate();
    let found = here.queue.find(&[unknown.clone(), known.clone(), unknown.clone()]).await.unwrap();
    assert!(found[0].is_none() && found[2].is_none());
    assert_eq!(found[1].as_ref().unwrap().job.id, known);
    assert_eq!(here.operator.cancel(&unknown, "").await.unwrap(), Cancellation::NotFound);
    assert_eq!(here.operator.retry(&unknown).await.unwrap(), Change::NotFound);
    assert_eq!(here.operator.promote(&unknown).await.unwrap(), Change::NotFound);
    assert_eq!(here.operator.remove(&unknown).await.unwrap(), Change::NotFound);
    assert_eq!(here.queue.output(&unknown, 0, Duration::ZERO).await.unwrap(), (0, vec![]));
    here.queue.ping().await.unwrap();
}

fn worker(id: &WorkerId) -> WorkerInfo {
    let now = Clock::system().now();
    WorkerInfo {
        id: id.clone(),
        host: "host".to_owned(),
        pid: std::process::id(),
        version: "0".to_owned(),
        started_at: now,
        last_seen: now,
        slots: 2,
        cores: 4,
        running: 1,
        draining: false,
        unhealthy: None,
        binaries: None,
        builds: None,
        cpus: None,
        memory_bytes: None,
        memory_available_bytes: None,
        jobs: None,
        queues: None,
        labels: Labels::default(),
        resources: ResourceUnits::default(),
        job_memory_bytes: None,
        sandbox: None,
    }
}

pub(super) async fn workers_are_listed_until_they_say_farewell(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let (a, b) = (WorkerId::generate("a"), WorkerId::generate("b"));
    assert!(!here.source.heartbeat(&worker(&a)).await.unwrap());
    assert!(!there.source.heartbeat(&worker(&b)).await.unwrap());
    let busier = WorkerInfo { running: 2, ..worker(&a) };
    here.source.heartbeat(&busier).await.unwrap();
    let listed = there.queue.workers().await.unwrap();
    let found: Vec<_> = listed.iter().map(|w| (&w.id, w.running)).collect();
    assert!(found.len() == 2 && found.contains(&(&a, 2)) && found.contains(&(&b, 1)), "{found:?}");
    assert_eq!(there.source.peers().await.unwrap().len(), 2);
    here.source.farewell(&a).await.unwrap();
    let left = there.queue.workers().await.unwrap();
    assert_eq!(left.iter().map(|w| &w.id).collect::<Vec<_>>(), [&b]);
}

pub(super) async fn a_worker_asked_to_drain_is_told_and_gets_nothing_more(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = WorkerId::generate("a");
    assert!(!there.operator.drain_worker(&id).await.unwrap(), "not known yet");
    assert!(!here.source.heartbeat(&worker(&id)).await.unwrap());
    let options = jobber::queue::ClaimOptions::new(id.clone(), 2, 4);
    let mut claims = here.source.claim(options).await.unwrap();
    here.submit(job()).await;
    let lease = next(&mut claims).await;
    assert!(there.operator.drain_worker(&id).await.unwrap());
    let left = here.submit(job()).await;
    nothing(&mut claims).await;
    assert!(here.source.heartbeat(&worker(&id)).await.unwrap());
    lease.settle(DONE).await;
    nothing(&mut claims).await;
    let mut others = there.claim(1).await;
    assert_eq!(next(&mut others).await.job().id, left);
}
