//! Jobs in a worker's hands: verdicts, losses, requests to stop, output.

use std::time::Duration;

use jobber::domain::{AcceptedJob, Clock, JobBody, JobId, JobState, Progress, RawJson, Stream, Verdict};
use jobber::queue::{Cancellation, Change, Lease, LeaseLoss, OutputChunk};
use serde_json::json;

use super::fixture::*;

fn fail(error: &str) -> Verdict {
    Verdict::Fail { error: error.to_owned() }
}

fn retry(after: Duration) -> Verdict {
    Verdict::Retry { after, error: "not yet".to_owned() }
}

fn chunk(stream: Stream, text: &str) -> OutputChunk {
    OutputChunk { attempt: 1, stream, at: None, bytes: text.into() }
}

pub(super) async fn dropped_lease_uses_no_attempt(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job_with(|o| o.priority = 3)).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    drop(lease);
    let back = here.until(&id, JobState::Prioritized).await;
    assert_eq!((back.attempts_started, back.attempts_finished), (0, 0));
    assert_eq!((back.worker, back.error), (None, None));
    claims.set_concurrency(1);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (1, 0, 0));
    assert!(lease.publisher().started().await);
    // On a thread that knows of no runtime.
    std::thread::spawn(move || drop(lease)).join().unwrap();
    assert_eq!(numbers(&next(&mut claims).await), (2, 0, 0));
}

/// Attempt number, attempts that were spent, attempts in a row that were lost.
fn numbers(lease: &Lease) -> (u32, u32, u32) {
    (lease.attempt().0, lease.attempts_finished(), lease.crashes())
}

/// Lets all leases run out; the holder of this one hears of it.
async fn lapse(fixture: &Fixture, lease: &Lease) {
    fixture.lapse_leases().await;
    assert_eq!(soon(lease.lost()).await, LeaseLoss::Expired);
}

pub(super) async fn a_lease_that_started_nothing_leaves_its_number(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    drop(next(&mut claims).await);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (1, 0, 0), "one was given back");
    assert!(lease.publisher().started().await);
    lease.withdraw();
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (1, 0, 0), "another was withdrawn");
    lapse(&fixture, &lease).await;
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (1, 0, 0), "a third lapsed, and was no crash");
    assert!(lease.publisher().started().await);
    lapse(&fixture, &lease).await;
    assert!(!lease.publisher().started().await, "nothing is started under a lease that is over");
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (2, 0, 1), "this one was");
    lapse(&fixture, &lease).await;
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (2, 0, 1), "and stays one");
    lease.settle(Verdict::Complete { result: None }).await;
    assert_eq!(here.until(&id, JobState::Completed).await.attempts_started, 2);
}

pub(super) async fn a_job_that_is_put_off_waits_and_spends_nothing(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let before = Clock::system().now();
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    let after = Duration::from_millis(700);
    lease.settle(Verdict::PutOff { after }).await;
    let delayed = here.until(&id, JobState::Delayed).await;
    assert_eq!((delayed.attempts_started, delayed.attempts_finished, delayed.error), (0, 0, None));
    assert!(delayed.due_at.is_some_and(|due| due >= before + after));
    claims.set_concurrency(1);
    let lease = next(&mut claims).await;
    assert!(Clock::system().now() >= delayed.due_at.unwrap());
    assert_eq!(numbers(&lease), (1, 0, 0));
    here.operator.cancel(&id, "no longer wanted").await.unwrap();
    soon(lease.lost()).await;
    lease.settle(Verdict::PutOff { after: Duration::from_secs(600) }).await;
    let lease = next(&mut claims).await;
    assert_eq!(soon(lease.lost()).await, LeaseLoss::Cancelled("no longer wanted".to_owned()), "nobody waits for that");
}

