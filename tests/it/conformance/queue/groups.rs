//! Groups, and how many of their jobs run at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jobber::domain::{AcceptedJob, JobId, JobState, Verdict};
use jobber::queue::{Change, Lease};

use super::fixture::*;

/// A job of the group `g` with this limit.
fn limited(limit: u32) -> AcceptedJob {
    job_with(|options| (options.group, options.group_limit) = (Some("g".parse().unwrap()), Some(limit)))
}

fn id(lease: &Lease) -> JobId {
    lease.job().id.clone()
}

async fn complete(lease: Lease) {
    lease.settle(Verdict::Complete { result: None }).await;
}

pub(super) async fn a_group_runs_no_more_at_once_than_its_limit(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let jobs: Vec<_> = (0..7).map(|_| limited(2)).collect();
    let ids: Vec<_> = jobs.iter().map(|job| job.job.id.clone()).collect();
    here.queue.submit(jobs, None).await.unwrap();
    let other = here.submit(job()).await;
    let (mut mine, mut theirs) = (here.claim(4).await, there.claim(4).await);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(tokio::select! { lease = next(&mut mine) => lease, lease = next(&mut theirs) => lease });
    }
    let taken: HashSet<_> = held.iter().map(id).collect();
    assert_eq!(taken, HashSet::from([ids[0].clone(), ids[1].clone(), other]), "the first, and who is of no group");
    tokio::join!(nothing(&mut mine), nothing(&mut theirs));
    // One that is cancelled before it starts takes no place, and one that is taken out neither.
    here.operator.cancel(&ids[2], "not wanted").await.unwrap();
    assert!(matches!(there.operator.remove(&ids[3]).await.unwrap(), Change::Done(..)));
    tokio::join!(nothing(&mut mine), nothing(&mut theirs));
    // Whichever way one ends, the next comes, in whichever process.
    for (n, expected) in ids[4..].iter().enumerate() {
        let at = held.iter().position(|lease| lease.job().options.group.is_some()).unwrap();
        let ending = held.remove(at);
        if n == 0 {
            ending.settle(Verdict::Fail { error: "broken".to_owned() }).await;
        } else {
            complete(ending).await;
        }
        let came = tokio::select! { lease = next(&mut mine) => lease, lease = next(&mut theirs) => lease };
        assert_eq!(id(&came), *expected, "in the order of submission");
        held.push(came);
        tokio::join!(nothing(&mut mine), nothing(&mut theirs));
    }
}

pub(super) async fn a_group_goes_on_when_its_worker_hangs(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let jobs: Vec<_> = (0..6).map(|_| limited(2)).collect();
    here.queue.submit(jobs, None).await.unwrap();
    let mut mine = here.claim(2).await;
    let lost = (next(&mut mine).await, next(&mut mine).await);
    mine.set_concurrency(0);
    fixture.lapse_leases().await;
    let mut theirs = there.claim(8).await;
    let (mut running, mut taken) = (Vec::new(), HashSet::new());
    for _ in 0..6 {
        let lease = next(&mut theirs).await;
        assert!(taken.insert(id(&lease)), "each comes once more at most");
        running.push(lease);
        if running.len() == 2 {
            nothing(&mut theirs).await;
            complete(running.remove(0)).await;
        }
    }
    complete(running.remove(0)).await;
    drop(lost);
    nothing(&mut theirs).await;
}

pub(super) async fn a_retried_job_waits_for_the_limit_of_its_group(fixture: Fixture) {
    let here = fixture.instance().await;
    let jobs: Vec<_> = (0..3).map(|_| limited(1)).collect();
    let ids: Vec<_> = jobs.iter().map(|job| job.job.id.clone()).collect();
    here.queue.submit(jobs, None).await.unwrap();
    let mut claims = here.claim(4).await;
    for expected in &ids {
        let lease = next(&mut claims).await;
        assert_eq!(id(&lease), *expected);
        lease.settle(Verdict::Fail { error: "broken".to_owned() }).await;
        here.until(expected, JobState::Failed).await;
    }
    for id in &ids {
        assert!(matches!(here.operator.retry(id).await.unwrap(), Change::Done(..)));
    }
    for _ in 0..3 {
        let lease = next(&mut claims).await;
        assert_eq!(lease.attempts_finished(), 0, "with a fresh budget");
        nothing(&mut claims).await;
        complete(lease).await;
    }
    nothing(&mut claims).await;
    assert!(matches!(here.operator.retry(&ids[0]).await.unwrap(), Change::WrongState(JobState::Completed)));
}

