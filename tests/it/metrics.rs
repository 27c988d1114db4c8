//! What Prometheus sees: the formats, the bounds, and counters that equal what the API counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, eventually};

/// The text at `/metrics` of this address, and its type.
async fn scrape_at(base: &str, accept: &str) -> (String, String) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = http.get(format!("{base}/metrics")).header("accept", accept).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.text().await.unwrap(), kind)
}

async fn scrape(j: &Jobber) -> String {
    scrape_at(j.base(), "text/plain").await.0
}

/// Where a worker shows its metrics, by its log.
fn metrics_address(worker: &Jobber) -> String {
    let log = worker.log();
    let line = log.lines().find(|line| line.contains("showing metrics")).unwrap_or_else(|| panic!("{log}"));
    let start = line.find("http://").unwrap();
    line[start..].split([' ', '"', '\u{1b}']).next().unwrap().to_owned()
}

/// What promtool says; empty when it is content.
fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: tools/install-test-tools");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The values of the samples of one name, by their labels as they are written.
fn samples(text: &str, name: &str) -> BTreeMap<String, f64> {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let pairs = text.lines().filter(of_name).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series[name.len()..].to_owned(), value.parse().unwrap())
    });
    pairs.collect()
}

/// The sum of the samples of one name that have this label.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    samples(text, name).iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
}

/// A job that does what its first argument says.
const JOB: &str = "#!/bin/sh\ncase $1 in fail) echo no luck >&2; exit 3;; die) kill -SEGV $$;; wait) sleep 60;; esac\n";

#[tokio::test]
async fn promtool_finds_nothing_in_what_the_roles_show() {
    let dev = Jobber::dev().env("JOBBER_METRICS_LISTEN", "127.0.0.1:1").start().await;
    dev.job("some", JOB);
    for argument in ["", "fail", "die"] {
        let id = dev.submit(json!({"name": "some", "arguments": [argument], "attempts": 1})).await;
        dev.wait_final(&id).await;
    }
    let place = Place::new();
    let serve = Jobber::serve().at(&place).start().await;
    let work = Jobber::work().at(&place).env("JOBBER_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let worker = eventually("the address of the worker's metrics", async || {
        work.log().contains("showing metrics").then(|| metrics_address(&work))
    })
    .await;
    eventually("slots of the worker", async || {
        (sum(&scrape_at(&worker, "*/*").await.0, "jobber_worker_slots", "") > 0.0).then_some(())
    })
    .await;
    for (role, base) in [("dev", dev.base()), ("serve", serve.base()), ("work", worker.as_str())] {
        let (text, kind) = scrape_at(base, "text/plain;version=0.0.4").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(promtool(&["check", "metrics"], &text), "", "{role}: {text}");
        assert_eq!(sum(&text, "jobber_build_info", &format!("role=\"{role}\"")), 1.0, "{text}");
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"] {
            assert!(sum(&text, &format!("process_{name}"), "") > 0.0, "{role} has no {name}: {text}");
        }
        assert!(sum(&text, "jobber_data_dir_free_bytes", "") > 0.0, "{text}");
        let (text, kind) = scrape_at(base, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(text.ends_with("\n# EOF\n"), "{role}: {text}");
        assert!(text.contains("# TYPE process_cpu_seconds counter\n"), "{role}: {text}");
    }
    assert!(!dev.log().contains("request method=GET path=\"/metrics\""), "a scrape is worth no line: {}", dev.log());
}