pub(super) async fn a_job_is_found_without_its_data_by_those_who_need_none(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let job = job_with(|o| (o.priority, o.attempts) = (3, 4));
    let body = JobBody::new(vec!["a".to_owned()], Some(&RawJson::from(&json!({"much": [1, 2]}))));
    let id = here.submit(AcceptedJob { body: body.clone(), ..job }).await;
    let nobody = JobId::generate();
    let same = async || {
        let ids = [id.clone(), nobody.clone()];
        let found = there.queue.standing(&ids).await.unwrap();
        assert_eq!(found[1], None);
        let found = found[0].clone().unwrap();
        let mut whole = there.find(&id).await.unwrap();
        assert_eq!(whole.body.take(), Some(body.clone()));
        whole.result = None;
        // What stands within the data, as far as a queue keeps it there.
        assert_eq!(
            (&found.job.id, &found.job.name, found.job.submitted_at),
            (&id, &whole.job.name, whole.job.submitted_at)
        );
        whole.job = found.job.clone();
        assert_eq!(found, whole);
    };
    same().await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    lease.publisher().progress(&Progress { percent: 5.0, text: String::new() });
    there.until_it(&id, |job| job.progress.is_some()).await;
    same().await;
    lease.settle(retry(Duration::from_secs(600))).await;
    there.until(&id, JobState::Delayed).await;
    same().await;
    there.operator.promote(&id).await.unwrap();
    claims.set_concurrency(1);
    next(&mut claims).await.settle(Verdict::Complete { result: Some(json!(1)) }).await;
    there.until(&id, JobState::Completed).await;
    same().await;
}

pub(super) async fn complete_keeps_the_result(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let before = Clock::system().now();
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    let active = there.until(&id, JobState::Active).await;
    assert!(active.worker.is_some());
    lease.settle(Verdict::Complete { result: Some(json!({"answer": [42]})) }).await;
    let done = there.until(&id, JobState::Completed).await;
    assert_eq!((done.result, done.error, done.worker), (Some(json!({"answer": [42]})), None, None));
    assert!(done.finished_at.is_some_and(|at| at >= before));
}

pub(super) async fn fail_is_final(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job_with(|o| o.attempts = 9)).await;
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(fail("broken")).await;
    let failed = here.until(&id, JobState::Failed).await;
    assert_eq!((failed.error.as_deref(), failed.attempts_finished), (Some("broken"), 1));
    assert!(failed.finished_at.is_some());
    nothing(&mut claims).await;
}

pub(super) async fn retry_delays_and_spends_an_attempt(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let before = Clock::system().now();
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    lease.settle(retry(Duration::from_millis(700))).await;
    let delayed = here.until(&id, JobState::Delayed).await;
    assert_eq!(delayed.attempts_finished, 1);
    assert_eq!(delayed.error.as_deref(), Some("not yet"));
    assert!(delayed.due_at.is_some_and(|due| due >= before + Duration::from_millis(700)));
    claims.set_concurrency(1);
    let lease = next(&mut claims).await;
    assert!(Clock::system().now() >= delayed.due_at.unwrap());
    assert_eq!((lease.attempt().0, lease.attempts_finished()), (2, 1));
}

pub(super) async fn retry_without_delay_is_ready_at_once(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job_with(|o| o.priority = 1)).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    lease.settle(retry(Duration::ZERO)).await;
    let ready = here.until(&id, JobState::Prioritized).await;
    assert_eq!((ready.attempts_finished, ready.due_at), (1, None));
}

pub(super) async fn starts_finishes_and_crashes_are_counted_apart(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (1, 0, 0));
    lease.settle(retry(Duration::ZERO)).await;
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (2, 1, 0));
    assert!(lease.publisher().started().await);
    lapse(&fixture, &lease).await;
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (3, 1, 1));
    drop(lease);
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (3, 1, 1), "giving back is no crash, and no proof of health");
    lease.settle(retry(Duration::ZERO)).await;
    let lease = next(&mut claims).await;
    assert_eq!(numbers(&lease), (4, 2, 0), "a finished attempt is");
    lease.settle(fail("enough")).await;
    let failed = here.until(&id, JobState::Failed).await;
    assert_eq!((failed.attempts_started, failed.attempts_finished), (4, 3));
}

