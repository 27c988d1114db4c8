//! Notices, from a job's end to a receiver: signed, tried again, given up, told once more after a kill.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::receiver::Receiver;
use crate::harness::{Jobber, Place, Start, eventually, run};

const FAILS: &str = "#!/bin/sh\necho \"can't open in.png\" >&2\nexit 3\n";

/// A place with a configuration, and two jobs: one fails, one completes.
fn place(config: &str) -> Arc<Place> {
    let place = Place::new();
    place.job("fails", FAILS);
    place.job("works", "#!/bin/sh\necho fine\n");
    std::fs::write(place.path().join("jobber.toml"), config).unwrap();
    std::fs::write(place.path().join("secret"), "s3cret\n").unwrap();
    place
}

fn target(name: &str, on: &str, url: &str, more: &str) -> String {
    format!("[[notify]]\nname = \"{name}\"\non = [{on}]\nurl = \"{url}/hook\"\n{more}\n")
}

async fn dev(place: &Arc<Place>) -> Jobber {
    Jobber::dev().at(place).start().await
}

async fn fail(jobber: &Jobber) -> String {
    let id = jobber.submit(json!({"name": "fails", "attempts": 1})).await;
    jobber.wait_final(&id).await;
    id
}

async fn listed(jobber: &Jobber, args: &[&str]) -> Vec<Value> {
    let words: Vec<_> = ["notify", "list", "-o", "json"].iter().chain(args).copied().collect();
    let out = jobber.cli(&words).await;
    assert_eq!(out.code, 0, "{out:?}");
    let list: Value = serde_json::from_str(&out.stdout).unwrap();
    list["items"].as_array().unwrap().clone()
}

async fn dead(jobber: &Jobber, count: usize) -> Vec<Value> {
    eventually(&format!("{count} dead letters"), async || {
        Some(listed(jobber, &[]).await).filter(|dead| dead.len() == count)
    })
    .await
}

async fn nothing_waits(jobber: &Jobber) {
    let look = async || listed(jobber, &["--waiting"]).await.is_empty().then_some(());
    eventually("an empty outbox", look).await;
}