#[tokio::test]
async fn counters_equal_what_the_api_counts() {
    let j = Jobber::dev().env("JOBBER_METRICS_BULLMQ_NAMES", "true").arg("--cores=2").start().await;
    j.job("some", JOB);
    let submit = async |argument: &str, attempts: u32| {
        let backoff = json!({"type": "fixed", "delay_ms": 1});
        j.submit(json!({"name": "some", "arguments": [argument], "attempts": attempts, "backoff": backoff})).await
    };
    let mut ids = Vec::new();
    for (argument, attempts) in [("", 1), ("", 3), ("fail", 3), ("fail", 1), ("die", 2), ("wait", 1)] {
        ids.push(submit(argument, attempts).await);
    }
    let delayed = j.submit(json!({"name": "some", "delay_ms": 3_600_000})).await;
    j.wait_state(&ids[5], "active").await;
    for id in [&ids[5], &delayed] {
        let (status, answer) = j.post(&format!("/api/v1/jobs/{id}:cancel"), json!({})).await;
        assert!(status < 300, "{answer}");
    }
    ids.push(delayed);
    for id in &ids {
        j.wait_final(id).await;
    }
    let (status, answer) = j.post(&format!("/api/v1/jobs/{}:retry", ids[3]), json!({})).await;
    assert!(status < 300, "{answer}");
    eventually("the second end of the job that was put back", async || {
        let (_, view) = j.get(&format!("/api/v1/jobs/{}", ids[3])).await;
        (view["attempts"].as_array().unwrap().len() == 2 && view["state"] == "failed").then_some(())
    })
    .await;

    let (mut states, mut outcomes, mut attempts) = (BTreeMap::new(), BTreeMap::new(), 0);
    for id in &ids {
        let (_, view) = j.get(&format!("/api/v1/jobs/{id}")).await;
        let is_cancelled = view["outcome"]["kind"] == "cancelled";
        let state = if is_cancelled { "cancelled" } else { view["state"].as_str().unwrap() };
        *states.entry(state.to_owned()).or_insert(0.0) += 1.0;
        for attempt in view["attempts"].as_array().unwrap() {
            let outcome = &attempt["report"]["outcome"];
            let is_success = outcome["kind"] == "exit" && outcome["code"] == 0;
            let kind = if is_success { "completed" } else { outcome["kind"].as_str().unwrap() };
            *outcomes.entry(kind.to_owned()).or_insert(0.0) += 1.0;
            attempts += 1;
        }
    }
    let text = eventually("all failures to have a category", async || {
        let text = scrape(&j).await;
        (sum(&text, "jobber_failures_total", "") == 7.0).then_some(text)
    })
    .await;
    assert_eq!(sum(&text, "jobber_jobs_submitted_total", "source=\"api\""), 7.0);
    assert_eq!(sum(&text, "jobber_attempts_started_total", "job_name=\"some\""), f64::from(attempts));
    for (outcome, count) in &outcomes {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(sum(&text, "jobber_attempts_finished_total", &label), *count, "{outcome}: {text}");
    }
    assert_eq!(sum(&text, "jobber_attempts_finished_total", ""), f64::from(attempts), "{text}");
    // The job that was put back has failed twice, and stands once in the API.
    let put_back = sum(&text, "jobber_jobs_put_back_total", "");
    assert_eq!(put_back, 1.0);
    let finished = |result: &str| sum(&text, "jobber_jobs_finished_total", &format!("result=\"{result}\""));
    assert_eq!(finished("completed"), states["completed"]);
    assert_eq!(finished("failed"), states["failed"] + put_back);
    assert_eq!(finished("cancelled"), states["cancelled"]);
    assert_eq!(sum(&text, "jobber_retries_scheduled_total", ""), 3.0);
    assert_eq!(sum(&text, "jobber_retries_exhausted_total", ""), 4.0);
    assert_eq!(sum(&text, "jobber_attempts_signalled_total", "SIGSEGV"), 2.0);
    assert_eq!(sum(&text, "jobber_job_wait_seconds_count", ""), f64::from(attempts) - 1.0, "not after it was put back");
    assert_eq!(sum(&text, "jobber_projector_leader", ""), 1.0);
    assert_eq!(sum(&text, "jobber_backend_up", "sqlite"), 1.0);
    let queued = j.get("/api/v1/queue").await.1;
    for state in ["waiting", "delayed", "active", "completed", "failed"] {
        let label = format!("state=\"{state}\"");
        assert_eq!(Some(sum(&text, "jobber_queue_jobs", &label)), queued[state].as_f64(), "{state}");
        assert_eq!(Some(sum(&text, "bullmq_job_count", &label)), queued[state].as_f64(), "{state}");
    }
    assert_eq!(sum(&text, "bullmq_job_completed_total", "my-job-queue"), 2.0);
    let requests = |route: &str| {
        let label = format!("http_request_method=\"POST\",http_route=\"{route}\",http_response_status_code=\"2");
        sum(&text, "http_server_request_duration_seconds_count", &label)
    };
    assert_eq!(requests("/api/v1/jobs/{id}:cancel"), 2.0, "{text}");
    assert_eq!((requests("/api/v1/jobs/{id}:retry"), requests("/api/v1/jobs")), (1.0, 7.0), "{text}");
    assert_eq!(promtool_complaints_but_those_of_bullmq(&text), [""; 0]);
}

