//! The event log and the cache on Redis servers that are killed, stalled, full, away, or not what the settings say.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{
    AcceptedJob, Entry, Event, Fingerprint, Job, JobBody, JobId, JobName, JobOptions, KnownError, Timestamp,
};
use jobber::events::redis::RedisLog;
use jobber::events::{Cursor, EventErrorKind, EventSink, EventSource};
use jobber::failures::ErrorCache;
use jobber::failures::cache::redis::RedisCache;
use jobber::redis::{Redis, RedisError, RedisErrorKind, RedisSettings};
use tokio_util::task::TaskTracker;

use crate::harness::eventually;
use crate::harness::redis::{Redis as Server, RedisOptions};

const LONG: Duration = Duration::from_secs(60);

async fn connect(url: &str, ca_file: Option<PathBuf>) -> Result<Redis, RedisError> {
    Redis::connect(&RedisSettings { url: url.parse().unwrap(), ca_file }, &TaskTracker::new()).await
}

fn open(redis: &Redis) -> Arc<RedisLog> {
    RedisLog::open(redis.clone(), "test", 1_000_000, &TaskTracker::new()).unwrap()
}

async fn log(server: &Server) -> Arc<RedisLog> {
    open(&connect(&server.url(), None).await.unwrap())
}

fn events(ids: impl IntoIterator<Item = u64>) -> Vec<Event> {
    let event = |id| {
        let job = Arc::new(Job {
            id: JobId::parse(&format!("job-{id}")).unwrap(),
            name: JobName::parse("a").unwrap(),
            options: JobOptions::default(),
            submitted_at: Timestamp::from_millis(1),
            trace: None,
        });
        Event::submitted(AcceptedJob { job, body: JobBody::new(vec![], None) })
    };
    ids.into_iter().map(event).collect()
}

fn ids(read: &[(Cursor, Entry)]) -> Vec<u64> {
    read.iter().map(|(_, e)| e.job().unwrap().job.id.as_str()["job-".len()..].parse().unwrap()).collect()
}

/// Appends, and reads and waits, through every operation of a log.
async fn use_all_of(log: &RedisLog) {
    let one = events([0]);
    let (read, appended) = tokio::join!(log.read(Cursor::START, 10, LONG), log.append(&one));
    appended.unwrap();
    let first = read.unwrap()[0].0;
    let last = log.append(&events(1..5)).await.unwrap();
    log.park(log.read(first, 1, Duration::ZERO).await.unwrap()[0].0, "a test").await.unwrap();
    assert_eq!(log.trim(first).await.unwrap(), 1);
    assert_eq!(ids(&log.read(Cursor::START, 10, Duration::ZERO).await.unwrap()), [2, 3, 4]);
    let span = log.span().await.unwrap();
    assert_eq!((span.last, span.length), (last, 3));
}

/// Appends three at a time, each until it is answered, as a worker's recorder does.
async fn write(log: &RedisLog, count: u64) {
    for start in (0..count).step_by(3) {
        while let Err(error) = log.append(&events(start..start + 3)).await {
            assert_eq!(error.kind, EventErrorKind::Unavailable, "{error:?}");
        }
    }
}

/// Reads on until it has seen `count` different events; answers all that it has seen.
async fn follow(log: &RedisLog, count: u64) -> Vec<u64> {
    let (mut after, mut seen) = (Cursor::START, Vec::new());
    while seen.last() != Some(&(count - 1)) {
        match log.read(after, 10, LONG).await {
            Ok(read) => {
                after = read.last().map_or(after, |(at, _)| *at);
                seen.extend(ids(&read));
            }
            Err(error) => assert_eq!(error.kind, EventErrorKind::Unavailable, "{error:?}"),
        }
    }
    seen
}

