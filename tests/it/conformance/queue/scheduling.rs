//! Jobs that come by themselves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AcceptedJob, Clock, JobBody, JobId, JobState, RawJson, Schedule, ScheduleId, Template, Timing, Verdict,
};
use jobber::queue::{Cancellation, Claims};

use super::fixture::*;

const DONE: Verdict = Verdict::Complete { result: None };

fn id() -> ScheduleId {
    ScheduleId::custom("often").unwrap()
}

fn schedule(timing: Timing, job: AcceptedJob) -> Arc<Schedule> {
    Arc::new(Schedule { id: id(), timing, job: Template::of(job).unwrap() })
}

/// One that brings a job every second.
fn often() -> Arc<Schedule> {
    schedule(Timing::every(Duration::from_secs(1)).unwrap(), job())
}

/// One that brings none while a test runs.
fn rarely() -> Timing {
    let now = Clock::system().now();
    let month = if (2..=7).contains(&now.to_string()[5..7].parse::<u32>().unwrap()) { 11 } else { 5 };
    Timing::cron(&format!("30 2 1 {month} *"), Some("Europe/Berlin"), now).unwrap()
}

/// When a schedule's job was due, as its id says.
fn due(id: &JobId) -> i64 {
    let (schedule, due) = id.as_str().rsplit_once(':').unwrap();
    assert_eq!(schedule, "repeat:often");
    due.parse().unwrap()
}

async fn run_next(claims: &mut Claims) -> JobId {
    let lease = next(claims).await;
    let id = lease.job().id.clone();
    assert_eq!((lease.attempt().0, lease.crashes()), (1, 0), "{id} was not started before");
    lease.settle(DONE).await;
    id
}

pub(super) async fn a_schedule_brings_one_job_for_each_time(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    assert!(here.scheduler.put_schedule(often()).await.unwrap(), "it is new");
    let (mut mine, mut theirs) = (here.claim(2).await, there.claim(2).await);
    let mut seen = HashSet::new();
    for _ in 0..4 {
        let id = soon(async {
            tokio::select! {
                lease = mine.next() => lease.unwrap(),
                lease = theirs.next() => lease.unwrap(),
            }
        });
        let lease = id.await;
        assert_eq!(lease.attempt().0, 1);
        assert!(seen.insert(due(&lease.job().id)), "{lease:?} came twice");
        lease.settle(DONE).await;
    }
    let first = *seen.iter().min().unwrap();
    assert!(seen.iter().all(|at| (at - first) % 1000 == 0), "{seen:?} keeps the beat");
    let now = there.scheduler.find_schedule(&id()).await.unwrap().unwrap();
    assert!(seen.contains(&now.last_at.unwrap().as_millis()) || now.last_at > None, "{now:?}");
    assert!(now.next_at > now.last_at, "{now:?}");
}

pub(super) async fn a_long_job_does_not_hold_up_its_schedule(fixture: Fixture) {
    let here = fixture.instance().await;
    here.scheduler.put_schedule(often()).await.unwrap();
    let mut claims = here.claim(3).await;
    let long = next(&mut claims).await;
    let (second, third) = (run_next(&mut claims).await, run_next(&mut claims).await);
    assert_eq!(HashSet::from([due(&long.job().id), due(&second), due(&third)]).len(), 3);
    assert_eq!(here.find(&long.job().id).await.unwrap().state, JobState::Active);
    long.settle(DONE).await;
}