#[tokio::test]
async fn queues_are_told_apart() {
    let j = Jobber::dev().env("JOBBER_METRICS_BULLMQ_NAMES", "true").arg("--queue=encode").arg("--queue=my-job-queue");
    let j = j.start().await;
    j.job("some", JOB);
    for (queue, argument) in [("encode", ""), ("encode", "fail"), ("my-job-queue", "")] {
        let id = j.submit(json!({"name": "some", "arguments": [argument], "queue": queue, "attempts": 1})).await;
        j.wait_final(&id).await;
    }
    assert_eq!(j.post("/api/v1/queues/encode:pause", json!({})).await.0, 200);
    j.submit(json!({"name": "some", "queue": "encode"})).await;
    let text = eventually("the job that waits", async || {
        let text = scrape(&j).await;
        (sum(&text, "jobber_queue_jobs", "queue=\"encode\",state=\"waiting\"") == 1.0).then_some(text)
    })
    .await;
    let of = |name: &str, labels: &str| sum(&text, name, labels);
    for (queue, paused, completed, failed) in [("encode", 1.0, 1.0, 1.0), ("my-job-queue", 0.0, 1.0, 0.0)] {
        let label = format!("queue=\"{queue}\"");
        assert_eq!(of("jobber_queue_paused", &label), paused, "{queue}");
        assert_eq!(of("jobber_queue_jobs", &format!("{label},state=\"completed\"")), completed, "{queue}");
        assert_eq!(of("jobber_queue_jobs_finished_total", &format!("{label},result=\"failed\"")), failed, "{queue}");
        assert_eq!(of("bullmq_job_count", &format!("{label},state=\"paused\"")), paused, "{queue}");
        assert_eq!(of("bullmq_job_completed_total", &label), completed, "{queue}");
        assert_eq!(of("bullmq_job_failed_total", &label), failed, "{queue}");
        assert_eq!(of("jobber_queue_oldest_waiting_age_seconds", &label) > 0.0, paused > 0.0, "{queue}");
    }
    assert_eq!(promtool_complaints_but_those_of_bullmq(&text), [""; 0]);
}