pub(super) async fn a_lapsed_lease_goes_to_another_with_one_crash_more(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lost = next(&mut claims).await;
    assert!(lost.publisher().started().await);
    claims.set_concurrency(0);
    let mut theirs = there.claim(1).await;
    nothing(&mut theirs).await;
    fixture.lapse_leases().await;
    let lease = next(&mut theirs).await;
    assert_eq!((&lease.job().id, lease.attempt().0), (&id, 2));
    assert_eq!((lease.attempts_finished(), lease.crashes()), (0, 1));
    drop(lost);
    lease.settle(Verdict::Complete { result: None }).await;
    here.until(&id, JobState::Completed).await;
}

pub(super) async fn a_lost_lease_fires_loss_and_settles_nothing(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lost = next(&mut claims).await;
    claims.set_concurrency(0);
    let mut theirs = there.claim(1).await;
    fixture.lapse_leases().await;
    let lease = next(&mut theirs).await;
    assert_eq!(soon(lost.lost()).await, LeaseLoss::Expired);
    lost.publisher().output(chunk(Stream::Stdout, "late"));
    lost.settle(fail("too late")).await;
    let active = here.find(&id).await.unwrap();
    assert_eq!((active.state, active.error, active.attempts_finished), (JobState::Active, None, 0));
    lease.settle(Verdict::Complete { result: Some(json!(1)) }).await;
    assert_eq!(here.until(&id, JobState::Completed).await.result, Some(json!(1)));
    assert_eq!(here.queue.output(&id, 0, Duration::ZERO).await.unwrap().1, []);
    // The worker that lost its lease goes on with others.
    claims.set_concurrency(1);
    drop(theirs);
    let another = here.submit(job()).await;
    assert_eq!(next(&mut claims).await.job().id, another);
}

pub(super) async fn cancel_reaches_the_holder_in_another_process(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let ids = here.queue.submit(vec![job(), job()], None).await.unwrap();
    let mut claims = here.claim(2).await;
    // Two that were taken together may arrive in either order.
    let (one, other) = (next(&mut claims).await, next(&mut claims).await);
    let (first, second) = if one.job().id == ids[0].id { (one, other) } else { (other, one) };
    let answer = there.operator.cancel(&ids[0].id, "no longer wanted").await.unwrap();
    assert_eq!(answer, Cancellation::Signalled(first.job().clone()));
    let loss = tokio::time::timeout(Duration::from_secs(4), first.lost()).await.expect("told, not polled");
    assert_eq!(loss, LeaseLoss::Cancelled("no longer wanted".to_owned()));
    let asked = here.find(&ids[0].id).await.unwrap();
    assert_eq!((asked.state, asked.cancel_requested.as_deref()), (JobState::Active, Some("no longer wanted")));
    // The lease is still held, and its verdict counts.
    first.settle(fail("cancelled")).await;
    assert_eq!(here.until(&ids[0].id, JobState::Failed).await.error.as_deref(), Some("cancelled"));
    let quiet = tokio::time::timeout(Duration::from_millis(300), second.lost()).await;
    assert!(quiet.is_err(), "the other job was not asked to stop");
}

pub(super) async fn cancel_reaches_a_job_that_is_just_being_taken(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut claims = here.claim(1).await;
    for _ in 0..100 {
        let id = here.submit(job()).await;
        if let Cancellation::Ended(_) = there.operator.cancel(&id, "at once").await.unwrap() {
            continue;
        }
        let lease = next(&mut claims).await;
        let loss = tokio::time::timeout(Duration::from_secs(4), lease.lost()).await.expect("told, not polled");
        assert_eq!(loss, LeaseLoss::Cancelled("at once".to_owned()));
        lease.settle(fail("cancelled")).await;
    }
}

pub(super) async fn cancel_is_signalled_however_soon_the_holder_obeys(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let mut claims = here.claim(1).await;
    for _ in 0..100 {
        let id = here.submit(job()).await;
        let lease = next(&mut claims).await;
        let obey = async {
            soon(lease.lost()).await;
            lease.settle(fail("cancelled: at once")).await;
        };
        let (answer, ()) = tokio::join!(there.operator.cancel(&id, "at once"), obey);
        assert!(matches!(answer, Ok(Cancellation::Signalled(_))), "{answer:?}");
    }
}