/// HMAC-SHA256 by another program than Jobber's own.
fn hmac(secret: &str, text: &[u8]) -> String {
    let mut openssl = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret, "-r"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut openssl.stdin.take().unwrap(), text).unwrap();
    let out = openssl.wait_with_output().unwrap();
    String::from_utf8(out.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_failed_job_is_told_once_to_each_target_that_wants_it_and_signed() {
    let (ops, all) = (Receiver::start().await, Receiver::start().await);
    let config = target("ops", "\"failed\"", ops.url(), "secret_file = \"secret\"\njobs = [\"fai*\"]")
        + &target("all", "\"failed\", \"completed\"", all.url(), "");
    let jobber = dev(&place(&config)).await;
    let id = fail(&jobber).await;
    let works = jobber.submit(json!({"name": "works", "group": "g"})).await;
    jobber.wait_final(&works).await;
    let told = all.taken(2).await;
    let of = |event: &str| told.iter().find(|d| d.header("jobber-event") == event).unwrap().json();
    assert_eq!((&of("completed")["job"]["id"], &of("completed")["job"]["group"]), (&json!(works), &json!("g")));
    assert_eq!(of("failed")["job"]["id"], json!(id));
    let delivery = &ops.taken(1).await[0];
    let notice = delivery.json();
    assert_eq!((delivery.path.as_str(), delivery.header("content-type")), ("/hook", "application/json"));
    assert_eq!((&notice["event"], &notice["target"], &notice["test"]), (&json!("failed"), &json!("ops"), &Value::Null));
    assert_eq!(notice["id"].as_str().unwrap(), delivery.header("jobber-delivery"));
    let job = &notice["job"];
    assert_eq!((&job["name"], &job["state"], &job["outcome"]["code"]), (&json!("fails"), &json!("failed"), &json!(3)));
    assert_eq!((&job["queue"], &job["attempts"]), (&json!("my-job-queue"), &json!(1)), "{notice}");
    assert!(job["error"].as_str().unwrap().contains("can't open in.png"), "{notice}");
    assert!(notice["text"].as_str().unwrap().contains("fails has failed"), "{notice}");
    let seconds = delivery.header("jobber-timestamp");
    let signed = [seconds.as_bytes(), &b"."[..], &delivery.body[..]].concat();
    assert_eq!(delivery.header("jobber-signature"), format!("t={seconds},v1={}", hmac("s3cret", &signed)));
    // What is not wanted does not come late either: the outbox is empty.
    nothing_waits(&jobber).await;
    assert!(listed(&jobber, &[]).await.is_empty());
    assert_eq!(ops.all().len(), 1);
}

#[tokio::test]
async fn a_notice_is_told_of_after_a_kill_between_event_and_delivery_under_the_same_id() {
    let receiver = Receiver::start().await;
    receiver.answer(503, &[]);
    let place = place(&target("ops", "\"failed\"", receiver.url(), ""));
    let mut first = dev(&place).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(fail(&first).await);
    }
    receiver.tried(1).await;
    first.kill().await;
    receiver.answer(200, &[]);
    let _second = dev(&place).await;
    let taken = receiver.taken(5).await;
    let told: std::collections::BTreeSet<_> =
        taken.iter().map(|d| d.json()["job"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, jobs.into_iter().collect::<std::collections::BTreeSet<_>>());
    let id_of = |job: &Value| {
        let mut ids: Vec<_> =
            receiver.all().iter().filter(|d| d.json()["job"]["id"] == *job).map(|d| d.json()["id"].clone()).collect();
        ids.dedup();
        ids.len()
    };
    assert!(taken.iter().all(|d| id_of(&d.json()["job"]["id"]) == 1), "each try has the same id");
}

#[tokio::test]
async fn a_kill_at_once_after_the_end_of_a_job_loses_no_notice() {
    let receiver = Receiver::start().await;
    let place = place(&target("ops", "\"failed\"", receiver.url(), ""));
    let mut jobber = dev(&place).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(jobber.submit(json!({"name": "fails", "attempts": 1})).await);
        eventually("an end, as the queue sees it", async || {
            let (_, view) = jobber.get(&format!("/api/v1/jobs/{}", jobs.last().unwrap())).await;
            (view["state"] == "failed").then_some(())
        })
        .await;
        jobber.kill().await;
        jobber = dev(&place).await;
    }
    eventually("a notice of each", async || {
        let told: Vec<_> = receiver.all().iter().map(|d| d.json()["job"]["id"].as_str().unwrap().to_owned()).collect();
        jobs.iter().all(|job| told.contains(job)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_receiver_refuses_is_a_dead_letter_that_can_be_tried_again_or_dropped() {
    let receiver = Receiver::start().await;
    receiver.answer(404, &[]);
    let jobber = dev(&place(&target("ops", "\"failed\"", receiver.url(), ""))).await;
    let (one, _) = (fail(&jobber).await, fail(&jobber).await);
    let letters = dead(&jobber, 2).await;
    assert!(letters[0]["problem"].as_str().unwrap().contains("404"), "{letters:?}");
    assert_eq!(receiver.all().len(), 2, "a refusal is final");
    let of_one = letters.iter().find(|letter| letter["notice"]["job"]["id"] == json!(one)).unwrap();
    let id = of_one["id"].as_str().unwrap();
    receiver.answer(200, &[]);
    let out = jobber.cli(&["notify", "retry", id]).await;
    assert_eq!((out.code, out.stdout.contains(id)), (0, true), "{out:?}");
    assert_eq!(receiver.taken(1).await[0].json()["id"], json!(id));
    let other = dead(&jobber, 1).await[0]["id"].as_str().unwrap().to_owned();
    let out = jobber.cli(&["notify", "drop", &other, "nonsense"]).await;
    assert_eq!(out.code, 3, "{out:?}");
    assert!(out.stderr.contains("nonsense: no dead letter"), "{out:?}");
    dead(&jobber, 0).await;
    let out = jobber.cli(&["notify", "retry"]).await;
    assert_eq!(out.code, 2, "says which: {out:?}");
}

#[tokio::test]
async fn a_notice_is_given_up_when_its_time_is_over() {
    let receiver = Receiver::start().await;
    receiver.answer(500, &[]);
    let jobber = dev(&place(&target("ops", "\"failed\"", receiver.url(), "give_up_after = \"3s\""))).await;
    fail(&jobber).await;
    let letters = dead(&jobber, 1).await;
    assert!(letters[0]["problem"].as_str().unwrap().contains("given up after"), "{letters:?}");
    assert!(letters[0]["tries"].as_u64().unwrap() >= 2, "{letters:?}");
    let out = jobber.cli(&["notify", "targets"]).await;
    assert!(out.stdout.contains("ops") && out.stdout.contains("/..."), "{out:?}");
    let (_, metrics) = jobber.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("jobber_notices_total{target=\"ops\",result=\"dead\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_wait_gets_one_and_redirects_are_not_followed() {
    let (busy, moved) = (Receiver::start().await, Receiver::start().await);
    busy.answer(429, &[("retry-after", "4")]);
    moved.answer(302, &[("location", busy.url())]);
    let config = target("busy", "\"failed\"", busy.url(), "") + &target("moved", "\"failed\"", moved.url(), "");
    let jobber = dev(&place(&config)).await;
    fail(&jobber).await;
    busy.tried(1).await;
    let letters = dead(&jobber, 1).await;
    assert_eq!(letters[0]["target"], "moved");
    let waiting = eventually("a try that has failed", async || {
        listed(&jobber, &["--waiting"]).await.into_iter().find(|notice| notice["tries"] == 1)
    })
    .await;
    let (since, next) = (waiting["since"].as_str().unwrap(), waiting["next_at"].as_str().unwrap());
    let at = |text| jobber::domain::Timestamp::parse(text).unwrap();
    assert!(at(next).since(at(since)) >= std::time::Duration::from_secs(4), "{waiting}");
    busy.answer(204, &[]);
    busy.taken(1).await;
}

#[tokio::test]
async fn a_target_that_hangs_holds_up_neither_another_nor_a_job() {
    let good = Receiver::start().await;
    // It takes connections and never answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hangs.local_addr().unwrap());
    let config =
        target("hangs", "\"failed\"", &url, "timeout = \"300s\"") + &target("good", "\"failed\"", good.url(), "");
    let jobber = dev(&place(&config)).await;
    for _ in 0..20 {
        fail(&jobber).await;
    }
    good.taken(20).await;
    let (_, targets) = jobber.get("/api/v1/notices/targets").await;
    assert_eq!(targets["items"][0]["waiting"], 20, "{targets}");
}

#[tokio::test]
async fn a_sample_says_whether_a_target_takes_it() {
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer(403, &[]);
    let config = target("good", "\"regression\"", good.url(), "") + &target("bad", "\"unhealthy\"", bad.url(), "");
    let jobber = dev(&place(&config)).await;
    let out = jobber.cli(&["notify", "test", "good"]).await;
    assert_eq!((out.code, out.stdout.contains("delivered")), (0, true), "{out:?}");
    let sample = good.taken(1).await[0].json();
    assert_eq!((&sample["test"], &sample["event"]), (&json!(true), &json!("regression")));
    assert!(sample["regression"]["build"].is_string(), "{sample}");
    let out = jobber.cli(&["notify", "test", "-o", "json"]).await;
    assert_eq!(out.code, 1, "{out:?}");
    let tested: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(
        (&tested["items"][0]["result"], &tested["items"][1]["result"]),
        (&json!("delivered"), &json!("refused"))
    );
    let out = jobber.cli(&["notify", "test", "none"]).await;
    assert_eq!((out.code, out.stderr.contains("no [[notify]] of the name none")), (3, true), "{out:?}");
}

#[tokio::test]
async fn slack_and_matrix_get_messages_in_their_own_form() {
    let (slack, matrix) = (Receiver::start().await, Receiver::start().await);
    let config = target("slack", "\"failed\"", slack.url(), "template = \"slack\"")
        + &target("matrix", "\"failed\"", matrix.url(), "template = \"matrix\"\ntoken_file = \"secret\"")
        + &target("own", "\"completed\"", slack.url(), r#"template = '{"title": "{{job_name}}: {{state}}"}'"#);
    let jobber = dev(&place(&config)).await;
    fail(&jobber).await;
    let message = slack.taken(1).await[0].json();
    assert!(message["text"].as_str().unwrap().starts_with("fails has failed"), "{message}");
    let put = matrix.taken(1).await.remove(0);
    assert_eq!((put.method.as_str(), put.header("authorization")), ("PUT", "Bearer s3cret"));
    assert_eq!(put.path, format!("/hook/{}", put.header("jobber-delivery")));
    assert_eq!(put.json()["msgtype"], "m.notice");
    let id = jobber.submit(json!({"name": "works"})).await;
    jobber.wait_final(&id).await;
    assert_eq!(slack.taken(2).await[1].json(), json!({"title": "works: completed"}));
}

#[tokio::test]
async fn a_program_gets_the_notice_on_its_standard_input_and_is_run_again_until_it_exits_with_0() {
    let place = Place::new();
    place.job("fails", FAILS);
    place.job(
        "tell",
        "#!/bin/sh\nd=$(dirname $1)\necho try >> $d/tries\n[ $(wc -l < $d/tries) -ge 3 ] || { echo not yet >&2; exit 1; }\ncat > $1.new; mv $1.new $1\n",
    );
    let got = place.path().join("got");
    let config = format!(
        "[[notify]]\nname = \"tell\"\non = [\"failed\"]\ncommand = [{:?}, {got:?}]\ntimeout = \"20s\"\n",
        place.jobs_dir().join("tell")
    );
    std::fs::write(place.path().join("jobber.toml"), config).unwrap();
    let serve = Jobber::serve().at(&place).start().await;
    let _work = Jobber::work().at(&place).start().await;
    let id = fail(&serve).await;
    let notice = eventually("what the program got", async || std::fs::read(&got).ok()).await;
    let notice: Value = serde_json::from_slice(&notice).unwrap();
    assert_eq!((&notice["event"], &notice["job"]["id"]), (&json!("failed"), &json!(id)));
    nothing_waits(&serve).await;
    assert_eq!(std::fs::read_to_string(place.path().join("tries")).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn a_category_is_told_of_once_it_is_known_and_only_to_those_who_want_it() {
    let (first, disk) = (Receiver::start().await, Receiver::start().await);
    let config = target("first", "\"category\"", first.url(), "first = true")
        + &target("disk", "\"failed\"", disk.url(), "categories = [\"no-such-category\"]");
    let jobber = dev(&place(&config)).await;
    let job = "#!/bin/sh\necho \"Null pointer exception: dereference of a null pointer in step $1\" >&2\nexit 1\n";
    jobber.job("crashes", job);
    for step in ["1", "2"] {
        let id = jobber.submit(json!({"name": "crashes", "arguments": [step], "attempts": 1})).await;
        jobber.wait_final(&id).await;
        if step == "1" {
            first.taken(1).await;
        }
    }
    nothing_waits(&jobber).await;
    let told = first.all();
    assert_eq!(told.len(), 1, "only the first of the category");
    assert!(told[0].json()["job"]["category"].is_string(), "{}", told[0].json());
    assert!(disk.all().is_empty() && listed(&jobber, &[]).await.is_empty());
}

#[tokio::test]
async fn a_worker_that_is_lost_is_told_of_and_that_another_has_come() {
    let receiver = Receiver::start().await;
    let place = place(&target("ops", "\"unhealthy\"", receiver.url(), ""));
    let redis = crate::harness::redis::Redis::start();
    let on_redis = |start: Start| start.at(&place).env("JOBBER_QUEUE_URL", &redis.url());
    let serve = on_redis(Jobber::serve()).start().await;
    let listed = async |count: usize| {
        eventually(&format!("{count} workers"), async || {
            let (_, workers) = serve.get("/api/v1/workers").await;
            (workers["items"].as_array()?.len() == count).then_some(())
        })
        .await;
    };
    let mut ends = on_redis(Jobber::work()).start().await;
    listed(1).await;
    assert_eq!(ends.stop().await, 0);
    listed(0).await;
    let mut lost = on_redis(Jobber::work()).start().await;
    listed(1).await;
    // The server looks every half second; of a worker that it never saw it knows nothing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lost.kill().await;
    let turn = receiver.taken(1).await[0].json();
    assert_eq!(turn["health"]["healthy"], json!(false), "{turn}");
    assert!(turn["health"]["part"].as_str().unwrap().starts_with("workers of "), "{turn}");
    let _again = on_redis(Jobber::work()).start().await;
    let turn = receiver.taken(2).await[1].json();
    assert_eq!(turn["health"]["healthy"], json!(true), "{turn}");
}

#[tokio::test]
async fn a_queue_that_is_away_and_comes_back_is_told_of() {
    let receiver = Receiver::start().await;
    let place = place(&target("ops", "\"unhealthy\"", receiver.url(), ""));
    let redis = crate::harness::redis::Redis::start();
    let _serve = Jobber::serve().at(&place).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let of_queue = async |healthy: bool| {
        eventually(&format!("that the queue is healthy: {healthy}"), async || {
            let told: Vec<_> = receiver.all().iter().map(|delivery| delivery.json()).collect();
            told.into_iter().find(|notice| {
                let health = &notice["health"];
                health["part"] == "queue" && health["healthy"] == healthy
            })
        })
        .await
    };
    redis.kill();
    let notice = of_queue(false).await;
    assert!(!notice["health"]["problem"].as_str().unwrap().is_empty(), "{notice}");
    redis.restart();
    of_queue(true).await;
}

#[tokio::test]
async fn a_target_that_is_gone_leaves_dead_letters() {
    let receiver = Receiver::start().await;
    receiver.answer(503, &[]);
    let place = place(&target("old", "\"failed\"", receiver.url(), ""));
    let mut jobber = dev(&place).await;
    fail(&jobber).await;
    receiver.tried(1).await;
    assert_eq!(jobber.stop().await, 0);
    std::fs::write(place.path().join("jobber.toml"), "").unwrap();
    let jobber = dev(&place).await;
    let letters = dead(&jobber, 1).await;
    assert!(letters[0]["problem"].as_str().unwrap().contains("no such target"), "{letters:?}");
    let out = jobber.cli(&["notify", "retry", letters[0]["id"].as_str().unwrap()]).await;
    assert_eq!(out.code, 3, "{out:?}");
    let out = jobber.cli(&["notify", "test"]).await;
    assert_eq!((out.code, out.stderr.contains("no [[notify]]")), (3, true), "{out:?}");
    assert_eq!(jobber.cli(&["notify", "drop", "--all"]).await.code, 0);
    dead(&jobber, 0).await;
}

async fn refusal(config: &str) -> String {
    let place = place(config);
    let out = run(&["serve", "--listen", "127.0.0.1:0"], &[], place.path(), "").await;
    assert_ne!(out.code, 0, "{config}");
    let doctor = run(&["doctor"], &[], place.path(), "").await;
    let says = out.stderr.trim().to_owned();
    let fault = says.rsplit("notify").next().unwrap().lines().next().unwrap().to_owned();
    assert!(doctor.code != 0 && doctor.stdout.contains("notify"), "{doctor:?}");
    assert!(!fault.is_empty(), "{says}");
    says
}

#[tokio::test]
async fn wrong_sections_stop_the_start_with_their_place() {
    let url = "http://127.0.0.1:9";
    for (config, says) in [
        (target("a", "\"fialed\"", url, ""), "notify.a.on = \"fialed\""),
        (target("a", "\"failed\"", url, "") + &target("a", "\"failed\"", url, ""), "two sections have the name"),
        (target("a", "\"failed\"", url, "command = [\"/bin/true\"]"), "a url and a command"),
        (target("a", "\"failed\"", url, "secret_file = \"nowhere\""), "nowhere"),
        (target("a", "\"failed\"", url, "template = '{\"a\": \"{{jbo}}\"}'"), "no field {{jbo}}"),
        (target("a", "\"failed\"", "ftp://x", ""), "http:// or https://"),
        (target("a", "\"failed\"", url, "retries = 3"), "no setting notify.a.retries"),
    ] {
        let said = refusal(&config).await;
        assert!(said.contains(says) && said.contains("jobber.toml"), "{said}");
    }
}

/// On Redis, with one server that is killed: what it had not delivered is delivered by the one that comes after.
#[tokio::test]
async fn with_the_queue_on_redis_notices_come_through_a_kill_as_well() {
    let redis = crate::harness::redis::Redis::start();
    let receiver = Receiver::start().await;
    receiver.answer(503, &[]);
    let place = place(&target("ops", "\"failed\"", receiver.url(), ""));
    let on_redis = |start: Start| start.at(&place).env("JOBBER_QUEUE_URL", &redis.url());
    let mut serve = on_redis(Jobber::serve()).start().await;
    let _work = on_redis(Jobber::work()).start().await;
    let id = fail(&serve).await;
    receiver.tried(1).await;
    serve.kill().await;
    receiver.answer(200, &[]);
    let _serve = on_redis(Jobber::serve()).start().await;
    assert_eq!(receiver.taken(1).await[0].json()["job"]["id"], json!(id));
}
