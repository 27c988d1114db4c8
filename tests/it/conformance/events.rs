//! What every event log must do.

use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AcceptedJob, Category, CategoryChange, CategoryEvent, Entry, Event, Job, JobBody, JobId, JobName, JobOptions,
    RawJson, Timestamp,
};
use jobber::events::embedded::EmbeddedLog;
use jobber::events::redis::RedisLog;
use jobber::events::{Cursor, EventErrorKind, EventSink, EventSource};
use jobber::redis::{Redis, RedisSettings};
use jobber::sqlite::{Durability, Sqlite};
use tokio_util::task::TaskTracker;

use crate::harness::redis as server;

/// How many events the logs of these tests hold.
const CAP: u64 = 100;
/// Longer than any test should take, so that a test that runs into it fails by its own assertion.
const LONG: Duration = Duration::from_secs(60);

/// One log, as two processes see it.
struct Logs {
    here: Log,
    there: Log,
    _behind: Box<dyn Send>,
}

struct Log {
    sink: Arc<dyn EventSink>,
    source: Arc<dyn EventSource>,
}

impl Log {
    async fn append(&self, ids: impl IntoIterator<Item = u64>) -> Cursor {
        self.sink.append(&events(ids)).await.unwrap()
    }

    async fn read(&self, after: Cursor, limit: usize) -> Vec<(Cursor, Entry)> {
        self.source.read(after, limit, Duration::ZERO).await.unwrap()
    }

    async fn length(&self) -> u64 {
        self.source.span().await.unwrap().length
    }
}

async fn embedded() -> Logs {
    let dir = tempfile::tempdir().unwrap();
    let open = || async {
        let db = Sqlite::open(&dir.path().join("jobber.db"), Durability::Process).unwrap();
        let log = EmbeddedLog::open(db, dir.path(), CAP).await.unwrap();
        Log { sink: log.clone(), source: log }
    };
    Logs { here: open().await, there: open().await, _behind: Box::new(dir) }
}

async fn redis() -> Logs {
    let server = server::Redis::shared();
    let prefix = format!("test-{}", uuid::Uuid::new_v4());
    let open = || async {
        let (tasks, settings) =
            (TaskTracker::new(), RedisSettings { url: server.url().parse().unwrap(), ca_file: None });
        let redis = Redis::connect(&settings, &tasks).await.unwrap();
        let log = RedisLog::open(redis, &prefix, CAP, &tasks).unwrap();
        Log { sink: log.clone(), source: log }
    };
    Logs { here: open().await, there: open().await, _behind: Box::new(server.clone()) }
}

fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
    let data = RawJson::from(&serde_json::json!({"b": [1.5, null], "a": "x"}));
    let body = JobBody::new(vec!["é\n\u{1}".to_owned()], Some(&data));
    let event = |id| {
        let job = Arc::new(Job {
            id: JobId::parse(&format!("job-{id}")).unwrap(),
            name: JobName::parse("a").unwrap(),
            options: JobOptions::default(),
            submitted_at: Timestamp::from_millis(1),
            trace: None,
        });
        Event::submitted(AcceptedJob { job, body: body.clone() })
    };
    ids.into_iter().map(event).collect()
}

fn ids(read: &[(Cursor, Entry)]) -> Vec<u64> {
    read.iter().map(|(_, e)| e.job().unwrap().job.id.as_str()["job-".len()..].parse().unwrap()).collect()
}

