//! Two builds of one program, of which the second does worse: it is named wherever a user looks.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::receiver::Receiver;
use crate::harness::{Jobber, Place, Start, eventually, run};

/// Compiles a program that fails for one of so many numbers (0: for none), and puts it in the place of the one before.
fn compile(place: &Place, name: &str, fails: u32, id: &str) {
    let new = place.path().join("new");
    let source = format!(
        r#"#include <cstdio>
        #include <cstdlib>
        int main(int, char** argv) {{
            int n = std::atoi(argv[1]);
            if ({fails} != 0 && n % {fails} == 0) {{ std::fprintf(stderr, "bad pixel at %d\n", n); return 3; }}
            return 0;
        }}"#,
        fails = fails.max(1) * u32::from(fails > 0) + u32::from(fails == 0) * 1_000_000_007,
    );
    let mut compiler = Command::new("c++")
        .args(["-x", "c++", "-", "-O1", &format!("-Wl,--build-id=0x{id}"), "-o"])
        .arg(&new)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
    std::fs::rename(new, place.jobs_dir().join(name)).unwrap();
}

const FIRST: &str = "0123456789abcdef01234567";
const SECOND: &str = "fedcba9876543210fedcba98";

/// Submits one job for each number, and waits until the build has as many ended first attempts. Answers what is told of
/// the builds then.
async fn run_jobs(jobber: &Jobber, numbers: std::ops::Range<u32>, build: &str, ended: i64) -> Value {
    let job = |n: u32| json!({"name": "resize", "arguments": [n.to_string()], "attempts": 1});
    let jobs: Vec<_> = numbers.map(job).collect();
    for part in jobs.chunks(500) {
        let (status, answer) = jobber.post("/api/v1/jobs:bulk", json!({"jobs": part})).await;
        assert_eq!(status, 202, "{answer}");
    }
    eventually("the jobs to end", async || {
        let (status, report) = jobber.get("/api/v1/stats/builds?name=resize").await;
        assert_eq!(status, 200, "{report}");
        let has_all = |line: &Value| line["digest"] == build && line["success"]["n"] == ended;
        report["builds"].as_array().unwrap().iter().any(has_all).then_some(report)
    })
    .await
}

