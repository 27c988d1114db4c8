//! `jobber rebuild`, `export` and `import`: the real commands on real data directories.

mod upgrade;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jobber::archive::{Importer, export};
use jobber::domain::{Clock, Timestamp};
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{DayRange, History, Projection, Retention};
use serde_json::{Value, json};

use crate::harness::couchbase::Bucket;
use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::{Jobber, Output, Place, eventually, run};

/// A place in which some jobs have ended well and badly, their error is in a category of the team's, and nothing runs any
/// more.
async fn with_history() -> Arc<Place> {
    let mut j = Jobber::dev().start().await;
    j.job("good", "#!/bin/sh\necho '{\"answer\": 42}'\n");
    j.job("bad", "#!/bin/sh\necho why >&2\nexit 3\n");
    for name in ["good", "bad", "good"] {
        let body = json!({"name": name, "data": {"b": 1, "a": [2, "é"]}, "attempts": 1});
        let id = j.submit(body).await;
        j.wait_final(&id).await;
    }
    let added = json!({"name": "Riddles", "description": "asks why", "examples": ["why"]});
    assert_eq!(j.post("/api/v1/categories", added).await.0, 202);
    eventually("the error to be put into the new category", async || {
        let (_, failures) = j.get("/api/v1/failures").await;
        failures.to_string().contains("riddles").then_some(())
    })
    .await;
    let place = j.place().clone();
    j.stop().await;
    place
}

async fn jobber(place: &Place, args: &[&str], input: &str) -> Output {
    let data = place.data_dir();
    let args: Vec<_> = args.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
    run(&args, &[], place.path(), input).await
}

async fn exported(place: &Place) -> String {
    let out = jobber(place, &["export"], "").await;
    assert_eq!(out.code, 0, "{out:?}");
    out.stdout
}

/// Everything but the first line, which tells when it was written.
fn lines(history: &str) -> Vec<Value> {
    history.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn store(place: &Place) -> Arc<EmbeddedStore> {
    store_in(&place.data_dir()).await
}

async fn store_in(dir: &Path) -> Arc<EmbeddedStore> {
    let db = Sqlite::open(&dir.join("jobber.db"), Durability::Process).unwrap();
    EmbeddedStore::open(db).await.unwrap()
}

async fn sql(place: &Place, sql: &'static str) {
    let db = Sqlite::open(&place.data_dir().join("jobber.db"), Durability::Process).unwrap();
    db.write(move |c| c.execute_batch(sql)).await.unwrap();
}

#[tokio::test]
async fn history_moves_to_another_store_as_it_is_and_only_once() {
    let (from, to) = (with_history().await, Place::new());
    let history = exported(&from).await;
    let first: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["jobber_history"]["version"], lines(&history).len()),
        (&json!(4), 1 + 2 * 3 + 1 + 2 + 2 + 1),
        "{history}"
    );
    assert!(lines(&history)[0]["categories"].to_string().contains("riddles"), "{history}");

    let out = jobber(&to, &["import", "-o", "json"], &history).await;
    assert_eq!(out.code, 0, "{out:?}");
    let moved: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((&moved["jobs"], &moved["aggregates"], &moved["new"]), (&json!(3), &json!(2), &json!(5)));
    assert_eq!(moved["errors"], 1);
    assert_eq!(lines(&exported(&to).await), lines(&history));

    let out = jobber(&to, &["import", "-o", "json"], &history).await;
    let moved: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!((out.code, &moved["new"]), (0, &json!(0)), "{out:?}");
    let (a, b) = (store(&from).await, store(&to).await);
    assert_eq!(a.scan(None, 100).await.unwrap(), b.scan(None, 100).await.unwrap());
    assert_eq!(a.shards(DayRange::default(), None).await.unwrap(), b.shards(DayRange::default(), None).await.unwrap());
    assert_eq!(a.cursor().await.unwrap(), b.cursor().await.unwrap());
}