/// Every event is there in order. One that stands there twice is the repeat of an append that was not answered: whole,
/// right behind the first, and without effect.
fn check_threes(seen: &[u64], count: u64) {
    let mut threes: Vec<_> = seen.chunks(3).collect();
    assert!(threes.iter().all(|t| t[1..] == [t[0] + 1, t[0] + 2]), "an append was cut in two: {seen:?}");
    threes.dedup();
    assert_eq!(threes.concat(), Vec::from_iter(0..count));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_the_server_was_killed_again_and_again() {
    const COUNT: u64 = 3000;
    let server = Arc::new(Server::with(RedisOptions { durable: true, ..RedisOptions::default() }));
    let (writer, reader) = (log(&server).await, log(&server).await);
    let writing = tokio::spawn(async move { write(&writer, COUNT).await });
    let reading = tokio::spawn(async move { follow(&reader, COUNT).await });
    let killed = server.clone();
    let killing = tokio::task::spawn_blocking(move || {
        for round in 1..=4 {
            // In the middle of it, however fast this machine is.
            while killed.cli(&["xlen", "jobber:{test}:events"]).trim().parse::<u64>().unwrap() < round * COUNT / 5 {}
            killed.restart();
        }
    });
    let ((), seen, ()) = tokio::try_join!(writing, reading, killing).unwrap();
    check_threes(&seen, COUNT);
    let all = log(&server).await.read(Cursor::START, usize::MAX, Duration::ZERO).await.unwrap();
    assert_eq!(ids(&all), seen, "a reader that was there all the time has seen what the log holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_holds_nobody_up_and_all_go_on_when_it_does() {
    let server = Server::start();
    let (writer, reader) = (log(&server).await, log(&server).await);
    writer.append(&events(0..3)).await.unwrap();
    let reading = tokio::spawn(async move { follow(&reader, 6).await });
    server.signal("STOP");
    let refused = tokio::time::timeout(LONG, writer.append(&events(3..6))).await.expect("an answer");
    assert_eq!(refused.unwrap_err().kind, EventErrorKind::Unavailable);
    let span = tokio::time::timeout(LONG, writer.span()).await.expect("an answer");
    assert_eq!(span.unwrap_err().kind, EventErrorKind::Unavailable);
    server.signal("CONT");
    eventually("an append", async || writer.append(&events(3..6)).await.ok()).await;
    let mut seen = tokio::time::timeout(LONG, reading).await.expect("woken").unwrap();
    // What the stalled server had in its socket was carried out when it went on.
    seen.dedup();
    let mut different = seen.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different, Vec::from_iter(0..6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_the_start_is_waited_for_in_the_background() {
    let server = Server::start();
    server.kill();
    let redis = connect(&server.url(), None).await.expect("a process can start");
    let log = open(&redis);
    let cache = RedisCache::open(redis.clone(), "test", LONG);
    assert_eq!(redis.ping().await.unwrap_err().kind, RedisErrorKind::Unavailable);
    assert_eq!(log.append(&events([0])).await.unwrap_err().kind, EventErrorKind::Unavailable);
    assert_eq!(log.read(Cursor::START, 1, LONG).await.unwrap_err().kind, EventErrorKind::Unavailable);
    assert!(cache.get(&[Fingerprint::from_bytes([1; 32])]).await.is_err());
    server.restart();
    eventually("the server", async || redis.ping().await.ok()).await;
    use_all_of(&log).await;
    // And again.
    server.restart();
    eventually("the server", async || redis.ping().await.ok()).await;
    use_all_of(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_takes_nothing_and_drops_nothing() {
    let server = Server::start();
    let log = log(&server).await;
    log.append(&events(0..3)).await.unwrap();
    server.cli(&["config", "set", "maxmemory", "1"]);
    let full = log.append(&events(3..6)).await.unwrap_err();
    assert_eq!(full.kind, EventErrorKind::Full, "{full:?}");
    server.cli(&["config", "set", "maxmemory", "0"]);
    log.append(&events(6..9)).await.unwrap();
    assert_eq!(ids(&log.read(Cursor::START, 10, LONG).await.unwrap()), [0, 1, 2, 6, 7, 8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_no_event_is_told_with_its_place_and_can_be_set_aside() {
    let server = Server::start();
    let log = log(&server).await;
    log.append(&events([0])).await.unwrap();
    let broken: Cursor = server.cli(&["xadd", "jobber:{test}:events", "*", "event", "garbage"]).trim().parse().unwrap();
    let foreign: Cursor = server.cli(&["xadd", "jobber:{test}:events", "*", "a", "b"]).trim().parse().unwrap();
    log.append(&events([1])).await.unwrap();
    let before = log.read(Cursor::START, 10, LONG).await.unwrap();
    assert_eq!(ids(&before), [0]);
    for at in [broken, foreign] {
        let error = log.read(before[0].0, 10, LONG).await.unwrap_err();
        assert_eq!((error.kind, error.at), (EventErrorKind::Corrupt, Some(at)));
        log.park(at, "a test").await.unwrap();
    }
    assert_eq!(ids(&log.read(before[0].0, 10, LONG).await.unwrap()), [1]);
    let kept = |at: Cursor, field: &str| server.cli(&["hget", "jobber:{test}:events:parked", &format!("{at}:{field}")]);
    assert_eq!((kept(broken, "event").trim(), kept(broken, "reason").trim()), ("garbage", "a test"));
    assert_eq!(kept(foreign, "a").trim(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_a_password_a_database_and_tls_with_a_private_authority_work_together() {
    let user = Some(("ann".to_owned(), "s3cret-ann".to_owned()));
    let server = Server::with(RedisOptions { user, tls: true, ..RedisOptions::default() });
    let url = format!("{}/3", server.url());
    let redis = connect(&url, Some(server.tls().ca)).await.unwrap();
    use_all_of(&open(&redis)).await;
    assert_eq!(server.cli(&["-n", "3", "exists", "jobber:{test}:events"]).trim(), "1");
    assert!(!redis.place().contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_fit_are_clear_errors_at_once_and_hold_no_password() {
    let password = Some("s3cret-word".to_owned());
    let open = Server::start();
    let closed = Server::with(RedisOptions { password, ..RedisOptions::default() });
    let tls = Server::with(RedisOptions { tls: true, ..RedisOptions::default() });
    let node = Server::with(RedisOptions { cluster: true, ..RedisOptions::default() });
    let at = |scheme: &str, who: &str, server: &Server| format!("{scheme}://{who}127.0.0.1:{}", server.port());
    for (url, ca_file, says) in [
        (at("redis", "ann:s3cret-wrong@", &open), None, "check the user and the password"),
        (at("redis", ":s3cret-wrong@", &closed), None, "check the user and the password"),
        (at("redis", "ann:s3cret-word@", &closed), None, "check the user and the password"),
        (at("redis", "", &closed), None, "it wants a password"),
        (format!("{}/99", closed.url()), None, "choose a database number"),
        (at("redis", ":s3cret-word@", &tls), None, "write rediss://"),
        (at("rediss", "", &open), Some(tls.tls().ca), "does not speak TLS"),
        (at("rediss", "", &tls), None, "authorit"),
        (at("redis-cluster", "", &open), None, "write redis:// in its URL"),
        (at("redis", "", &node), None, "write redis-cluster://"),
    ] {
        let answer = tokio::time::timeout(LONG, connect(&url, ca_file)).await.expect("an answer");
        let error = match answer {
            Ok(redis) => panic!("{url} was taken ({says}): {:?}", redis.ping().await),
            Err(error) => error,
        };
        assert_eq!(error.kind, RedisErrorKind::Refused, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_nodes_holds_a_log_and_a_cache() {
    let nodes = Server::cluster();
    let redis = connect(&format!("redis-cluster://127.0.0.1:{}", nodes[0].port()), None).await.unwrap();
    use_all_of(&open(&redis)).await;
    let errors: Vec<_> = (0..100)
        .map(|n| KnownError {
            fingerprint: Fingerprint::from_bytes([n; 32]),
            category: None,
            vector: vec![f32::from(n)],
            model: "m".to_owned(),
        })
        .collect();
    let asked: Vec<_> = errors.iter().map(|e| e.fingerprint).collect();
    let known: Vec<_> = errors.iter().cloned().map(Some).collect();
    // The errors of one queue are one key, on one node.
    for queue in 0..20 {
        let cache = RedisCache::open(redis.clone(), &"q".repeat(queue + 1), LONG);
        cache.put(&errors).await.unwrap();
        assert_eq!(cache.get(&asked).await.unwrap(), known);
    }
    let sizes: Vec<_> = nodes.iter().map(|node| node.cli(&["dbsize"])).collect();
    assert!(sizes.iter().all(|size| size.trim() != "0"), "they lie on all nodes: {sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_holds_leaves_no_task_and_no_connection() {
    let server = Server::start();
    for away in [false, true] {
        let tasks = TaskTracker::new();
        let settings = RedisSettings { url: server.url().parse().unwrap(), ca_file: None };
        let log = RedisLog::open(Redis::connect(&settings, &tasks).await.unwrap(), "test", 10, &tasks).unwrap();
        assert_eq!(log.read(Cursor::START, 1, Duration::from_millis(10)).await.unwrap(), []);
        if away {
            server.kill();
        }
        drop(log);
        tasks.close();
        tokio::time::timeout(LONG, tasks.wait()).await.expect("all tasks end");
    }
    server.restart();
    assert_eq!(server.cli(&["client", "list"]).lines().count(), 1, "redis-cli is the only one");
}

/// A process that is killed when the test ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_shows_the_way_to_a_server_with_a_password() {
    let password = Some("s3cret-word".to_owned());
    let server = Server::with(RedisOptions { password, ..RedisOptions::default() });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sentinel.conf");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let watched = format!("sentinel monitor main 127.0.0.1 {} 1\nsentinel auth-pass main s3cret-word\n", server.port());
    std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\ndir {}\n{watched}", dir.path().display())).unwrap();
    let mut sentinel = std::process::Command::new("redis-server");
    sentinel.arg(&file).arg("--sentinel").stdout(std::process::Stdio::null());
    let _sentinel = Killed(sentinel.spawn().unwrap());
    let url = format!("redis-sentinel://:s3cret-word@127.0.0.1:{port}/1?sentinelServiceName=main");
    let redis = connect(&url, None).await.unwrap();
    eventually("the sentinel", async || redis.ping().await.ok()).await;
    use_all_of(&open(&redis)).await;
    assert_eq!(server.cli(&["-n", "1", "exists", "jobber:{test}:events"]).trim(), "1");
}

#[tokio::test]
async fn an_error_is_forgotten_after_its_time() {
    let server = Server::start();
    let cache = RedisCache::open(connect(&server.url(), None).await.unwrap(), "test", LONG);
    let fingerprint = Fingerprint::from_bytes([7; 32]);
    cache.put(&[KnownError { fingerprint, category: None, vector: vec![], model: "m".to_owned() }]).await.unwrap();
    let left: i64 = server.cli(&["ttl", "jobber:test:errors"]).trim().parse().unwrap();
    assert!((1..=60).contains(&left), "{left}");
    // What another version wrote counts as forgotten.
    server.cli(&["hset", "jobber:test:errors", &fingerprint.to_string(), "\u{7f}"]);
    assert_eq!(cache.get(&[fingerprint]).await.unwrap(), [None]);
}

#[tokio::test]
async fn all_errors_are_one_key_and_older_ones_are_moved_there() {
    let server = Server::start();
    let redis = connect(&server.url(), None).await.unwrap();
    let error = |n: u16| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        let fingerprint = Fingerprint::from_bytes(bytes);
        KnownError { fingerprint, category: None, vector: vec![], model: "m".to_owned() }
    };
    let cache = RedisCache::open(redis.clone(), "test", LONG);
    cache.put(&(0..600).map(error).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(server.cli(&["--raw", "keys", "*"]).trim(), "jobber:test:errors");
    // As the version before wrote it: format 1, the model, no category.
    let older = format!("jobber:test:error:{}", error(700).fingerprint);
    server.cli(&["eval", "redis.call('SET', KEYS[1], '\\1\\1\\0m\\255\\255')", "1", &older]);
    for _ in 0..2 {
        assert_eq!(cache.get(&[error(700).fingerprint]).await.unwrap(), [Some(error(700))]);
    }
    assert_eq!(server.cli(&["--raw", "keys", "*"]).trim(), "jobber:test:errors");
    // What is over is struck as others come.
    let brief = RedisCache::open(redis, "brief", Duration::from_secs(1));
    brief.put(&[error(1)]).await.unwrap();
    eventually("its time to pass", async || {
        brief.put(&[error(2)]).await.unwrap();
        (server.cli(&["hlen", "jobber:brief:errors"]).trim() == "1").then_some(())
    })
    .await;
    assert_eq!(brief.get(&[error(1).fingerprint, error(2).fingerprint]).await.unwrap(), [None, Some(error(2))]);
}