/// BullMQ's own names break a rule of Prometheus's.
fn promtool_complaints_but_those_of_bullmq(text: &str) -> Vec<String> {
    let ours: Vec<_> = text.lines().filter(|line| !line.contains("bullmq_job_count")).collect();
    promtool(&["check", "metrics"], &(ours.join("\n") + "\n")).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn five_hundred_job_names_stay_below_ten_thousand_series() {
    let j = Jobber::serve().env("JOBBER_CHECK_BINARIES", "false").start().await;
    let jobs: Vec<Value> = (0..500).map(|n| json!({"name": format!("job-{n}")})).collect();
    let (status, answer) = j.post("/api/v1/jobs:bulk", json!({"jobs": jobs})).await;
    assert!(status < 300, "{answer}");
    let text = eventually("all jobs to be counted", async || {
        let text = scrape(&j).await;
        (sum(&text, "jobber_jobs_submitted_total", "") == 500.0).then_some(text)
    })
    .await;
    assert_eq!(sum(&text, "jobber_jobs_submitted_total", "job_name=\"_other\""), 436.0);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 10_000, "{series}");
    let began = Instant::now();
    scrape(&j).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_scrape_is_answered_while_redis_stands_still() {
    let redis = Redis::start();
    let j = Jobber::serve().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let is_shown = |text: &str, name: &str| !samples(text, name).is_empty();
    let up = eventually("the snapshot of a queue that answers", async || {
        let text = scrape(&j).await;
        (sum(&text, "jobber_backend_up", "redis") == 1.0).then_some(text)
    })
    .await;
    for name in ["jobber_queue_jobs", "jobber_event_log_entries", "jobber_workers", "jobber_projector_lag_events"] {
        assert!(is_shown(&up, name), "{name}: {up}");
    }
    redis.signal("STOP");
    let down = eventually("the snapshot of a queue that is away", async || {
        let began = Instant::now();
        let text = scrape(&j).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let is_down = samples(&text, "jobber_backend_up").iter().any(|(of, up)| of.contains("redis") && *up == 0.0);
        is_down.then_some(text)
    })
    .await;
    for name in ["jobber_queue_jobs", "jobber_queue_paused", "jobber_event_log_entries", "jobber_workers"] {
        assert!(!is_shown(&down, name), "{name}: {down}");
    }
    assert_eq!(sum(&down, "jobber_backend_up", "sqlite"), 1.0, "the store answers: {down}");
    assert!(is_shown(&down, "process_resident_memory_bytes"));
    redis.signal("CONT");
    eventually("the snapshot of a queue that is back", async || {
        (sum(&scrape(&j).await, "jobber_backend_up", "redis") == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_guards_the_metrics_of_servers_and_workers() {
    let (place, token) = (Place::new(), "a-token-of-some-length");
    let serve = Jobber::serve().at(&place).env("JOBBER_TOKEN", token).start().await;
    let work =
        Jobber::work().at(&place).env("JOBBER_TOKEN", token).env("JOBBER_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let worker = eventually("the address of the worker's metrics", async || {
        work.log().contains("showing metrics").then(|| metrics_address(&work))
    })
    .await;
    for base in [serve.base(), &worker] {
        let ask = || serve.http().get(format!("{base}/metrics"));
        assert_eq!(ask().send().await.unwrap().status(), 401, "{base}");
        assert_eq!(ask().bearer_auth("another-token").send().await.unwrap().status(), 401, "{base}");
        assert_eq!(ask().bearer_auth(token).send().await.unwrap().status(), 200, "{base}");
    }
    let foreign = serve.http().get(format!("{worker}/metrics")).header("host", "evil.example").bearer_auth(token);
    assert_eq!(foreign.send().await.unwrap().status(), 421);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The names of metrics within a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c));
    let prefixes = ["jobber_", "process_", "http_server_", "bullmq_job_"];
    let is_name = |word: &&str| prefixes.iter().any(|prefix| word.starts_with(prefix) && word.len() > prefix.len());
    words.filter(is_name).map(str::to_owned).collect()
}

/// The name of the family that a sample belongs to.
fn family(sample: &str, documented: &BTreeSet<String>) -> String {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| sample.strip_suffix(part));
    parts.map(str::to_owned).find(|name| documented.contains(name)).unwrap_or_else(|| sample.to_owned())
}

/// The names in the first column of the tables of the page on monitoring.
fn documented() -> BTreeSet<String> {
    let page = read("docs/operations/monitoring.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.filter(|name| !names(name).is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_docs_tell_of_the_metrics_that_there_are() {
    let documented = documented();
    assert!(documented.len() > 50, "{documented:?}");
    let j = Jobber::dev().env("JOBBER_METRICS_BULLMQ_NAMES", "true").start().await;
    let text = scrape(&j).await;
    let shown: BTreeSet<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let missing: Vec<_> = shown.iter().filter(|name| !documented.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/operations/monitoring.md lacks {missing:?}");
    // What has no sample yet is not shown, so the source must tell.
    let mut source = String::new();
    for file in std::fs::read_dir(root().join("src/metrics")).unwrap() {
        source += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    let is_made = |name: &str| {
        let bare = name.strip_prefix("jobber_").unwrap_or(name);
        source.contains(&format!("\"{}\"", bare.strip_suffix("_total").unwrap_or(bare)))
    };
    let invented: Vec<_> = documented.iter().filter(|name| !is_made(name)).collect();
    assert!(invented.is_empty(), "no source has {invented:?}");
}

/// Every string under the key `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match value {
            Value::String(text) if key == "expr" || key == "query" => found.push(text.clone()),
            _ => expressions(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_rules_name_only_metrics_that_there_are() {
    let documented = documented();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 30, "{asked:?}");
    let rules = asked.iter().filter(|text| !text.starts_with("label_values")).map(|text| {
        let text = text
            .replace("$__rate_interval", "5m")
            .replace("$__range", "6h")
            .replace("$job_name", ".*")
            .replace("$queue", ".*");
        json!({"record": "a:b", "expr": text})
    });
    let groups = json!({"groups": [{"name": "a", "rules": rules.collect::<Vec<_>>()}]});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
    asked.push(read("deploy/prometheus-rules.yml"));
    for text in asked {
        for name in names(&text) {
            let family = family(&name, &documented);
            assert!(documented.contains(&family), "{name} in {text}");
        }
    }
}

#[test]
fn promtool_takes_the_rules_and_they_fire_when_they_should() {
    let path = |file: &str| -> PathBuf { root().join("deploy").join(file) };
    let said = promtool(&["check", "rules", path("prometheus-rules.yml").to_str().unwrap()], "");
    assert!(said.contains("SUCCESS"), "{said}");
    let said = promtool(&["test", "rules", path("prometheus-rules.test.yml").to_str().unwrap()], "");
    assert!(said.contains("SUCCESS"), "{said}");
}