pub(super) async fn a_job_of_a_limited_group_may_wait_for_a_time_and_for_others(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(limited(1)).await;
    let mut late = limited(1);
    Arc::make_mut(&mut late.job).options.delay = Duration::from_secs(3600);
    let late = here.submit(late).await;
    let mut after = limited(1);
    Arc::make_mut(&mut after.job).options.after = vec![first.clone()];
    let after = here.submit(after).await;
    let mut claims = here.claim(4).await;
    let lease = next(&mut claims).await;
    assert_eq!(id(&lease), first);
    nothing(&mut claims).await;
    complete(lease).await;
    let lease = next(&mut claims).await;
    assert_eq!(id(&lease), after, "the one with a delay holds up nobody");
    assert!(here.find(&late).await.unwrap().due_at.is_some());
    assert!(matches!(here.operator.promote(&late).await.unwrap(), Change::Done(..)));
    nothing(&mut claims).await;
    complete(lease).await;
    assert_eq!(id(&next(&mut claims).await), late);
}

pub(super) async fn a_repeated_submission_changes_nothing_in_a_limited_group(fixture: Fixture) {
    let here = fixture.instance().await;
    let named = |n: u32| {
        let (AcceptedJob { job, .. }, limited) = (job_named(&format!("sim-{n}")), limited(2));
        let mut named = limited;
        Arc::make_mut(&mut named.job).id = job.id.clone();
        named
    };
    let submit = async || here.queue.submit((0..5).map(named).collect(), None).await.unwrap();
    assert!(submit().await.iter().all(|submission| !submission.duplicate));
    assert!(submit().await.iter().all(|submission| submission.duplicate));
    let mut claims = here.claim(5).await;
    let held = (next(&mut claims).await, next(&mut claims).await);
    nothing(&mut claims).await;
    submit().await;
    nothing(&mut claims).await;
    complete(held.0).await;
    complete(held.1).await;
    submit().await;
    for _ in 0..3 {
        complete(next(&mut claims).await).await;
    }
    nothing(&mut claims).await;
}

pub(super) async fn however_many_end_at_once_the_limit_of_a_group_holds(fixture: Fixture) {
    const JOBS: usize = 120;
    const LIMIT: usize = 5;
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let submit = async |instance: &Instance| {
        for _ in 0..3 {
            let jobs = (0..JOBS / 6).map(|_| limited(LIMIT as u32)).collect();
            instance.queue.submit(jobs, None).await.unwrap();
        }
    };
    let running = Arc::new(AtomicUsize::new(0));
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let work = async |instance: &Instance| {
        let mut claims = instance.claim(8).await;
        while let Some(lease) = claims.next().await {
            let (running, ended) = (running.clone(), ended.clone());
            tokio::spawn(async move {
                let beside = running.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                // The place is free when the job has ended, which is after this.
                running.fetch_sub(1, Ordering::SeqCst);
                complete(lease).await;
                ended.send(beside).unwrap();
            });
        }
    };
    let all_ended = async {
        tokio::join!(submit(&here), submit(&there));
        let mut most = 0;
        for _ in 0..JOBS {
            most = most.max(ends.recv().await.unwrap());
        }
        most
    };
    let most = tokio::select! {
        most = soon(all_ended) => most,
        ((), ()) = async { tokio::join!(work(&here), work(&there)) } => unreachable!("claiming goes on"),
    };
    assert!((2..=LIMIT).contains(&most), "{most} at once");
}