async fn events_come_back_as_they_were_and_in_order(logs: Logs) {
    let last = logs.here.append(0..5).await;
    let read = logs.there.read(Cursor::START, 100).await;
    assert_eq!(
        read.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>(),
        events(0..5).into_iter().map(Entry::Job).collect::<Vec<_>>()
    );
    assert!(read.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(read.last().unwrap().0, last);
}

async fn events_are_read_without_bodies_by_those_who_need_none(logs: Logs) {
    logs.here.append(0..3).await;
    let whole = logs.there.read(Cursor::START, 2).await;
    let read = logs.there.source.read_without_bodies(Cursor::START, 2, Duration::ZERO).await.unwrap();
    let bare = |(at, entry): (Cursor, Entry)| {
        let Entry::Job(event) = entry else { panic!("only jobs were written") };
        assert!(event.body.is_some());
        (at, Entry::Job(Event { body: None, ..event }))
    };
    assert_eq!(read, whole.into_iter().map(bare).collect::<Vec<_>>());
    let change = CategoryChange::ThresholdSet { threshold: None };
    logs.here.sink.append_change(&CategoryEvent { at: Timestamp::from_millis(1), change }).await.unwrap();
    let rest = logs.there.source.read_without_bodies(read[1].0, 9, Duration::from_secs(9)).await.unwrap();
    assert_eq!(rest.len(), 2);
    assert!(matches!(rest[1].1, Entry::Categories(_)));
}

async fn a_reader_goes_on_from_its_cursor(logs: Logs) {
    logs.here.append(0..7).await;
    let (mut cursor, mut seen) = (Cursor::START, Vec::new());
    loop {
        let read = logs.here.read(cursor, 3).await;
        assert!(read.len() <= 3);
        let Some((last, _)) = read.last() else { break };
        cursor = *last;
        seen.extend(ids(&read));
    }
    assert_eq!(seen, Vec::from_iter(0..7));
    assert!(logs.here.append([7]).await > cursor);
    assert_eq!(ids(&logs.here.read(cursor, 10).await), [7]);
}

async fn appends_of_many_writers_stay_whole(logs: Logs) {
    let append = |log: &Log, from: u64| {
        let sink = log.sink.clone();
        async move {
            for start in (from..from + 30).step_by(3) {
                sink.append(&events(start..start + 3)).await.unwrap();
            }
        }
    };
    tokio::join!(append(&logs.here, 0), append(&logs.there, 30), append(&logs.here, 60));
    let mut seen = ids(&logs.there.read(Cursor::START, 100).await);
    for three in seen.chunks(3) {
        assert_eq!((three[1], three[2]), (three[0] + 1, three[0] + 2));
    }
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..90));
}

async fn at_the_cap_all_is_refused_or_none(logs: Logs) {
    let first = logs.here.append([0]).await;
    logs.here.append(1..98).await;
    let refused = logs.there.sink.append(&events(98..101)).await.unwrap_err();
    assert_eq!(refused.kind, EventErrorKind::Full);
    assert_eq!(logs.here.length().await, 98);
    logs.there.append(98..100).await;
    assert_eq!(logs.here.sink.append(&events([100])).await.unwrap_err().kind, EventErrorKind::Full);
    // Room comes back with a trim.
    logs.here.source.trim(first).await.unwrap();
    logs.there.append([100]).await;
    assert_eq!(ids(&logs.here.read(Cursor::START, 200).await), Vec::from_iter(1..101));
}

async fn a_waiting_reader_is_woken_from_elsewhere(logs: Logs) {
    let reader = logs.there.source.clone();
    let waiting = tokio::time::timeout(LONG, reader.read(Cursor::START, 10, LONG * 10));
    let (read, _) = tokio::join!(waiting, logs.here.append([5]));
    assert_eq!(ids(&read.expect("woken").unwrap()), [5]);
}

async fn a_read_without_news_ends(logs: Logs) {
    let last = logs.here.append(0..3).await;
    let read = logs.there.source.read(last, 10, Duration::from_millis(20)).await.unwrap();
    assert_eq!(read, []);
}

