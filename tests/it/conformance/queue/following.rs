//! Jobs that come after others.

use std::time::Duration;

use jobber::domain::{AcceptedJob, JobId, JobState, PageRequest, Verdict};
use jobber::queue::{Cancellation, Change, Lease, QueueErrorKind};
use serde_json::{Value, json};

use super::fixture::*;

fn after(others: &[&JobId]) -> AcceptedJob {
    job_with(|o| o.after = others.iter().map(|id| (*id).clone()).collect())
}

fn complete(result: Value) -> Verdict {
    Verdict::Complete { result: Some(result) }
}

fn fail() -> Verdict {
    Verdict::Fail { error: "broken".to_owned() }
}

async fn waits(here: &Instance, id: &JobId, others: &[&JobId]) {
    let found = here.find(id).await.unwrap();
    assert_eq!((found.state, found.due_at, found.attempts_started), (JobState::Delayed, None, 0), "{found:?}");
    let mut waits_for = found.waits_for.iter().collect::<Vec<_>>();
    let mut others = others.to_vec();
    waits_for.sort();
    others.sort();
    assert_eq!(waits_for, others);
}

fn assert_barred(lease: &Lease, id: &JobId, by: &JobId) {
    assert_eq!(lease.job().id, *id);
    let why = lease.barred().unwrap_or_else(|| panic!("{lease:?} is not barred"));
    assert!(why.contains(by.as_str()), "{why}");
}

pub(super) async fn a_job_comes_when_those_before_it_have_completed(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    let (first, second) = (here.submit(job()).await, here.submit(job()).await);
    let last = there.submit(after(&[&first, &second])).await;
    waits(&here, &last, &[&first, &second]).await;
    assert_eq!(here.queue.counts().await.unwrap().delayed, 1);
    let mut claims = here.claim(3).await;
    let mut both = [next(&mut claims).await, next(&mut claims).await];
    both.sort_by_key(|lease| lease.job().id != first);
    let [a, b] = both;
    assert_eq!((&a.job().id, &b.job().id, a.barred()), (&first, &second, None));
    nothing(&mut claims).await;
    a.settle(complete(json!(1))).await;
    here.until(&first, JobState::Completed).await;
    waits(&here, &last, &[&second]).await;
    nothing(&mut claims).await;
    b.settle(complete(json!({"x": [2]}))).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.attempt().0, lease.barred()), (&last, 1, None));
    let results = json!({first.to_string(): 1, second.to_string(): {"x": [2]}});
    assert_eq!(Value::Object(lease.results_before().clone()), results);
    lease.settle(complete(json!("end"))).await;
    here.until(&last, JobState::Completed).await;
}

pub(super) async fn jobs_of_one_call_may_come_after_each_other(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = job();
    let second = after(&[&first.job.id]);
    let third = after(&[&second.job.id]);
    let ids = [first.job.id.clone(), second.job.id.clone(), third.job.id.clone()];
    let submitted = here.queue.submit(vec![first, second, third], None).await.unwrap();
    assert_eq!(submitted.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), ids);
    waits(&here, &ids[1], &[&ids[0]]).await;
    let mut claims = here.claim(3).await;
    for (i, id) in ids.iter().enumerate() {
        let lease = next(&mut claims).await;
        assert_eq!(lease.job().id, *id);
        assert_eq!(lease.results_before().len(), usize::from(i > 0));
        lease.settle(complete(json!(i))).await;
    }
    here.until(&ids[2], JobState::Completed).await;
}

pub(super) async fn jobs_that_wait_for_others_are_listed_behind_the_delayed(fixture: Fixture) {
    let here = fixture.instance().await;
    let (first, other) = (job(), job());
    let tree = after(&[&first.job.id, &other.job.id]);
    let above = after(&[&tree.job.id]);
    let (in_tree, behind_it) = (tree.job.id.clone(), above.job.id.clone());
    here.queue.submit(vec![first.clone(), other.clone(), tree, above], None).await.unwrap();
    let late = here.submit(after(&[&first.job.id])).await;
    let due = here.submit(job_with(|o| o.delay = Duration::from_secs(3600))).await;
    assert_eq!(here.queue.counts().await.unwrap().delayed, 4);
    for limit in 1..=5 {
        let mut request = PageRequest::first(limit);
        let mut seen = Vec::new();
        loop {
            let page = here.queue.page(None, JobState::Delayed, request.clone()).await.unwrap();
            assert!(page.items.len() <= limit && page.items.iter().all(|job| job.state == JobState::Delayed));
            seen.extend(page.items);
            let Some(next) = page.next else { break };
            request.cursor = Some(next);
        }
        assert_eq!(seen.iter().map(|job| job.job.id == due).collect::<Vec<_>>(), [true, false, false, false]);
        for (id, others) in
            [(&in_tree, vec![&first.job.id, &other.job.id]), (&behind_it, vec![&in_tree]), (&late, vec![&first.job.id])]
        {
            let found =
                seen.iter().find(|job| job.job.id == *id).unwrap_or_else(|| panic!("{id} is missing: {seen:?}"));
            let mut waits_for: Vec<_> = found.waits_for.iter().collect();
            waits_for.sort();
            assert_eq!((found.due_at, waits_for), (None, others), "{limit} at a time");
        }
    }
}

