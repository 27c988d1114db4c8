//! One history is folded from one log: two data directories on one bucket, and a bucket that is away at first.

use std::sync::Arc;

use serde_json::json;

use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::{Jobber, Place, eventually, run};

async fn server(double: &CouchbaseDouble, place: &Arc<Place>, replaces: &str) -> Jobber {
    place.job("ok", "#!/bin/sh\n");
    let start = Jobber::dev().at(place).env("JOBBER_STORE_URL", &double.url());
    let start = if replaces.is_empty() { start } else { start.env("JOBBER_STORE_REPLACES_LOG", replaces) };
    start.start().await
}

/// Runs some jobs, as far as they need no history.
async fn accepted(jobber: &Jobber, jobs: usize) {
    for _ in 0..jobs {
        jobber.submit(json!({"name": "ok"})).await;
    }
}

async fn counted(jobber: &Jobber, jobs: usize) {
    eventually("every job to be in history, once", async || {
        let (_, names) = jobber.get("/jobs").await;
        (names["jobs"][0]["completedCount"] == json!(jobs)).then_some(())
    })
    .await;
}

/// The log that a server names when it ends because history is folded from another.
fn named(text: &str) -> String {
    assert!(text.contains("is folded from another event log"), "{text}");
    let (_, rest) = text.split_once("store.replaces_log = '").unwrap_or_else(|| panic!("what to do: {text}"));
    rest.split_once('\'').unwrap().0.to_owned()
}

async fn refused(double: &CouchbaseDouble, place: &Place) -> String {
    let args =
        ["serve", "--listen", "127.0.0.1:0", "--data-dir", place.data_dir().to_str().unwrap()].map(str::to_owned);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let out = run(&args, &[("JOBBER_STORE_URL", &double.url())], place.path(), "").await;
    assert_ne!(out.code, 0);
    named(&out.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_log_is_not_folded_into_one_history() {
    let double = CouchbaseDouble::start();
    let (first, second) = (Place::new(), Place::new());
    let mut a = server(&double, &first, "").await;
    accepted(&a, 3).await;
    counted(&a, 3).await;
    let log = refused(&double, &second).await;
    assert!(log.starts_with("embedded "), "{log}");
    accepted(&a, 1).await;
    counted(&a, 4).await;
    a.stop().await;
    assert_eq!(refused(&double, &second).await, log, "not while the other server is off either");

    // Said to be gone, it is replaced, and does not come back.
    let b = server(&double, &second, &log).await;
    accepted(&b, 2).await;
    counted(&b, 6).await;
    assert_ne!(refused(&double, &first).await, log);
}

/// A new data directory can't know up to where history has been folded while Couchbase is away. What is accepted meanwhile
/// is not taken for folded when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_log_that_begins_while_couchbase_is_away_loses_nothing() {
    let double = CouchbaseDouble::start();
    let (first, second) = (Place::new(), Place::new());
    let mut a = server(&double, &first, "").await;
    accepted(&a, 20).await;
    counted(&a, 20).await;
    let log = refused(&double, &Place::new()).await;
    a.stop().await;

    tokio::task::block_in_place(|| double.away());
    let mut b = server(&double, &second, "").await;
    accepted(&b, 3).await;
    tokio::task::block_in_place(|| double.back());
    // It ends, but keeps what it has accepted.
    assert_ne!(b.ended().await, 0);
    assert_eq!(named(&b.log()), log);
    let b = server(&double, &second, &log).await;
    accepted(&b, 2).await;
    counted(&b, 25).await;
}