pub(super) async fn no_second_job_comes_while_the_first_waits(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    here.scheduler.put_schedule(often()).await.unwrap();
    let there_is_one = async {
        loop {
            let counts = there.queue.counts().await.unwrap();
            if counts.waiting + counts.delayed > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(there_is_one).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let counts = there.queue.counts().await.unwrap();
    assert_eq!(counts.waiting + counts.delayed, 1, "{counts:?}");
    // Once it is taken, what was missed is made up for by one more.
    let mut claims = here.claim(1).await;
    let (first, second) = (run_next(&mut claims).await, run_next(&mut claims).await);
    assert!(due(&second) > due(&first));
}

pub(super) async fn a_schedule_is_replaced_by_one_of_the_same_id(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    assert!(here.scheduler.put_schedule(schedule(rarely(), job())).await.unwrap());
    let before = here.scheduler.find_schedule(&id()).await.unwrap().unwrap();
    let other = schedule(rarely(), job_with(|o| o.attempts = 7));
    assert!(!there.scheduler.put_schedule(other.clone()).await.unwrap(), "it is not new");
    let all = here.scheduler.schedules().await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((&all[0].schedule, all[0].next_at), (&other, before.next_at));
    here.scheduler.put_schedule(often()).await.unwrap();
    let mut claims = there.claim(1).await;
    due(&run_next(&mut claims).await);
}

pub(super) async fn a_schedule_comes_back_unchanged(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    assert_eq!(here.scheduler.find_schedule(&id()).await.unwrap(), None);
    let pattern = job_with(|o| {
        o.attempts = 5;
        o.priority = 3;
        o.timeout = Some(Duration::from_secs(9));
        o.cores = Some(2);
    });
    let data = RawJson::from(&serde_json::json!({"k": [1, null]}));
    let pattern = AcceptedJob { body: JobBody::new(vec!["a b".to_owned(), String::new()], Some(&data)), ..pattern };
    let wanted = schedule(rarely(), pattern);
    here.scheduler.put_schedule(wanted.clone()).await.unwrap();
    let found = there.scheduler.find_schedule(&id()).await.unwrap().unwrap();
    assert_eq!(found.schedule, wanted);
    assert_eq!((found.paused, found.last_at, found.last_job), (false, None, None));
    assert_eq!(found.next_at, wanted.timing.next(None, Clock::system().now()));
}

pub(super) async fn a_paused_schedule_brings_nothing_until_it_is_resumed(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    assert!(!here.scheduler.pause_schedule(&id(), true).await.unwrap(), "it is not known");
    here.scheduler.put_schedule(often()).await.unwrap();
    let mut claims = here.claim(1).await;
    let before = run_next(&mut claims).await;
    assert!(there.scheduler.pause_schedule(&id(), true).await.unwrap());
    // One may have been on its way.
    let late = tokio::time::timeout(Duration::from_millis(1500), claims.next()).await;
    if let Ok(Some(lease)) = late {
        lease.settle(DONE).await;
    }
    let quiet = tokio::time::timeout(Duration::from_millis(2500), claims.next()).await;
    assert!(quiet.is_err(), "{quiet:?} came from a paused schedule");
    let now = here.scheduler.find_schedule(&id()).await.unwrap().unwrap();
    assert_eq!((now.paused, now.next_at, now.schedule), (true, None, often()));
    assert!(!here.scheduler.put_schedule(often()).await.unwrap(), "it stays, and stays paused");
    assert_eq!(here.scheduler.schedules().await.unwrap().len(), 1);
    assert!(there.scheduler.pause_schedule(&id(), false).await.unwrap());
    let after = run_next(&mut claims).await;
    assert!(due(&after) > due(&before));
    assert!(!here.scheduler.find_schedule(&id()).await.unwrap().unwrap().paused);
}

pub(super) async fn a_removed_schedule_brings_nothing_more(fixture: Fixture) {
    let (here, there) = (fixture.instance().await, fixture.instance().await);
    here.scheduler.put_schedule(often()).await.unwrap();
    let mut claims = here.claim(1).await;
    run_next(&mut claims).await;
    assert!(there.scheduler.remove_schedule(&id()).await.unwrap());
    assert!(!here.scheduler.remove_schedule(&id()).await.unwrap(), "it is gone");
    let late = tokio::time::timeout(Duration::from_millis(1500), claims.next()).await;
    if let Ok(Some(lease)) = late {
        lease.settle(DONE).await;
    }
    let quiet = tokio::time::timeout(Duration::from_millis(2500), claims.next()).await;
    assert!(quiet.is_err(), "{quiet:?} came from a removed schedule");
    assert_eq!(here.scheduler.schedules().await.unwrap(), []);
}

pub(super) async fn a_schedule_goes_on_when_its_waiting_job_is_cancelled(fixture: Fixture) {
    let here = fixture.instance().await;
    here.scheduler.put_schedule(often()).await.unwrap();
    let waits = soon(async {
        loop {
            for state in [JobState::Waiting, JobState::Delayed] {
                let page = here.queue.page(None, state, jobber::domain::PageRequest::first(10)).await.unwrap();
                if let Some(job) = page.items.first() {
                    return job.job.id.clone();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let cancelled = here.operator.cancel(&waits, "not this one").await.unwrap();
    assert!(matches!(cancelled, Cancellation::Ended(_)), "{cancelled:?}");
    let mut claims = here.claim(1).await;
    let next = run_next(&mut claims).await;
    assert!(due(&next) > due(&waits));
}