pub(super) async fn any_number_of_jobs_may_come_after_one(fixture: Fixture) {
    let here = fixture.instance().await;
    let (first, other) = (job(), job());
    let (a, b) = (after(&[&first.job.id]), after(&[&first.job.id, &other.job.id]));
    let together = after(&[&a.job.id, &b.job.id]);
    let jobs = vec![first.clone(), other.clone(), a.clone(), b.clone(), together.clone()];
    here.queue.submit(jobs, None).await.unwrap();
    let late = here.submit(after(&[&first.job.id])).await;
    let mut claims = here.claim(1).await;
    let mut order = Vec::new();
    for _ in 0..6 {
        let lease = next(&mut claims).await;
        assert_eq!(
            (lease.barred(), lease.results_before().len()),
            (None, lease.job().options.after.len()),
            "{lease:?}"
        );
        order.push(lease.job().id.clone());
        lease.settle(complete(json!(1))).await;
    }
    let place = |id: &JobId| order.iter().position(|one| one == id).unwrap();
    assert!(
        place(&first.job.id) < place(&a.job.id)
            && place(&first.job.id) < place(&b.job.id)
            && place(&first.job.id) < place(&late)
    );
    assert!(place(&other.job.id) < place(&b.job.id));
    assert!(place(&a.job.id) < place(&together.job.id) && place(&b.job.id) < place(&together.job.id));
    nothing(&mut claims).await;
}

pub(super) async fn a_delay_counts_from_when_nothing_is_waited_for(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(job()).await;
    let delayed = job_with(|o| (o.after, o.delay) = (vec![first.clone()], Duration::from_secs(3600)));
    let second = here.submit(delayed.clone()).await;
    waits(&here, &second, &[&first]).await;
    assert_eq!(here.find(&second).await.unwrap().job, delayed.job);
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(complete(json!(1))).await;
    let found = here.until_it(&second, |job| job.due_at.is_some()).await;
    assert_eq!((found.state, found.waits_for), (JobState::Delayed, vec![]));
    let Change::Done(..) = here.operator.promote(&second).await.unwrap() else { panic!("it was delayed") };
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.results_before().len()), (&second, 1));
    lease.settle(complete(json!(1))).await;
}

pub(super) async fn a_job_after_one_that_failed_is_barred(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(job()).await;
    let second = here.submit(after(&[&first])).await;
    let third = here.submit(after(&[&second])).await;
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(fail()).await;
    let lease = next(&mut claims).await;
    assert_barred(&lease, &second, &first);
    waits(&here, &third, &[&second]).await;
    let why = lease.barred().unwrap().to_owned();
    lease.settle(Verdict::Fail { error: why }).await;
    let lease = next(&mut claims).await;
    assert_barred(&lease, &third, &second);
    lease.settle(fail()).await;
    here.until(&third, JobState::Failed).await;
    // Put back by somebody, it runs.
    let Change::Done(..) = here.operator.retry(&third).await.unwrap() else { panic!("it had failed") };
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.barred()), (&third, None));
    lease.settle(complete(json!(null))).await;
}

pub(super) async fn a_job_after_one_that_was_cancelled_is_barred(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(job()).await;
    let second = here.submit(after(&[&first])).await;
    assert!(matches!(here.operator.cancel(&first, "no").await.unwrap(), Cancellation::Ended(_)));
    let mut claims = here.claim(1).await;
    assert_barred(&next(&mut claims).await, &second, &first);
}