/// Histories as every version wrote them: these files never change and can be read for ever.
#[tokio::test]
async fn histories_of_every_version_can_be_read() {
    for (file, folded) in
        [("v1.jsonl", "1795507200123-5"), ("v2.jsonl", "1795507200123-6"), ("v3.jsonl", "1795507200123-6")]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/history").join(file);
        let golden = std::fs::read_to_string(path).unwrap();
        // Not a place, whose aggregates are compared with its jobs in the end: those of a file have nothing to do with it.
        let dir = tempfile::tempdir().unwrap();
        let store = store_in(dir.path()).await;
        let term = store.lead("one", Duration::from_secs(60), &Clock::system()).await.unwrap().unwrap();
        let importer = Importer::open(golden.as_bytes()).await.unwrap();
        importer.run(&*store, &term, Retention::FOREVER, |_| ()).await.unwrap();
        let mut written = Vec::new();
        export(&*store, &*store, &mut written, Timestamp::EPOCH, |_| ()).await.unwrap();
        let (mut written, mut golden) = (lines(&String::from_utf8(written).unwrap()), lines(&golden));
        // The first version did not count errors.
        assert_eq!(written.pop().unwrap()["end"]["jobs"], golden.pop().unwrap()["end"]["jobs"]);
        assert_eq!(written, golden, "{file}");
        assert_eq!(store.cursor().await.unwrap().to_string(), folded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_grows_into_couchbase_as_it_is() {
    let (from, to) = (with_history().await, Place::new());
    let history = exported(&from).await;
    let bucket = Bucket::of(CouchbaseDouble::start());
    let url = bucket.double().url();
    let data = to.data_dir();
    let couchbase = async |command: &[&str], input: &str| {
        let args: Vec<_> = command.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
        let out = run(&args, &[("JOBBER_STORE_URL", &url)], to.path(), input).await;
        assert_eq!(out.code, 0, "{out:?}");
        out.stdout
    };
    couchbase(&["import"], &history).await;
    let again: Value = serde_json::from_str(&couchbase(&["import", "-o", "json"], &history).await).unwrap();
    assert_eq!(again["new"], 0, "{again}");
    couchbase(&["rebuild", "--check"], "").await;
    assert_eq!(lines(&couchbase(&["export"], "").await), lines(&history));
}

#[tokio::test]
async fn a_server_goes_on_from_what_was_imported() {
    let (from, to) = (with_history().await, Place::new());
    assert_eq!(jobber(&to, &["import"], &exported(&from).await).await.code, 0);
    to.job("good", "#!/bin/sh\n");
    let mut j = Jobber::dev().at(&to).start().await;
    let id = j.submit(json!({"name": "good"})).await;
    assert_eq!(j.wait_final(&id).await["state"], "completed");
    let (_, stats) = j.get("/stats").await;
    assert_eq!(stats["jobStats"]["perAttemptsStats"][0]["totalJobsUpTo"], 4, "{stats}");
    let place = j.place().clone();
    j.stop().await;
    // It has gone on: the same lines are not its history any more.
    let out = jobber(&place, &["import"], &exported(&from).await).await;
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("a history of its own"), "{}", out.stderr);
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_taken_up_again() {
    let (from, to) = (with_history().await, Place::new());
    let history = exported(&from).await;
    let cut: String = history.lines().take(4).map(|line| format!("{line}\n")).collect();
    let out = jobber(&to, &["import"], &cut).await;
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("line 5: the file was cut off here"), "{}", out.stderr);
    assert_eq!(jobber(&to, &["import"], &history).await.code, 0);
    assert_eq!(lines(&exported(&to).await), lines(&history));
}

#[tokio::test]
async fn lines_that_are_no_history_are_refused_by_number() {
    let from = with_history().await;
    let history = exported(&from).await;
    let newer = history.replacen("\"version\":4", "\"version\":5", 1);
    let broken = history.replacen("{\"job\":{", "{\"job\":[", 1);
    let (head, _) = history.split_once("{\"shard\"").unwrap();
    let missing = format!("{head}{{\"end\":{{\"jobs\":3,\"shards\":2,\"errors\":1}}}}\n");
    for (input, says) in [
        ("", "line 1: this is no history"),
        ("{\"id\": 1}\n", "line 1: this is no history"),
        (&newer, "line 1: this history has format 5, this jobber reads format 4; run a newer jobber"),
        (&broken, "line 3: not a line of a history"),
        (&missing, "line 10: lines are missing: there are 3 jobs, 1 errors and 0 aggregates of 3, 1 and 2"),
        (&format!("{history}{{\"end\":{{\"jobs\":0,\"shards\":0}}}}\n"), "line 15: there is something behind"),
    ] {
        let to = Place::new();
        let out = jobber(&to, &["import"], input).await;
        assert_eq!(out.code, 1, "{out:?}");
        assert!(out.stderr.contains(says), "{says:?} is not in {}", out.stderr);
        // What was read until then stays, to be taken up again; its aggregates are still missing.
        std::fs::remove_dir_all(to.data_dir()).ok();
    }
}

#[tokio::test]
async fn a_store_or_a_log_with_a_history_of_its_own_is_left_alone() {
    let (from, other) = (with_history().await, with_history().await);
    let before = lines(&exported(&other).await);
    // Cut so that it has been folded up to another place.
    sql(&other, "UPDATE history_head SET cursor = '0-3'").await;
    let out = jobber(&other, &["import"], &exported(&from).await).await;
    assert_eq!(out.code, 1);
    assert!(out.stderr.contains("it has been folded up to 0-3"), "{}", out.stderr);
    sql(&other, "UPDATE history_head SET cursor = '0-0'").await;
    let out = jobber(&other, &["import"], &exported(&from).await).await;
    assert!(out.stderr.contains("of its jobs are not in these lines"), "{}", out.stderr);
    sql(&other, "UPDATE history_head SET cursor = '0-0'; DELETE FROM history_jobs; DELETE FROM history_shards; DELETE FROM history_builds").await;
    sql(&other, "DELETE FROM events; UPDATE events_taken SET through = 2").await;
    let out = jobber(&other, &["import"], &exported(&from).await).await;
    assert!(out.stderr.contains("has events of its own, up to 0-2"), "{}", out.stderr);
    assert!(!before.is_empty());

    let redis = exported(&from).await.replacen("\"cursor\":\"0-", "\"cursor\":\"1795507200000-", 1);
    let out = jobber(&Place::new(), &["import"], &redis).await;
    assert!(out.stderr.contains("was folded from a Redis log"), "{}", out.stderr);
}

#[tokio::test]
async fn a_rebuild_repairs_what_is_wrong_and_leaves_what_has_expired() {
    let place = with_history().await;
    let rebuild = async |check: &[&str]| {
        let args: Vec<_> = ["rebuild", "-o", "json"].into_iter().chain(check.iter().copied()).collect();
        let out = jobber(&place, &args, "").await;
        (out.code, serde_json::from_str::<Value>(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}")))
    };
    let (code, report) = rebuild(&["--check"]).await;
    assert_eq!((code, &report["jobs"], &report["differing"]), (0, &json!(3), &json!(0)));

    sql(&place, "DELETE FROM history_shards WHERE name = 'good'").await;
    let (code, report) = rebuild(&["--check"]).await;
    assert_eq!((code, &report["differing"], &report["replaced"]), (1, &json!(1), &json!(false)));
    assert!(report["names"][0].as_str().unwrap().starts_with("good on "), "{report}");
    let (code, report) = rebuild(&[]).await;
    assert_eq!((code, &report["differing"], &report["replaced"]), (0, &json!(1), &json!(true)));
    let good = async || {
        let shards = store(&place).await.shards(DayRange::default(), Some(&"good".parse().unwrap())).await.unwrap();
        shards[0].counts.completed()
    };
    assert_eq!((rebuild(&["--check"]).await.0, good().await), (0, 2));

    // As if a year had passed since.
    sql(
        &place,
        "UPDATE history_shards
            SET document = CAST(json_set(CAST(document AS TEXT), '$.whole_until', '2026-01-01T00:00:00.000Z') AS BLOB);
         UPDATE history_builds
            SET document = CAST(json_set(CAST(document AS TEXT), '$.builds[0].whole_until', '2026-01-01T00:00:00.000Z') AS BLOB);
         DELETE FROM history_jobs WHERE name = 'good'",
    )
    .await;
    let (code, report) = rebuild(&[]).await;
    assert_eq!((code, &report["jobs"], &report["differing"], &report["expired"]), (0, &json!(1), &json!(0), &json!(2)));
    assert_eq!(good().await, 2, "what has expired is not counted again");
}

#[tokio::test]
async fn nobody_works_on_a_store_that_a_server_folds_into() {
    let j = Jobber::serve().start().await;
    j.job("any", "#!/bin/sh\n");
    let id = j.submit(json!({"name": "any"})).await;
    j.wait_state(&id, "waiting").await;
    for args in [&["rebuild"][..], &["rebuild", "--check"], &["export", "--skip-log"]] {
        let args: Vec<_> = args.iter().copied().chain(["--wait", "50ms"]).collect();
        let out = jobber(j.place(), &args, "").await;
        assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out:?}");
        assert!(out.stderr.contains("stop `jobber serve` and `jobber dev` first"), "{}", out.stderr);
    }
    let empty = Place::new();
    let out = jobber(&empty, &["export"], "").await;
    assert!(out.code == 1 && out.stderr.contains("there is no history in"), "{out:?}");
}

#[tokio::test]
async fn an_export_folds_the_rest_of_the_log_and_is_whole_or_not_there() {
    let place = with_history().await;
    let whole = exported(&place).await;
    // As if the server had been killed before it folded the end of the log.
    sql(&place, "DELETE FROM history_jobs; DELETE FROM history_shards; UPDATE history_head SET cursor = '0-0'").await;
    let file = place.path().join("history.jsonl");
    let out = jobber(&place, &["export", file.to_str().unwrap(), "-o", "json"], "").await;
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(lines(&std::fs::read_to_string(&file).unwrap()), lines(&whole));
    assert_eq!(serde_json::from_str::<Value>(&out.stdout).unwrap()["jobs"], 3);

    let nowhere = Path::new("/nonexistent/history.jsonl");
    let out = jobber(&place, &["export", nowhere.to_str().unwrap()], "").await;
    assert!(out.code == 1 && out.stderr.contains("couldn't write /nonexistent/history.jsonl.part"), "{out:?}");
}

#[tokio::test]
async fn health_is_zero_or_one() {
    let place = Place::new();
    let serve = Jobber::serve().at(&place).start().await;
    assert_eq!(serve.cli(&["health"]).await.code, 0);
    assert_eq!(serve.cli(&["health", "--live"]).await.code, 0);
    assert_eq!(serve.cli(&["health", "--worker"]).await.code, 1);
    let _work = Jobber::work().at(&place).start().await;
    crate::harness::eventually("the worker to be heard of", async || {
        (serve.cli(&["health", "--worker"]).await.code == 0).then_some(())
    })
    .await;
    // A port that was free a moment ago: nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let out = run(&["health", "--server", &format!("http://{address}")], &[], place.path(), "").await;
    assert!(out.code == 1 && out.stderr.starts_with("error: "), "{out:?}");
}
