//! Servers and workers of several machines on one Redis, each of them killed, stopped or cut off: every job ends once,
//! and history tells all of it. That the aggregates equal a recount is checked at the end of every test by the harness.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::check_attempts;
use crate::harness::proxy::Proxy;
use crate::harness::redis::{Redis, RedisOptions};
use crate::harness::{Jobber, PATIENCE, Place, Start, eventually};

/// Short, so that a loss comes soon.
const LEASE: &str = "3s";

pub(crate) async fn server(durable: bool) -> Arc<Redis> {
    let options = RedisOptions { durable, ..RedisOptions::default() };
    Arc::new(tokio::task::spawn_blocking(|| Redis::with(options)).await.unwrap())
}

/// A process on a machine of its own, `place`, that reaches Redis at this port.
pub(crate) fn on(port: u16, place: &Arc<Place>, start: Start) -> Start {
    start.at(place).env("JOBBER_QUEUE_URL", &format!("redis://127.0.0.1:{port}")).env("JOBBER_LEASE", LEASE)
}

/// Submits as many jobs; their ids.
async fn submit_many(serve: &Jobber, count: usize, job: Value) -> Vec<String> {
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![job; count]})).await;
    assert_eq!(status, 202, "{answer}");
    answer["jobs"].as_array().unwrap().iter().map(|j| j["id"].as_str().unwrap().to_owned()).collect()
}

/// How often each job ended by itself, told by the jobs: each writes its id into `file` as the last thing it does.
pub(super) fn ends(file: &Path) -> HashMap<String, usize> {
    let mut ends = HashMap::new();
    for id in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *ends.entry(id.to_owned()).or_insert(0) += 1;
    }
    ends
}

/// All are completed, each ran to its end, and history has every attempt.
async fn check_all_completed(serve: &Jobber, ids: &[String], file: &Path) {
    for id in ids {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(&view);
        let attempts = view["attempts"].as_array().unwrap();
        let completed = attempts.iter().filter(|a| a["report"]["outcome"]["kind"] == "exit").count();
        // An attempt whose end could not be told is lost, and told as lost.
        assert!(completed >= 1 && attempts.last().unwrap()["report"]["outcome"]["kind"] == "exit", "{view}");
    }
    let ends = ends(file);
    assert!(ids.iter().all(|id| ends.contains_key(id)), "a job is called completed that has not run");
    let (_, groups) = serve.get("/jobs").await;
    assert_eq!(groups["jobs"][0]["completedCount"].as_u64(), Some(ids.len() as u64));
    let queue = eventually("the queue to be empty", async || {
        let (_, queue) = serve.get("/api/v1/queue").await;
        ["waiting", "delayed", "prioritized", "active"].iter().all(|state| queue[state] == 0).then_some(queue)
    })
    .await;
    assert_eq!(queue["failed"], 0, "{queue}");
}

