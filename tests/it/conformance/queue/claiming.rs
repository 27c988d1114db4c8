//! Jobs out: who gets which, when, in which order.

use std::collections::HashMap;
use std::time::Duration;

use jobber::domain::{Clock, JobState, Verdict, WorkerId};
use jobber::queue::{ClaimOptions, Claims};
use tokio::time::timeout;

use super::fixture::*;

pub(super) async fn submitted_job_is_claimed_once(fixture: Fixture) {
    const JOBS: usize = 500;
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut claims: Vec<Claims> = Vec::new();
    for _ in 0..2 {
        claims.push(here.claim(4).await);
        claims.push(there.claim(4).await);
    }
    let (seen, mut came) = tokio::sync::mpsc::channel(JOBS * 2);
    let takers: Vec<_> = claims
        .into_iter()
        .map(|mut claims| {
            let seen = seen.clone();
            async move {
                while let Some(lease) = claims.next().await {
                    seen.send((lease.job().id.clone(), lease.attempt().0)).await.unwrap();
                    lease.settle(Verdict::Complete { result: None }).await;
                }
            }
        })
        .collect();
    let taking = futures_util::future::join_all(takers);
    let submitting = async {
        for batch in 0..10 {
            let jobs = (0..JOBS / 10).map(|_| job()).collect();
            [&here, &there][batch % 2].queue.submit(jobs, None).await.unwrap();
        }
        let mut starts = HashMap::new();
        for _ in 0..JOBS {
            let (id, attempt) = soon(came.recv()).await.unwrap();
            assert_eq!(attempt, 1);
            *starts.entry(id).or_insert(0) += 1;
        }
        assert_eq!(starts.len(), JOBS);
        soon(async {
            while here.queue.counts().await.unwrap().completed < JOBS as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert!(came.try_recv().is_err(), "a job was handed out twice");
    };
    tokio::select! {
        _ = taking => panic!("claiming ended"),
        () = submitting => {}
    }
}

pub(super) async fn jobs_come_by_priority_then_by_submission(fixture: Fixture) {
    let here = fixture.instance().await;
    let jobs: Vec<_> = [5, 0, 1, 5, 0, 2_097_151, 1].map(|priority| job_with(|o| o.priority = priority)).into();
    for job in &jobs {
        here.submit(job.clone()).await;
    }
    let mut claims = here.claim(1).await;
    for expected in [1, 4, 2, 6, 0, 3, 5] {
        let lease = next(&mut claims).await;
        assert_eq!(lease.job().id, jobs[expected].job.id);
        lease.settle(Verdict::Complete { result: None }).await;
    }
}

pub(super) async fn a_delayed_job_does_not_come_before_it_is_due(fixture: Fixture) {
    let here = fixture.instance().await;
    let mut claims = here.claim(1).await;
    let delay = Duration::from_millis(400);
    let delayed = job_with(|o| o.delay = delay);
    let id = here.submit(delayed.clone()).await;
    let found = here.find(&id).await.unwrap();
    assert_eq!((found.state, found.due_at), (JobState::Delayed, Some(delayed.job.submitted_at + delay)));
    // One that is ready goes first, though it was submitted later.
    let ready = here.submit(job()).await;
    let lease = next(&mut claims).await;
    assert_eq!(lease.job().id, ready);
    lease.settle(Verdict::Complete { result: None }).await;
    // Far below any fallback poll.
    let lease = timeout(Duration::from_secs(4), claims.next()).await.unwrap().unwrap();
    assert_eq!(lease.job().id, id);
    assert!(Clock::system().now() >= delayed.job.submitted_at + delay);
}

pub(super) async fn a_paused_queue_hands_nothing_out_in_any_process(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let running = here.submit(job()).await;
    let mut claims = here.claim(2).await;
    let lease = next(&mut claims).await;
    there.operator.set_paused(None, true).await.unwrap();
    assert!(here.queue.counts().await.unwrap().paused);
    let waiting = here.submit(job()).await;
    nothing(&mut claims).await;
    lease.settle(Verdict::Complete { result: None }).await;
    here.until(&running, JobState::Completed).await;
    // A process that is started later finds it paused.
    let later = fixture.instance().await;
    let mut late_claims = later.claim(1).await;
    nothing(&mut late_claims).await;
    later.operator.set_paused(None, false).await.unwrap();
    let lease = timeout(Duration::from_secs(4), async {
        tokio::select! { l = claims.next() => l, l = late_claims.next() => l }
    });
    assert_eq!(lease.await.unwrap().unwrap().job().id, waiting);
    assert!(!here.queue.counts().await.unwrap().paused);
}

pub(super) async fn a_waiting_claimer_is_woken_by_another_process(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut claims = here.claim(1).await;
    nothing(&mut claims).await;
    for _ in 0..3 {
        let id = there.submit(job()).await;
        let lease = timeout(Duration::from_secs(3), claims.next()).await.expect("woken, not polled").unwrap();
        assert_eq!(lease.job().id, id);
        lease.settle(Verdict::Complete { result: None }).await;
    }
    // The same for a job that another process gives back: whichever of the two takes it gives it back to the other.
    let mut theirs = there.claim(1).await;
    there.submit(job()).await;
    let (lease, holder, other) = soon(async {
        tokio::select! {
            lease = claims.next() => (lease, &claims, &mut theirs),
            lease = theirs.next() => (lease, &theirs, &mut claims),
        }
    })
    .await;
    // It has no room while it holds this one, so it takes nothing between this and the drop.
    holder.set_concurrency(0);
    nothing(other).await;
    drop(lease.expect("claiming goes on"));
    let lease = timeout(Duration::from_secs(3), other.next()).await.expect("woken, not polled").unwrap();
    assert_eq!(lease.attempt().0, 1);
}

pub(super) async fn jobs_that_ask_for_too_many_cores_are_left_to_others(fixture: Fixture) {
    let here = fixture.instance().await;
    let large = here.submit(job_with(|o| o.cores = Some(9))).await;
    let small = here.submit(job_with(|o| o.cores = Some(4))).await;
    let mut claims = here.claim(2).await;
    // Held: given back, it could be the next that the other worker takes.
    let held = next(&mut claims).await;
    assert_eq!(held.job().id, small);
    let worker = WorkerId::generate("large");
    let mut wide = here.source.claim(ClaimOptions::new(worker, 1, 9)).await.unwrap();
    assert_eq!(next(&mut wide).await.job().id, large);
}

pub(super) async fn concurrency_is_never_exceeded_and_can_change(fixture: Fixture) {
    let here = fixture.instance().await;
    here.queue.submit((0..10).map(|_| job()).collect(), None).await.unwrap();
    let mut claims = here.claim(2).await;
    let mut held = vec![next(&mut claims).await, next(&mut claims).await];
    nothing(&mut claims).await;
    claims.set_concurrency(3);
    held.push(next(&mut claims).await);
    nothing(&mut claims).await;
    claims.set_concurrency(1);
    for lease in held.drain(..2) {
        lease.settle(Verdict::Complete { result: None }).await;
    }
    nothing(&mut claims).await;
    assert_eq!(here.queue.counts().await.unwrap().active, 1);
    let dropped = held.remove(0).job().id.clone();
    assert!(held.is_empty());
    // The one just dropped, which has kept its place.
    assert_eq!(next(&mut claims).await.job().id, dropped);
}

pub(super) async fn closing_gives_back_what_nobody_took(fixture: Fixture) {
    let here = fixture.instance().await;
    let ids: Vec<_> = here.queue.submit((0..4).map(|_| job()).collect(), None).await.unwrap();
    let mut claims = here.claim(3).await;
    let lease = next(&mut claims).await;
    // Any of the three: jobs that are taken side by side may overtake each other.
    let taken = lease.job().id.clone();
    here.until(&ids[2].id, JobState::Active).await;
    claims.close().await;
    for given_back in ids.iter().filter(|submission| submission.id != taken) {
        let found = here.until(&given_back.id, JobState::Waiting).await;
        assert_eq!(found.attempts_finished, 0);
    }
    // The lease that was out is still good.
    assert_eq!(here.find(&taken).await.unwrap().state, JobState::Active);
    lease.settle(Verdict::Complete { result: None }).await;
    here.until(&taken, JobState::Completed).await;
    assert_eq!(here.queue.counts().await.unwrap().waiting, 3);
}

pub(super) async fn a_retried_or_released_job_keeps_its_place(fixture: Fixture) {
    let here = fixture.instance().await;
    let ids: Vec<_> = here.queue.submit((0..3).map(|_| job()).collect(), None).await.unwrap();
    let mut claims = here.claim(1).await;
    drop(next(&mut claims).await);
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.attempt().0), (&ids[0].id, 1));
    lease.settle(Verdict::Retry { after: Duration::ZERO, error: "again".to_owned() }).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.attempt().0), (&ids[0].id, 2));
    lease.settle(Verdict::Complete { result: None }).await;
    assert_eq!(next(&mut claims).await.job().id, ids[1].id);
}