async fn a_trim_takes_only_what_is_behind_it(logs: Logs) {
    logs.here.append(0..10).await;
    let cursors: Vec<_> = logs.here.read(Cursor::START, 10).await.iter().map(|(at, _)| *at).collect();
    assert_eq!(logs.there.source.trim(cursors[3]).await.unwrap(), 4);
    assert_eq!(logs.there.source.trim(cursors[3]).await.unwrap(), 0);
    // Readers behind the trim go on with what is left, those in front of it see nothing of it.
    assert_eq!(ids(&logs.here.read(cursors[1], 100).await), Vec::from_iter(4..10));
    assert_eq!(ids(&logs.here.read(cursors[6], 100).await), [7, 8, 9]);
    let span = logs.here.source.span().await.unwrap();
    assert_eq!((span.last, span.length, span.cap), (cursors[9], 6, CAP));
}

async fn a_cursor_is_never_given_out_twice(logs: Logs) {
    assert_eq!(logs.here.source.span().await.unwrap().last, Cursor::START);
    let last = logs.here.append(0..3).await;
    logs.here.source.trim(last).await.unwrap();
    let span = logs.there.source.span().await.unwrap();
    assert_eq!((span.last, span.length), (last, 0));
    assert!(logs.there.append([3]).await > last);
    assert_eq!(ids(&logs.here.read(last, 10).await), [3]);
}

async fn an_empty_append_changes_nothing(logs: Logs) {
    let last = logs.here.append(0..2).await;
    assert_eq!(logs.here.append([]).await, last);
    assert_eq!(logs.here.length().await, 2);
}

async fn a_parked_event_is_passed_over(logs: Logs) {
    logs.here.append(0..3).await;
    let at = logs.here.read(Cursor::START, 10).await[1].0;
    logs.here.source.park(at, "a test").await.unwrap();
    logs.there.source.park(at, "once more").await.unwrap();
    assert_eq!(ids(&logs.there.read(Cursor::START, 10).await), [0, 2]);
}

async fn changes_of_categories_stand_between_the_events_of_jobs(logs: Logs) {
    let category = Category {
        id: "disk".parse().unwrap(),
        name: "Disk \u{e9}".to_owned(),
        description: "full".to_owned(),
        examples: vec!["ENOSPC\n".to_owned()],
    };
    let at = Timestamp::from_millis(7);
    let changes = [
        CategoryChange::Added { category: category.clone() },
        CategoryChange::Edited { category },
        CategoryChange::ThresholdSet { threshold: Some(0.25) },
        CategoryChange::ThresholdSet { threshold: None },
        CategoryChange::Removed { id: "disk".parse().unwrap() },
    ];
    logs.here.append([0]).await;
    let mut written = Vec::new();
    for change in changes {
        let event = CategoryEvent { at, change };
        written.push((logs.there.sink.append_change(&event).await.unwrap(), Entry::Categories(event)));
    }
    let last = logs.here.append([1]).await;
    let read = logs.there.read(Cursor::START, 100).await;
    assert_eq!(read[1..6], written);
    assert_eq!((read.len(), ids(&[read[0].clone(), read[6].clone()]), read[6].0), (7, vec![0, 1], last));
}

async fn a_change_is_refused_at_the_cap_too(logs: Logs) {
    logs.here.append(0..CAP).await;
    let change = CategoryChange::ThresholdSet { threshold: None };
    let refused = logs.here.sink.append_change(&CategoryEvent { at: Timestamp::from_millis(1), change }).await;
    assert_eq!(refused.unwrap_err().kind, EventErrorKind::Full);
}

conformance! {
    suite events {
        events_come_back_as_they_were_and_in_order,
        events_are_read_without_bodies_by_those_who_need_none,
        a_reader_goes_on_from_its_cursor,
        appends_of_many_writers_stay_whole,
        at_the_cap_all_is_refused_or_none,
        a_waiting_reader_is_woken_from_elsewhere,
        a_read_without_news_ends,
        a_trim_takes_only_what_is_behind_it,
        a_cursor_is_never_given_out_twice,
        an_empty_append_changes_nothing,
        a_parked_event_is_passed_over,
        changes_of_categories_stand_between_the_events_of_jobs,
        a_change_is_refused_at_the_cap_too,
    } for embedded, redis
}