const COUNT: &str = "#!/bin/sh\necho $JOBBER_JOB_ID >> \"$1\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_jobs_survive_a_redis_that_is_killed_in_their_midst() {
    const JOBS: usize = 500;
    let redis = server(true).await;
    let (one, two) = (Place::new(), Place::new());
    let file = one.path().join("ends");
    for place in [&one, &two] {
        place.job("count", &COUNT.replace("echo", "sleep 0.01\necho"));
    }
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let _workers = (
        on(redis.port(), &one, Jobber::work()).start().await,
        on(redis.port(), &two, Jobber::work().arg("--cores").arg("1")).start().await,
    );
    let ids = submit_many(&serve, JOBS, json!({"name": "count", "arguments": [file]})).await;
    for part in [1, 2] {
        eventually("some of the jobs to be done", async || (ends(&file).len() >= JOBS * part / 3).then_some(())).await;
        let killed = redis.clone();
        tokio::task::spawn_blocking(move || killed.restart()).await.unwrap();
    }
    assert!(ends(&file).len() < JOBS, "the jobs were too fast for this test to say anything");
    eventually("the server to be ready", async || (serve.get("/readyz").await.0 == 200).then_some(())).await;
    check_all_completed(&serve, &ids, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_for_long_costs_no_job() {
    const CUT: Duration = Duration::from_secs(20);
    let redis = server(false).await;
    let proxy = Proxy::before(redis.port()).await;
    let (one, two) = (Place::new(), Place::new());
    let file = one.path().join("ends");
    for place in [&one, &two] {
        place.job("count", &COUNT.replace("echo", "sleep 0.1\necho"));
    }
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    // One machine is cut off with jobs in its hands; the other takes them over.
    let _cut_off = on(proxy.port(), &one, Jobber::work().arg("--cores").arg("1")).start().await;
    let ids = submit_many(&serve, 60, json!({"name": "count", "arguments": [file]})).await;
    eventually("some of the jobs to be done", async || (ends(&file).len() >= 5).then_some(())).await;
    proxy.cut();
    let cut = Instant::now();
    let _other = on(redis.port(), &two, Jobber::work().arg("--cores").arg("1")).start().await;
    for id in &ids {
        assert_eq!(serve.wait_final(id).await["state"], "completed");
    }
    tokio::time::sleep(CUT.saturating_sub(cut.elapsed())).await;
    proxy.restore();
    // Also what the one that was cut off had finished and could not tell is in history by now, or soon.
    let more = submit_many(&serve, 20, json!({"name": "count", "arguments": [file]})).await;
    let all: Vec<_> = ids.into_iter().chain(more).collect();
    check_all_completed(&serve, &all, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_past_its_lease_never_runs_beside_its_successor() {
    let redis = server(false).await;
    let (one, two) = (Place::new(), Place::new());
    stop_past_the_lease([&one, &two], |place, start| on(redis.port(), place, start)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_queue_neither_does_a_stopped_worker() {
    let place = Place::new();
    stop_past_the_lease([&place, &place], |place, start| start.at(place).env("JOBBER_LEASE", LEASE)).await;
}

/// Stops a worker until another has run its job, and lets it go on; `on` starts a process at a place.
async fn stop_past_the_lease([one, two]: [&Arc<Place>; 2], on: impl Fn(&Arc<Place>, Start) -> Start) {
    let files = one.path().to_owned();
    // Whoever runs holds the file's lock, as long as it lives, its children included; who does not get it says so. The
    // first goes on until it is killed.
    let script = "#!/bin/sh\ncd \"$1\"\nexec 9>lock\nflock -n 9 || { echo both >> both; exit 9; }\n\
                  echo $JOBBER_ATTEMPT >> starts\n[ $JOBBER_ATTEMPT -ge 2 ] || sleep 1000\nsleep 0.3\necho done\n";
    for place in [one, two] {
        place.job("locks", script);
    }
    let serve = on(one, Jobber::serve()).start().await;
    let stopped = on(one, Jobber::work()).start().await;
    // The backoff is no part of this.
    let id = serve.submit(json!({"name": "locks", "arguments": [files], "attempts": 1})).await;
    eventually("its start", async || files.join("starts").exists().then_some(())).await;
    let _second = on(two, Jobber::work()).start().await;
    stopped.freeze().await;
    // A stopped supervisor can kill nobody; its guard process does.
    let view = serve.wait_final(&id).await;
    assert_eq!((&view["state"], &view["result"]), (&json!("completed"), &json!("done")), "{view}");
    stopped.signal(Signal::CONT);
    let log = eventually("word of the loss", async || Some(stopped.log()).filter(|log| log.contains("lost"))).await;
    assert!(!files.join("both").exists(), "two copies ran at the same time; {log}");
    check_attempts(&view);
    let view = serve.wait_final(&id).await;
    let kinds: Vec<_> =
        view["attempts"].as_array().unwrap().iter().map(|a| a["report"]["outcome"]["kind"].clone()).collect();
    assert_eq!(kinds, [json!("lost"), json!("exit")], "{view}");
    // It works on.
    drop(_second);
    let id = serve.submit(json!({"name": "locks", "arguments": [files], "attempts": 1, "timeout_ms": 1})).await;
    serve.wait_final(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_machine_renews_its_leases() {
    let redis = server(false).await;
    let place = Place::new();
    place.job("burn", "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do timeout 7 sh -c 'while :; do :; done' & done; wait\n");
    let start = |start: Start| on(redis.port(), &place, start).env("JOBBER_NICE", "0");
    let serve = start(Jobber::serve()).start().await;
    let _work = start(Jobber::work().arg("--no-pin")).start().await;
    let ids = submit_many(&serve, 2, json!({"name": "burn"})).await;
    for id in &ids {
        let view = serve.wait_final(id).await;
        assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "more than two leases long: {view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_that_is_killed_is_replaced_and_nothing_is_counted_twice() {
    let redis = server(false).await;
    let place = Place::new();
    let file = place.path().join("ends");
    place.job("count", COUNT);
    let mut first = on(redis.port(), &place, Jobber::serve()).start().await;
    eventually("it to lead", async || first.log().contains("projector leads").then_some(())).await;
    let second = on(redis.port(), &place, Jobber::serve()).start().await;
    let _work = on(redis.port(), &place, Jobber::work()).start().await;
    let ids = submit_many(&second, 400, json!({"name": "count", "arguments": [file]})).await;
    eventually("some of it to be folded", async || {
        let (_, groups) = second.get("/jobs").await;
        (groups["jobs"][0]["completedCount"].as_u64()? > 50).then_some(())
    })
    .await;
    assert!(!second.log().contains("projector leads"), "two lead: {}", second.log());
    first.kill().await;
    let killed = Instant::now();
    eventually("the other to lead", async || second.log().contains("projector leads").then_some(())).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    check_all_completed(&second, &ids, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_history_knows_is_told_while_redis_is_away() {
    let redis = server(true).await;
    let place = Place::new();
    place.job("says", "#!/bin/sh\necho well done\n");
    let serve = on(redis.port(), &place, Jobber::serve()).start().await;
    let _work = on(redis.port(), &place, Jobber::work()).start().await;
    let ended = serve.submit(json!({"name": "says"})).await;
    serve.wait_final(&ended).await;
    let waiting = serve.submit(json!({"name": "says", "delay_ms": 3600000})).await;
    eventually("history to know it", async || {
        let (_, listed) = serve.get("/api/v1/jobs").await;
        (listed["items"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    redis.kill();
    let (status, view) = serve.get(&format!("/api/v1/jobs/{ended}")).await;
    assert_eq!((status, &view["state"], &view["incomplete"]), (200, &json!("completed"), &Value::Null), "{view}");
    let (status, view) = serve.get(&format!("/api/v1/jobs/{waiting}")).await;
    let lack = view["incomplete"].as_str().unwrap_or_default();
    assert!(status == 200 && view["state"] == "delayed" && lack.contains("queue can't be asked"), "{view}");
    let said = serve.cli(&["logs", &ended]).await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "well done\n"), "{}", said.stderr);
    let (status, answer) = serve.post(&format!("/api/v1/jobs/{waiting}:cancel"), json!({})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("queue_unavailable")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_redis_at_the_start_all_say_so_and_are_ready_when_it_comes() {
    let redis = server(true).await;
    redis.kill();
    let place = Place::new();
    place.job("quick", "#!/bin/sh\necho ok\n");
    let serve = on(redis.port(), &place, Jobber::serve()).start().await;
    let work = on(redis.port(), &place, Jobber::work()).start().await;
    for process in [&serve, &work] {
        eventually("word of it", async || process.log().contains("redis is away").then_some(())).await;
    }
    let (status, body) = serve.get("/readyz").await;
    assert_eq!((status, &body["components"]["queue"]["status"]), (503, &json!("unavailable")), "{body}");
    let mut fastest = PATIENCE;
    for _ in 0..5 {
        let began = Instant::now();
        let request = serve.http().post(serve.url("/api/v1/jobs")).json(&json!({"name": "quick"}));
        let answer = request.send().await.unwrap();
        fastest = fastest.min(began.elapsed());
        assert_eq!(answer.status().as_u16(), 503);
        assert!(answer.headers().contains_key("retry-after"));
    }
    // Of several, for this machine may be busy with other tests.
    assert!(fastest < Duration::from_millis(1500), "{fastest:?}");
    let again = redis.clone();
    tokio::task::spawn_blocking(move || again.restart()).await.unwrap();
    eventually("it to be ready", async || (serve.get("/readyz").await.0 == 200).then_some(())).await;
    let id = serve.submit(json!({"name": "quick"})).await;
    assert_eq!(serve.wait_final(&id).await["result"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_retried_wherever_it_is() {
    let redis = server(false).await;
    let (one, two) = (Place::new(), Place::new());
    let pid = one.path().join("pid");
    let done = one.path().join("done");
    let script = format!("#!/bin/sh\n[ -e {0} ] && exit 0\necho $$ > \"$1\"\nexec sleep 1000\n", done.display());
    for place in [&one, &two] {
        place.job("long", &script);
    }
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let cancel = async |id: &str| serve.post(&format!("/api/v1/jobs/{id}:cancel"), json!({"reason": "a test"})).await;
    // No worker has ever been there.
    let waiting = serve.submit(json!({"name": "long", "arguments": [pid]})).await;
    let (status, answer) = cancel(&waiting).await;
    assert_eq!((status, &answer["status"]), (202, &json!("cancelled")), "{answer}");
    assert_eq!(serve.wait_final(&waiting).await["outcome"]["kind"], "cancelled");
    let running = serve.submit(json!({"name": "long", "arguments": [pid]})).await;
    let _work = on(redis.port(), &two, Jobber::work()).start().await;
    let process: String =
        eventually("its process", async || std::fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')))
            .await;
    let (status, answer) = cancel(&running).await;
    assert_eq!((status, &answer["status"]), (202, &json!("cancelling")), "{answer}");
    let view = serve.wait_final(&running).await;
    assert_eq!(
        (&view["outcome"]["kind"], &view["error"]),
        (&json!("cancelled"), &json!("cancelled: a test")),
        "{view}"
    );
    assert!(!Path::new("/proc").join(process.trim()).exists(), "its process is still there");
    assert_eq!(view["attempts"].as_array().unwrap().len(), 1, "{view}");
    std::fs::write(&done, "").unwrap();
    // A word of it that comes late is no request to stop the next attempt.
    let late = json!({"cancel": {"id": running, "reason": "a test"}}).to_string();
    assert_eq!(redis.cli(&["publish", "bull:my-job-queue:jobber:wake", &late]).trim(), "2");
    for (id, attempts) in [(&running, 2), (&waiting, 1)] {
        let (status, answer) = serve.post(&format!("/api/v1/jobs/{id}:retry"), json!({})).await;
        assert_eq!(status, 202, "{answer}");
        let view = eventually("the retry", async || {
            let view = serve.wait_final(id).await;
            (view["state"] == "completed").then_some(view)
        })
        .await;
        assert_eq!(view["attempts"].as_array().unwrap().len(), attempts, "{view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_at_its_cap_refuses_submissions_and_drops_nothing() {
    let redis = server(false).await;
    let (here, there) = (Place::new(), Place::new());
    for place in [&here, &there] {
        place.job("quick", "#!/bin/sh\n");
    }
    let start = |place, start: Start| on(redis.port(), place, start).env("JOBBER_EVENTS_CAP", "1000");
    let serve = start(&here, Jobber::serve()).start().await;
    // With history's database held by somebody, nothing is folded and so nothing is trimmed.
    let connection = rusqlite::Connection::open(here.data_dir().join("jobber.db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut ids = submit_many(&serve, 900, json!({"name": "quick"})).await;
    let (status, answer) = serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![json!({"name": "quick"}); 200]})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("log_full")), "{answer}");
    // The worker fills what is left, and then holds what it has.
    let _work = start(&there, Jobber::work()).start().await;
    let length = || redis.cli(&["xlen", "jobber:{bull:my-job-queue}:events"]).trim().parse::<u64>().unwrap();
    eventually("the log to be full", async || (length() >= 999).then_some(())).await;
    // One event more may fit, two do not, once the server has seen what the worker wrote. What it takes until then must run.
    let refused = eventually("a refusal", async || {
        let (status, answer) =
            serve.post("/api/v1/jobs:bulk", json!({"jobs": vec![json!({"name": "quick"}); 2]})).await;
        let taken = answer["jobs"].as_array().into_iter().flatten();
        ids.extend(taken.map(|job| job["id"].as_str().unwrap().to_owned()));
        (status != 202).then_some((status, answer["code"].clone()))
    });
    assert_eq!(refused.await, (503, json!("log_full")));
    assert!(length() <= 1000);
    connection.execute_batch("ROLLBACK").unwrap();
    drop(connection);
    for id in &ids {
        let view = serve.wait_final(id).await;
        assert_eq!(view["state"], "completed", "{view}");
        check_attempts(&view);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_all_machines_are_listed_and_drained() {
    let redis = server(false).await;
    let (one, two) = (Place::new(), Place::new());
    let serve = on(redis.port(), &one, Jobber::serve()).start().await;
    let mut work = on(redis.port(), &two, Jobber::work().arg("--cores").arg("1")).start().await;
    let worker = eventually("it to be listed", async || {
        let out = serve.cli(&["worker", "ls", "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&out.stdout).ok()?;
        let workers = listed["items"].as_array()?.clone();
        workers.into_iter().next()
    })
    .await;
    assert_eq!((&worker["slots"], &worker["cores"], &worker["running"]), (&json!(1), &json!(1), &json!(0)), "{worker}");
    assert!(worker["host"].is_string() && worker["last_seen"].is_string(), "{worker}");
    assert_eq!(worker["version"], env!("CARGO_PKG_VERSION"));
    let out = serve.cli(&["worker", "drain", worker["id"].as_str().unwrap()]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(work.ended().await, 0, "{}", work.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_and_a_server_with_user_password_tls_and_database_run_jobs() {
    let nodes = tokio::task::spawn_blocking(Redis::cluster).await.unwrap();
    let user = Some(("ann".to_owned(), "s3cret-ann".to_owned()));
    let options = RedisOptions { user, tls: true, ..RedisOptions::default() };
    let closed = tokio::task::spawn_blocking(|| Redis::with(options)).await.unwrap();
    let ca = closed.tls().ca;
    let cluster = format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", nodes[0].port(), nodes[1].port());
    for (url, prefix, ca) in [(cluster, "{bull}", None), (format!("{}/3", closed.url()), "bull", Some(ca))] {
        let place = Place::new();
        place.job("quick", "#!/bin/sh\necho ok\n");
        place.job("long", "#!/bin/sh\nexec sleep 1000\n");
        let start = |start: Start| {
            let start = start.at(&place).env("JOBBER_QUEUE_URL", &url).env("JOBBER_QUEUE_PREFIX", prefix);
            match &ca {
                Some(file) => start.env("JOBBER_QUEUE_TLS_CA", file.to_str().unwrap()),
                None => start,
            }
        };
        let (serve, work) = (start(Jobber::serve()).start().await, start(Jobber::work()).start().await);
        let ids = submit_many(&serve, 20, json!({"name": "quick"})).await;
        for id in &ids {
            assert_eq!(serve.wait_final(id).await["result"], "ok");
        }
        let id = serve.submit(json!({"name": "long"})).await;
        serve.wait_state(&id, "active").await;
        let (status, answer) = serve.post(&format!("/api/v1/jobs/{id}:cancel"), json!({})).await;
        assert_eq!(status, 202, "{answer}");
        assert_eq!(serve.wait_final(&id).await["outcome"]["kind"], "cancelled");
        assert!(!format!("{}{}", serve.log(), work.log()).contains("s3cret"), "a password is in the log");
    }
    assert!(closed.cli(&["-n", "3", "exists", "bull:my-job-queue:meta"]).trim() == "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_history_is_not_folded_from_one_log() {
    let redis = server(false).await;
    let (place, other) = (Place::new(), Place::new());
    place.job("ok", "#!/bin/sh\n");
    let serve = on(redis.port(), &place, Jobber::serve()).start().await;
    let _work = on(redis.port(), &place, Jobber::work()).start().await;
    serve.wait_final(&serve.submit(json!({"name": "ok"})).await).await;

    let url = format!("redis://127.0.0.1:{}", redis.port());
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let out = crate::harness::run(&args, &[("JOBBER_QUEUE_URL", &url)], other.path(), "").await;
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("is folded into another history"), "{}", out.stderr);
    serve.wait_final(&serve.submit(json!({"name": "ok"})).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_a_clear_error_at_the_start() {
    let password = Some("s3cret-word".to_owned());
    let options = RedisOptions { password, ..RedisOptions::default() };
    let closed = tokio::task::spawn_blocking(|| Redis::with(options)).await.unwrap();
    let cluster = RedisOptions { cluster: true, ..RedisOptions::default() };
    let node = tokio::task::spawn_blocking(|| Redis::with(cluster)).await.unwrap();
    let at = |scheme: &str, who: &str, redis: &Redis| format!("{scheme}://{who}127.0.0.1:{}", redis.port());
    for (url, prefix, says) in [
        (at("redis", "", &closed), "bull", "it wants a password"),
        (at("redis", ":s3cret-wrong@", &closed), "bull", "check the user and the password"),
        (at("redis", ":s3cret-word@", &closed) + "/99", "bull", "database"),
        (at("rediss", ":s3cret-word@", &closed), "bull", "does not speak TLS"),
        (at("redis-sentinel", "", &closed) + "?sentinelServiceName=main", "bull", "Sentinel"),
        (at("redis", "", &node), "bull", "redis-cluster://"),
        (at("redis-cluster", "", &node), "bull", "{bull}"),
        (at("http", "", &closed), "bull", "redis://"),
    ] {
        for role in ["serve", "work"] {
            let place = Place::new();
            let env = [("JOBBER_QUEUE_URL", url.as_str()), ("JOBBER_QUEUE_PREFIX", prefix)];
            let args: &[&str] = if role == "serve" { &["serve", "--listen", "127.0.0.1:0"] } else { &["work"] };
            let out = crate::harness::run(args, &env, place.path(), "").await;
            assert_ne!(out.code, 0, "{url} was taken");
            assert!(out.stderr.contains(says), "{url}: {}", out.stderr);
            assert!(!out.stderr.contains("s3cret"), "{}", out.stderr);
        }
    }
}