pub(super) async fn cancel_survives_the_holder(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    claims.set_concurrency(0);
    there.operator.cancel(&id, "stop").await.unwrap();
    soon(lease.lost()).await;
    drop(lease);
    let mut theirs = there.claim(1).await;
    let lease = next(&mut theirs).await;
    assert_eq!(soon(lease.lost()).await, LeaseLoss::Cancelled("stop".to_owned()));
    lease.settle(fail("cancelled")).await;
    here.until(&id, JobState::Failed).await;
    // A retry starts afresh.
    let Change::Done(..) = here.operator.retry(&id).await.unwrap() else { panic!("it had failed") };
    let lease = next(&mut theirs).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), lease.lost()).await.is_err());
}

pub(super) async fn output_reaches_a_watcher_in_another_process(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    let long = Duration::from_secs(600);
    let watch = there.queue.output(&id, 0, long);
    lease.publisher().output(chunk(Stream::Stdout, "one\n"));
    let (after, chunks) = soon(watch).await.unwrap();
    assert_eq!(chunks, [chunk(Stream::Stdout, "one\n")]);
    lease.publisher().output(chunk(Stream::Stderr, "two\n"));
    lease.publisher().output(chunk(Stream::Stdout, "three"));
    // The last words are there when the job has ended.
    lease.settle(Verdict::Complete { result: None }).await;
    let (mut at, mut rest) = (after, Vec::new());
    while rest.len() < 2 {
        let (next, chunks) = soon(there.queue.output(&id, at, long)).await.unwrap();
        assert!(!chunks.is_empty(), "nothing more comes, but only {rest:?} came");
        (at, rest) = (next, [rest, chunks].concat());
    }
    assert_eq!(rest, [chunk(Stream::Stderr, "two\n"), chunk(Stream::Stdout, "three")]);
    assert_eq!(there.queue.output(&id, at, Duration::ZERO).await.unwrap(), (at, vec![]));
    let (_, all) = there.queue.output(&id, 0, Duration::ZERO).await.unwrap();
    assert_eq!(all.len(), 3);
    here.operator.remove(&id).await.unwrap();
    assert_eq!(there.queue.output(&id, 0, Duration::ZERO).await.unwrap().1, []);
}

async fn kept_output(here: &Instance, id: &JobId) -> String {
    let (mut at, mut kept) = (0, String::new());
    loop {
        let (next, chunks) = here.queue.output(id, at, Duration::ZERO).await.unwrap();
        if chunks.is_empty() {
            return kept;
        }
        at = next;
        kept.extend(chunks.into_iter().map(|c| String::from_utf8(c.bytes).unwrap()));
    }
}

pub(super) async fn output_is_bounded_and_keeps_the_end(fixture: Fixture) {
    let here = fixture.instance().await;
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    let mut at = 0;
    for _ in 0..8 {
        for _ in 0..8 {
            lease.publisher().output(chunk(Stream::Stdout, &"x".repeat(Fixture::OUTPUT / 16)));
        }
        // Published before more is said, so that it is not the buffer that keeps the bound.
        at = soon(here.queue.output(&id, at, Duration::from_secs(600))).await.unwrap().0;
    }
    let long_end = "y".repeat(3 * Fixture::OUTPUT);
    let kept = kept_output(&here, &id).await;
    assert!(kept.len() <= Fixture::OUTPUT * 5 / 4, "{} bytes while it runs", kept.len());
    lease.publisher().output(chunk(Stream::Stdout, &format!("{long_end}é-the-end")));
    lease.settle(Verdict::Complete { result: None }).await;
    here.until(&id, JobState::Completed).await;
    let kept = kept_output(&here, &id).await;
    assert!(kept.ends_with("é-the-end"));
    assert!(kept.len() <= Fixture::OUTPUT * 5 / 4, "{} bytes", kept.len());
}

pub(super) async fn progress_is_shown_while_a_job_runs(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    let last = Progress { percent: 62.5, text: "rows".to_owned() };
    lease.publisher().progress(&Progress { percent: 1.0, text: String::new() });
    lease.publisher().progress(&last);
    there.until_it(&id, |job| job.progress.as_ref() == Some(&last)).await;
    lease.settle(retry(Duration::ZERO)).await;
    let _lease = next(&mut claims).await;
    assert_eq!(there.until(&id, JobState::Active).await.progress, None);
}
