//! Jobs in: what is taken, what is a duplicate.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AcceptedJob, Clock, Deduplication, Job, JobBody, JobId, JobName, JobOptions, JobState, RawJson, RunOption, Verdict,
};
use jobber::queue::{Change, CleanRequest, Idempotency, QueueErrorKind};
use serde_json::json;

use super::fixture::*;
use super::placing::claim_with;

fn keyed(key: &str, ttl: Option<Duration>) -> AcceptedJob {
    job_with(|o| o.deduplication = Some(Deduplication { key: key.to_owned(), ttl }))
}

pub(super) async fn deduplication_without_ttl_holds_until_the_job_has_ended(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let first = here.submit(keyed("k", None)).await;
    assert_eq!(there.resubmit(keyed("k", None)).await, (first.clone(), true));
    here.submit(keyed("another", None)).await;
    here.submit(job()).await;

    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    assert_eq!(lease.job().id, first);
    assert_eq!(there.resubmit(keyed("k", None)).await, (first.clone(), true), "taken while it runs");
    lease.settle(Verdict::Complete { result: None }).await;
    let (second, duplicate) = there.resubmit(keyed("k", None)).await;
    assert!(!duplicate && second != first);

    let batch = there.queue.submit(vec![keyed("b", None), keyed("b", None)], None).await.unwrap();
    assert_eq!((batch[0].duplicate, batch[1].duplicate), (false, true));
    assert_eq!(batch[0].id, batch[1].id);
}