/// A first build with many good runs, then a second one in its place that fails for one number of eight.
async fn name_a_regression(start: Start) -> Jobber {
    let jobber = start.arg("--cores").arg("2").start().await;
    compile(jobber.place(), "resize", 0, FIRST);
    let report = run_jobs(&jobber, 1..541, FIRST, 540).await;
    let line = &report["builds"][0];
    assert_eq!((&line["success"]["hits"], &line["against"]), (&json!(540), &Value::Null), "{report}");
    assert!(report["outlook"].as_str().unwrap().contains("nothing to compare it with yet"), "{report}");
    assert_eq!(report["regressions"], json!([]));

    compile(jobber.place(), "resize", 8, SECOND);
    let report = run_jobs(&jobber, 1000..1100, SECOND, 100).await;
    let regression = &report["regressions"][0];
    assert_eq!(regression["build"], SECOND, "{report}");
    let says = regression["says"].as_str().unwrap();
    assert!(says.starts_with("since build fedcba987654, first seen ") && says.contains("bad pixel at"), "{says}");
    assert!(says.contains("before 0 of 54"), "{says}");
    assert!(says.ends_with("under 5 %; inputs may have changed too"), "{says}");
    let line = &report["builds"][0];
    assert_eq!((&line["digest"], &line["success"]["hits"]), (&json!(SECOND), &json!(87)), "{report}");
    assert_eq!((&line["failures"][0]["attempts"], &line["failures"][0]["is_new"]), (&json!(13), &json!(true)));
    assert_eq!(line["against"]["digest"], FIRST);
    jobber
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_with_a_planted_failure_is_named_wherever_a_user_looks() {
    let (receiver, place) = (Receiver::start().await, Place::new());
    let target = format!("[[notify]]\nname = \"ops\"\non = [\"regression\"]\nurl = \"{}/hook\"\n", receiver.url());
    std::fs::write(place.path().join("jobber.toml"), target).unwrap();
    let jobber = name_a_regression(Jobber::dev().at(&place)).await;
    let notice = receiver.taken(1).await[0].json();
    assert_eq!((&notice["event"], &notice["job"]), (&json!("regression"), &Value::Null), "{notice}");
    let regression = &notice["regression"];
    assert_eq!((&regression["name"], &regression["build"]), (&json!("resize"), &json!(SECOND)), "{notice}");
    assert!(regression["found"][0]["n"].as_u64().unwrap() <= 100, "{notice}");
    assert!(notice["text"].as_str().unwrap().contains("resize does worse since build fedcba987654"), "{notice}");
    let (_, failed) = jobber.get("/api/v1/jobs?name=resize&state=failed&limit=1").await;
    let id = failed["items"][0]["id"].as_str().unwrap().to_owned();
    let (_, view) = jobber.get(&format!("/api/v1/jobs/{id}")).await;
    let report = &view["attempts"][0]["report"];
    assert_eq!(report["build"]["digest"], SECOND, "{view}");
    assert!(report["build"]["bytes"].as_u64().unwrap() > 1000 && report["build"]["modified_at"].is_string(), "{view}");
    assert_eq!(view["regression"]["build"], SECOND);
    let show = jobber.cli(&["show", &id]).await.stdout;
    assert!(show.contains("build ") && show.contains("fedcba987654") && show.contains("since build"), "{show}");
    let (_, done) = jobber.get("/api/v1/jobs?name=resize&state=completed&limit=200").await;
    let old = done["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap();
    let (_, view) = jobber.get(&format!("/api/v1/jobs/{old}")).await;
    assert_eq!((&view["attempts"][0]["report"]["build"]["digest"], &view["regression"]), (&json!(FIRST), &Value::Null));

    let builds = jobber.cli(&["stats", "builds", "resize"]).await.stdout;
    assert!(builds.contains("since build fedcba987654") && builds.contains("0123456789ab"), "{builds}");
    let json = jobber.cli(&["stats", "builds", "resize", "-o", "json"]).await.stdout;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["regressions"][0]["build"], SECOND);
    let all = jobber.cli(&["stats", "builds"]).await.stdout;
    assert!(all.contains("resize") && all.contains("since build fedcba987654"), "{all}");
    let new = jobber.cli(&["failures", "--new"]).await.stdout;
    assert!(new.contains("13 of 100") && new.contains("bad pixel"), "{new}");
    let (_, regressions) = jobber.get("/api/v1/stats/regressions").await;
    assert_eq!(regressions["items"].as_array().unwrap().len(), 1);
    let (_, overview) = jobber.get("/api/v1/overview").await;
    assert_eq!(overview["regressions"][0]["build"], SECOND, "{overview}");
    for (path, code) in [("/api/v1/stats/builds", "invalid_query"), ("/api/v1/stats/builds?name=..", "invalid_query")] {
        let (status, problem) = jobber.get(path).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{path}");
    }
    let (_, unknown) = jobber.get("/api/v1/stats/builds?name=other").await;
    assert_eq!((&unknown["builds"], &unknown["outlook"]), (&json!([]), &Value::Null));
    assert_eq!(receiver.all().len(), 1, "a build is told of once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_named_with_history_in_couchbase() {
    let double = CouchbaseDouble::start();
    let jobber = name_a_regression(Jobber::dev().env("JOBBER_STORE_URL", &double.url())).await;
    let (_, regressions) = jobber.get("/api/v1/stats/regressions").await;
    assert_eq!(regressions["items"][0]["build"], SECOND, "{regressions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_builds_did_outlives_a_restart_an_export_and_a_recount() {
    let mut jobber = name_a_regression(Jobber::dev()).await;
    let (_, before) = jobber.get("/api/v1/stats/builds?name=resize").await;
    let place = jobber.place().clone();
    jobber.stop().await;
    let to = Place::new();
    let upkeep = async |args: &[&str], place: &Place, input: &str| {
        let data = place.data_dir();
        let args: Vec<_> = args.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
        run(&args, &[], place.path(), input).await
    };
    let checked = upkeep(&["rebuild", "--check"], &place, "").await;
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    let exported = upkeep(&["export"], &place, "").await;
    let imported = upkeep(&["import"], &to, &exported.stdout).await;
    assert_eq!((exported.code, imported.code), (0, 0), "{} {}", exported.stderr, imported.stderr);
    assert_eq!(upkeep(&["rebuild", "--check"], &to, "").await.code, 0);
    // Counts that are wrong are noticed and counted anew; what looks have found stays.
    let db = rusqlite::Connection::open(to.data_dir().join("jobber.db")).unwrap();
    let document: Vec<u8> = db.query_row("SELECT document FROM history_builds", [], |row| row.get(0)).unwrap();
    let text = String::from_utf8(document).unwrap();
    let broken = text.replacen("\"succeeded\":", "\"succeeded\":1", 1);
    assert_ne!(text, broken);
    db.execute("UPDATE history_builds SET document = ?1", [broken.as_bytes()]).unwrap();
    drop(db);
    let checked = upkeep(&["rebuild", "--check"], &to, "").await;
    assert!(checked.code == 1 && checked.stdout.contains("resize, build"), "{} {}", checked.code, checked.stdout);
    assert_eq!(upkeep(&["rebuild"], &to, "").await.code, 0);
    assert_eq!(upkeep(&["rebuild", "--check"], &to, "").await.code, 0);

    let jobber = Jobber::dev().at(&to).start().await;
    let (_, after) = jobber.get("/api/v1/stats/builds?name=resize").await;
    assert_eq!(after, before);
}