pub(super) async fn a_job_that_waits_for_others_can_be_cancelled_and_removed(fixture: Fixture) {
    let here = fixture.instance().await;
    let (first, other) = (here.submit(job()).await, here.submit(job()).await);
    let cancelled = here.submit(after(&[&first])).await;
    let removed = here.submit(after(&[&other])).await;
    assert_eq!(here.operator.promote(&cancelled).await.unwrap(), Change::WrongState(JobState::Delayed));
    assert!(matches!(here.operator.cancel(&cancelled, "no").await.unwrap(), Cancellation::Ended(_)));
    assert_eq!(here.find(&cancelled).await.unwrap().state, JobState::Failed);
    assert!(matches!(here.operator.remove(&removed).await.unwrap(), Change::Done(_, 0)));
    assert_eq!(here.find(&removed).await, None);
    let mut claims = here.claim(2).await;
    for _ in 0..2 {
        let lease = next(&mut claims).await;
        assert!([&first, &other].contains(&&lease.job().id), "{lease:?}");
        lease.settle(complete(json!(1))).await;
    }
    here.until(&first, JobState::Completed).await;
    here.until(&other, JobState::Completed).await;
    nothing(&mut claims).await;
    assert_eq!(here.find(&cancelled).await.unwrap().state, JobState::Failed);
}

pub(super) async fn a_job_that_was_taken_out_is_not_waited_for(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(job()).await;
    let second = here.submit(after(&[&first])).await;
    assert!(matches!(here.operator.remove(&first).await.unwrap(), Change::Done(_, 0)));
    let mut claims = here.claim(1).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, lease.barred()), (&second, None));
    lease.settle(complete(json!(1))).await;
}

pub(super) async fn what_became_of_a_job_is_known_however_soon_it_leaves(fixture: Fixture) {
    let here = fixture.instance_that_keeps_nothing().await;
    let (done, broken) = (here.submit(job()).await, here.submit(job()).await);
    let mut claims = here.claim(2).await;
    let mut both = [next(&mut claims).await, next(&mut claims).await];
    both.sort_by_key(|lease| lease.job().id != done);
    // They run already.
    let (good, bad) = (here.submit(after(&[&done])).await, here.submit(after(&[&broken])).await);
    let [a, b] = both;
    a.settle(complete(json!("kept"))).await;
    b.settle(fail()).await;
    for _ in 0..2 {
        let lease = next(&mut claims).await;
        if lease.job().id == good {
            assert_eq!((lease.barred(), &lease.results_before()[done.as_str()]), (None, &json!("kept")));
        } else {
            assert_barred(&lease, &bad, &broken);
        }
        lease.settle(complete(json!(1))).await;
    }
}

pub(super) async fn a_job_after_one_that_was_cancelled_and_removed_is_barred(fixture: Fixture) {
    let here = fixture.instance().await;
    let first = here.submit(job()).await;
    let second = here.submit(after(&[&first])).await;
    assert!(matches!(here.operator.cancel(&first, "no").await.unwrap(), Cancellation::Ended(_)));
    assert!(matches!(here.operator.remove(&first).await.unwrap(), Change::Done(..)));
    let mut claims = here.claim(1).await;
    assert_barred(&next(&mut claims).await, &second, &first);
}

pub(super) async fn what_a_job_cannot_come_after_is_told(fixture: Fixture) {
    let here = fixture.instance().await;
    let refused = async |job: AcceptedJob| {
        let error = here.queue.submit(vec![job], None).await.unwrap_err();
        assert_eq!(error.kind, QueueErrorKind::Rejected, "{error}");
        error.to_string()
    };
    let unknown = JobId::custom("never-there").unwrap();
    assert!(refused(after(&[&unknown])).await.contains("never-there"));
    let failed = here.submit(job()).await;
    here.operator.cancel(&failed, "no").await.unwrap();
    assert!(refused(after(&[&failed])).await.contains("failed"));
    assert_eq!(here.queue.counts().await.unwrap().delayed, 0, "nothing was accepted");
    // One that has completed holds nothing up.
    let done = here.submit(job()).await;
    let mut claims = here.claim(1).await;
    next(&mut claims).await.settle(complete(json!("early"))).await;
    here.until(&done, JobState::Completed).await;
    let late = here.submit(after(&[&done])).await;
    let lease = next(&mut claims).await;
    assert_eq!((&lease.job().id, &lease.results_before()[done.as_str()]), (&late, &json!("early")));
    lease.settle(complete(json!(1))).await;
}