pub(super) async fn deduplication_with_ttl_holds_until_it_has_passed(fixture: Fixture) {
    let here = fixture.instance().await;
    let long = Some(Duration::from_secs(3600));
    let first = here.submit(keyed("long", long)).await;
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
    here.until(&first, JobState::Completed).await;
    assert_eq!(here.resubmit(keyed("long", long)).await, (first, true), "taken although the job has ended");

    let ttl = Duration::from_millis(500);
    let before = Clock::system().now();
    let short = here.submit(keyed("short", Some(ttl))).await;
    let freed = soon(async {
        loop {
            let (id, duplicate) = here.resubmit(keyed("short", Some(ttl))).await;
            if !duplicate {
                return id;
            }
            assert_eq!(id, short);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_ne!(freed.await, short);
    assert!(Clock::system().now().since(before) >= ttl);
}

pub(super) async fn a_key_is_free_when_its_job_has_left_the_queue(fixture: Fixture) {
    let here = fixture.instance().await;
    let clean = |state| CleanRequest { queue: None, state, older_than: Duration::ZERO, limit: 10 };
    for (n, ttl) in [Some(Duration::from_secs(3600)), None].into_iter().enumerate() {
        let removed = here.submit(keyed(&format!("removed-{n}"), ttl)).await;
        // A claim that was just closed may have it for a moment, and gives it back.
        soon(async { while !matches!(here.operator.remove(&removed).await.unwrap(), Change::Done(..)) {} }).await;
        here.submit(keyed(&format!("removed-{n}"), ttl)).await;

        let mut claims = here.claim(1).await;
        next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
        let cleaned = here.submit(keyed(&format!("cleaned-{n}"), ttl)).await;
        next(&mut claims).await.settle(Verdict::Fail { error: "no".to_owned() }).await;
        here.until(&cleaned, JobState::Failed).await;
        soon(async { while here.operator.clean(clean(JobState::Failed)).await.unwrap() == 0 {} }).await;
        here.submit(keyed(&format!("cleaned-{n}"), ttl)).await;
        next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
        claims.close().await;
    }
    let brief = fixture.instance_that_keeps_nothing().await;
    let aged = brief.submit(keyed("aged", Some(Duration::from_secs(3600)))).await;
    let mut claims = brief.claim(1).await;
    next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
    soon(async {
        while brief.find(&aged).await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    claims.close().await;
    let batch = here.queue.submit(vec![keyed("aged", None), keyed("aged", None)], None).await.unwrap();
    assert_eq!((batch[0].duplicate, batch[1].duplicate), (false, true), "{batch:?}");
    assert_eq!(batch[0].id, batch[1].id);
}

pub(super) async fn a_retried_job_takes_its_key_again_or_waits_for_it(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let fail = || Verdict::Fail { error: "no".to_owned() };
    let first = here.submit(keyed("k", None)).await;
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(fail()).await;
    let second = here.submit(keyed("k", None)).await;
    assert_eq!(there.operator.retry(&first).await.unwrap(), Change::KeyTaken(second.clone()));
    let lease = next(&mut claims).await;
    assert_eq!(there.operator.retry(&first).await.unwrap(), Change::KeyTaken(second.clone()));
    lease.settle(Verdict::Complete { result: None }).await;
    here.until(&second, JobState::Completed).await;

    assert!(matches!(there.operator.retry(&first).await.unwrap(), Change::Done(..)));
    assert_eq!(here.resubmit(keyed("k", None)).await, (first.clone(), true), "it holds its key again");
    next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
    here.until(&first, JobState::Completed).await;
    here.submit(keyed("k", None)).await;
}

pub(super) async fn a_custom_id_is_taken_once(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let id = here.submit(job_named("order-42")).await;
    assert_eq!(there.resubmit(job_named("order-42")).await, (id.clone(), true));
    let mut claims = here.claim(2).await;
    next(&mut claims).await.settle(Verdict::Complete { result: None }).await;
    here.until(&id, JobState::Completed).await;
    assert_eq!(there.resubmit(job_named("order-42")).await, (id.clone(), true), "as long as the queue knows it");
    nothing(&mut claims).await;
    let batch = here.queue.submit(vec![job_named("a"), job_named("b"), job_named("a")], None).await.unwrap();
    assert_eq!(batch.iter().map(|s| s.duplicate).collect::<Vec<_>>(), [false, false, true]);
}

pub(super) async fn an_idempotent_request_is_answered_again(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let by = |request: u8, ttl: Duration| Some(Idempotency { key: "key".to_owned(), request: [request; 32], ttl });
    let hour = Duration::from_secs(3600);
    let first = here.queue.submit(vec![job(), job()], by(1, hour)).await.unwrap();
    assert!(first.iter().all(|s| !s.duplicate));
    let again = there.queue.submit(vec![job(), job()], by(1, hour)).await.unwrap();
    assert!(again.iter().all(|s| s.duplicate));
    assert_eq!(first.iter().map(|s| &s.id).collect::<Vec<_>>(), again.iter().map(|s| &s.id).collect::<Vec<_>>());
    let error = there.queue.submit(vec![job()], by(2, hour)).await.unwrap_err();
    assert_eq!(error.kind, QueueErrorKind::KeyReused);
    assert!(!error.is_retryable());
    assert_eq!(here.queue.counts().await.unwrap().waiting, 2);

    let soon_over = Idempotency { key: "short".to_owned(), request: [1; 32], ttl: Duration::from_millis(100) };
    let first = here.queue.submit(vec![job()], Some(soon_over.clone())).await.unwrap();
    soon(async {
        while here.queue.submit(vec![job()], Some(soon_over.clone())).await.unwrap()[0].id == first[0].id {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(super) async fn of_two_callers_with_one_key_one_is_new(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    for n in 0..10 {
        let by = || Some(Idempotency { key: format!("key-{n}"), request: [1; 32], ttl: Duration::from_secs(3600) });
        let (a, b) =
            tokio::join!(here.queue.submit(vec![job(), job()], by()), there.queue.submit(vec![job(), job()], by()));
        let (a, b) = (a.unwrap(), b.unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(a.id, b.id);
            assert!(a.duplicate != b.duplicate, "{a:?} {b:?}");
            let (a, b) = (a.job.as_ref().unwrap(), b.job.as_ref().unwrap());
            assert_eq!(
                (&a.job.id, a.job.submitted_at),
                (&b.job.id, b.job.submitted_at),
                "each is told of the same job"
            );
        }
    }
    assert_eq!(here.queue.counts().await.unwrap().waiting, 20);
}

pub(super) async fn ten_thousand_jobs_are_taken_in_one_call(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let jobs: Vec<_> = (0..10_000).map(|_| job()).collect();
    let watch = async {
        // All or none: nobody ever sees a part of them.
        soon(async {
            loop {
                match there.queue.counts().await.unwrap().waiting {
                    0 => tokio::task::yield_now().await,
                    n => return n,
                }
            }
        })
        .await
    };
    let (submitted, seen) = tokio::join!(here.queue.submit(jobs.clone(), None), watch);
    assert_eq!(seen, 10_000);
    let submitted = submitted.unwrap();
    assert!(submitted.iter().zip(&jobs).all(|(s, job)| s.id == job.job.id && !s.duplicate));
}

pub(super) async fn what_was_submitted_comes_back_unchanged(fixture: Fixture) {
    let here = fixture.instance().await;
    let arguments = vec![String::new(), "-x".to_owned(), "ä \u{1F980}\n\"'".to_owned()];
    let data = json!({"n": 1.5, "deep": [null, true, {"k": "v"}], "text": "x".repeat(100_000)});
    let body = JobBody::new(arguments, Some(&RawJson::from(&data)));
    let mut options = JobOptions { attempts: 7, priority: 9, ..JobOptions::default() };
    for option in RunOption::ALL {
        let text = match option.value_name {
            "DURATION" => "2ms",
            "SIZE" => "1GiB",
            "CODE,..." => "2,3",
            "NAME=VALUE,..." => "zone=eu,disk=ssd",
            "NAME=N,..." => "gpu=1",
            _ => "2",
        };
        (option.set)(&mut options, text).unwrap();
    }
    let job = Arc::new(Job {
        id: JobId::custom("all-of-it").unwrap(),
        name: JobName::parse("a.b_c-d").unwrap(),
        options,
        submitted_at: Clock::system().now(),
        trace: None,
    });
    let id = here.submit(AcceptedJob { job: job.clone(), body: body.clone() }).await;
    let found = here.find(&id).await.unwrap();
    assert_eq!((found.job, found.body), (job.clone(), Some(body.clone())));
    let mut claims = claim_with(&here, "zone=eu,disk=ssd", "gpu=1").await;
    let lease = next(&mut claims).await;
    assert_eq!((lease.job(), lease.body()), (&job, &body));
    assert!(lease.is_announced(), "who submitted it tells history what it is given");
}
