//! `jobber doctor` on real directories, with a server and without.

use std::sync::Arc;

use serde_json::Value;

use crate::harness::redis::{Redis, RedisOptions};
use crate::harness::{Jobber, Output, Place, run};

async fn doctor(place: &Arc<Place>, args: &[&str]) -> (Output, Value) {
    let (data, jobs) = (place.data_dir(), place.jobs_dir());
    let fixed = ["doctor", "-o", "json", "--data-dir", data.to_str().unwrap(), "--jobs-dir", jobs.to_str().unwrap()];
    let args: Vec<&str> = fixed.into_iter().chain(args.iter().copied()).collect();
    let out = run(&args, &[], place.path(), "").await;
    let report = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    (out, report)
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {report:#}"))
}

fn found<'a>(report: &'a Value, check: &str) -> &'a str {
    finding(report, check)["found"].as_str().unwrap()
}

#[tokio::test]
async fn a_host_is_checked_before_the_first_start_and_is_not_changed() {
    let place = Place::new();
    place.job("good", "#!/bin/sh\n");
    let (out, report) = doctor(&place, &[]).await;
    assert_eq!(out.code, 0, "{report:#}");
    assert!(found(&report, "data directory").contains("the first start makes it"), "{report:#}");
    assert!(found(&report, "database").contains("none yet"), "{report:#}");
    assert!(found(&report, "jobs directory").starts_with("1 job in "), "{report:#}");
    for check in ["configuration", "cpus", "open files", "processes", "inotify", "kernel", "clock", "server"] {
        assert_eq!(finding(&report, check)["status"], "ok", "{report:#}");
    }
    assert!(!place.data_dir().exists());
}

#[tokio::test]
async fn a_running_server_is_asked_and_its_database_read() {
    let j = Jobber::dev().start().await;
    j.job("quick", "#!/bin/sh\n");
    let id = j.submit(serde_json::json!({"name": "quick"})).await;
    j.wait_final(&id).await;
    let (out, report) = doctor(j.place(), &["--server", j.base()]).await;
    assert_eq!(out.code, 0, "{report:#}");
    assert!(found(&report, "database").starts_with("whole, "), "{report:#}");
    assert!(found(&report, "server").contains("answers, version"), "{report:#}");
    // It goes on as before.
    let id = j.submit(serde_json::json!({"name": "quick"})).await;
    assert_eq!(j.wait_final(&id).await["state"], "completed");
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_to_do() {
    let place = Place::new();
    std::fs::write(place.jobs_dir().join("plain"), "").unwrap();
    std::fs::create_dir(place.data_dir()).unwrap();
    std::fs::write(place.data_dir().join("jobber.db"), "no database, whatever its name says ".repeat(200)).unwrap();
    // A port that was free a moment ago: nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{address}");
    let (out, report) = doctor(&place, &["--cores", "60000", "--server", &server]).await;
    std::fs::remove_file(place.data_dir().join("jobber.db")).unwrap();
    assert_eq!((out.code, &report["status"]), (1, &Value::from("failed")), "{report:#}");
    for (check, status) in
        [("database", "failed"), ("server", "failed"), ("cpus", "warning"), ("jobs directory", "warning")]
    {
        let finding = finding(&report, check);
        assert!(finding["status"] == status && finding["fix"].is_string(), "{finding:#}");
    }
    assert!(finding(&report, "jobs directory")["fix"].as_str().unwrap().contains("chmod +x"), "{report:#}");
}

#[tokio::test]
async fn a_redis_is_asked_how_it_keeps_jobs() {
    let place = Place::new();
    let durable = RedisOptions { durable: true, password: Some("s3cret-word".to_owned()), ..RedisOptions::default() };
    let redis = tokio::task::spawn_blocking(|| Redis::with(durable)).await.unwrap();
    let ask = async |expected: [(&str, &str); 4]| {
        let (data, jobs) = (place.data_dir(), place.jobs_dir());
        let args = ["doctor", "-o", "json", "--data-dir", data.to_str().unwrap(), "--jobs-dir", jobs.to_str().unwrap()];
        let out = run(&args, &[("JOBBER_QUEUE_URL", &redis.url())], place.path(), "").await;
        assert!(!out.stdout.contains("s3cret") && !out.stderr.contains("s3cret"), "{out:?}");
        let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        for (check, status) in expected {
            assert_eq!(finding(&report, check)["status"], status, "{report:#}");
        }
        assert_eq!(out.code != 0, expected.iter().any(|(_, status)| *status == "failed"), "{report:#}");
        report
    };
    let clock = ("redis clock", "ok");
    let report = ask([("redis", "ok"), ("redis eviction", "ok"), ("redis persistence", "ok"), clock]).await;
    assert!(found(&report, "redis").contains(&format!("127.0.0.1:{} answers, version ", redis.port())), "{report:#}");
    redis.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]);
    redis.cli(&["config", "set", "appendonly", "no"]);
    let report = ask([("redis", "ok"), ("redis eviction", "failed"), ("redis persistence", "warning"), clock]).await;
    assert!(found(&report, "redis persistence").starts_with("none"), "{report:#}");
    redis.kill();
    let report = ask([("redis", "failed"); 4]).await;
    assert!(finding(&report, "redis")["fix"].as_str().unwrap().contains("queue.url"), "{report:#}");
}

#[tokio::test]
async fn a_configuration_that_can_not_be_used_is_a_finding() {
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[worker]\nniceness = 3\n").unwrap();
    let (out, report) = doctor(&place, &[]).await;
    assert_eq!(out.code, 1, "{report:#}");
    assert!(found(&report, "configuration").contains("jobber.toml: there is no setting worker.niceness"), "{report:#}");
    let table = run(&["doctor"], &[], place.path(), "").await.stdout;
    assert!(table.starts_with("CHECK") && table.contains("What to do:\n  configuration: "), "{table}");
}
