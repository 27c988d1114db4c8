//! An end and the events that tell of it are written together, or the lease is held as before.

use super::super::ledger::Claim;
use super::super::schema::LeaseId;
use super::*;
use crate::domain::{EventKind, FinalState, Job, Outcome, Stream};
use crate::queue::{Lease, LeaseLoss, OutputChunk};

const COMPLETE: Verdict = Verdict::Complete { result: None };

fn finished(job: &Arc<Job>) -> [Event; 1] {
    let kind = EventKind::Finished {
        attempt: None,
        state: FinalState::Completed,
        outcome: Outcome::Exit { code: 0 },
        result: None,
        error: None,
    };
    [Event::new(Timestamp::from_millis(1), job.clone(), kind)]
}

/// A job that was submitted, and its lease.
async fn held(bench: &Bench) -> (AcceptedJob, Lease) {
    let job = bench.job(|_| {});
    bench.submit(job.clone()).await;
    (job, bench.claim("w", 1).await.next().await.unwrap())
}

/// Whether the queue has not told the holder of the lease to stop.
async fn is_held(lease: &Lease) -> bool {
    futures_util::future::poll_immediate(lease.lost()).await.is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_and_its_events_are_one_commit() {
    let (bench, log) = Bench::with_log(1000).await;
    let jobs: Vec<_> = (0..40).map(|_| bench.job(|_| {})).collect();
    bench.queue.submit(jobs.clone(), None).await.unwrap();
    let mut claims = bench.claim("w", jobs.len()).await;
    let mut leases = Vec::new();
    for _ in 0..jobs.len() {
        leases.push(claims.next().await.unwrap());
    }
    let mut commits = Vec::new();
    for lease in leases {
        let events = finished(lease.job());
        let before = bench.work.runs("COMMIT");
        lease.conclude(&events, &COMPLETE).await.unwrap();
        commits.push(bench.work.runs("COMMIT") - before);
    }
    commits.sort_unstable();
    assert_eq!(commits[20], 1, "the median, since the queue's own tasks write too");
    let told = log.read(Cursor::START, 1000, Duration::ZERO).await.unwrap();
    assert_eq!(told.len(), 40 + 40);
    assert_eq!(bench.queue.counts().await.unwrap().completed, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_in_the_log_the_lease_is_held_and_nothing_is_written() {
    let (bench, log) = Bench::with_log(1).await;
    let (job, lease) = held(&bench).await;
    let id = &job.job.id;
    let said = OutputChunk { attempt: 1, stream: Stream::Stdout, at: None, bytes: b"last words".to_vec() };
    lease.publisher().output(said.clone());

    let events = finished(&job.job);
    let lease = lease.conclude(&events, &COMPLETE).await.unwrap_err();
    assert!(is_held(&lease).await);
    assert_eq!(bench.queue.counts().await.unwrap().active, 1);
    let last = log.span().await.unwrap().last;
    // What it said is published as if nothing had happened.
    let (place, chunks) = bench.queue.output(id, 0, Duration::from_secs(60)).await.unwrap();
    assert_eq!(chunks, [said]);

    log.trim(last).await.unwrap();
    lease.conclude(&events, &COMPLETE).await.unwrap();
    assert_eq!(bench.queue.counts().await.unwrap().completed, 1);
    assert_eq!(log.read(last, 10, Duration::ZERO).await.unwrap().len(), 1);
    assert!(bench.queue.output(id, place, Duration::ZERO).await.unwrap().1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_log_lies_elsewhere_the_holder_records_first() {
    let bench = Bench::with(QueueSettings::default()).await;
    let (job, lease) = held(&bench).await;
    let lease = lease.conclude(&finished(&job.job), &COMPLETE).await.unwrap_err();
    assert!(is_held(&lease).await);
    lease.settle(COMPLETE).await;
    assert_eq!(bench.queue.counts().await.unwrap().completed, 1);
}

/// Others may have the job by then: what was lost first is told of its end, and history of both.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lost_lease_is_in_the_log_and_changes_nothing() {
    let (bench, log) = Bench::with_log(10).await;
    let (job, lease) = held(&bench).await;
    bench.change("UPDATE queue_jobs SET claim = NULL, state = 0").await;
    lease.conclude(&finished(&job.job), &COMPLETE).await.unwrap();
    assert_eq!(bench.queue.counts().await.unwrap().completed, 0);
    assert_eq!(log.span().await.unwrap().length, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_was_not_written_gives_the_lease_back_with_what_it_has_become() {
    let bench = Bench::with(QueueSettings::default()).await;
    let claim = Arc::new(Claim::new(bench.queue.inner.clone(), ClaimOptions::new(WorkerId::parse("w").unwrap(), 1, 1)));
    for is_lost in [false, true] {
        let session = claim.session().await.unwrap().id;
        let lease = LeaseId { seq: 1, number: 1, claim: session };
        let (loss, _) = claim.enter(lease, 0, None);
        let settling = claim.begin_settling(lease);
        assert_eq!((claim.held(), claim.is_idle()), (0, false));
        if is_lost {
            claim.lose(session);
        }
        settling.undo();
        assert_eq!((claim.held(), claim.is_idle()), (1, false));
        assert_eq!(*loss.borrow(), is_lost.then_some(LeaseLoss::Expired));
        drop(claim.begin_settling(lease));
        assert!(claim.is_idle());
    }
}
