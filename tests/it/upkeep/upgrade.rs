//! What version 0.1.0 left behind (`tests/data/upgrade`) is taken over in place: nothing is lost, nothing runs twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::receiver::Receiver;
use crate::harness::redis::Redis;
use crate::harness::{Jobber, Output, Place, Start, eventually, run};

fn left_behind(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/upgrade/0.1.0").join(file)
}

/// Which job is what.
struct Known(Value);

impl Known {
    fn of(file: &str) -> Self {
        Self(serde_json::from_slice(&std::fs::read(left_behind(file)).unwrap()).unwrap())
    }

    fn one(&self, what: &str) -> &str {
        self.0[what].as_str().unwrap()
    }

    fn all(&self, what: &str) -> Vec<&str> {
        self.0[what].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
    }

    fn states(&self) -> BTreeMap<&str, &str> {
        let states = self.0["first_states"].as_object().unwrap();
        states.iter().map(|(id, state)| (id.as_str(), state.as_str().unwrap())).collect()
    }
}

/// Whatever the day on which the test runs, what was left behind has not expired.
const FOREVER: (&str, &str) = ("JOBBER_RETENTION", "forever");

async fn jobber(place: &Place, args: &[&str], input: &str) -> Output {
    let data = place.data_dir();
    let args: Vec<_> = args.iter().copied().chain(["--data-dir", data.to_str().unwrap()]).collect();
    run(&args, &[FOREVER], place.path(), input).await
}

/// A data directory with this database, and jobs that note each run of theirs in one file.
fn place_with(database: &str) -> Arc<Place> {
    let place = Place::new();
    std::fs::create_dir(place.data_dir()).unwrap();
    std::fs::copy(left_behind(database), place.data_dir().join("jobber.db")).unwrap();
    let runs = place.path().join("runs");
    for name in ["echo-args", "sleeps", "fails"] {
        let script = format!("#!/bin/sh\necho \"$JOBBER_JOB_ID\" >> {}\necho \"args: $*\"\ncat\n", runs.display());
        place.job(name, &script);
    }
    place
}

/// How often each job ran.
fn runs(place: &Place) -> BTreeMap<String, u32> {
    let mut runs = BTreeMap::new();
    for id in std::fs::read_to_string(place.path().join("runs")).unwrap_or_default().lines() {
        *runs.entry(id.to_owned()).or_default() += 1;
    }
    runs
}

fn given() -> Value {
    json!({"image": "ä.png", "sizes": [1, 2.5, -3], "none": null, "deep": {"a": [{"b": true}]}})
}

/// What each job was given.
fn check_bodies(job: &Value, known: &Known) {
    let id = job["id"].as_str().unwrap();
    let (arguments, data) = if let Some(i) = known.all("completed").iter().position(|one| *one == id) {
        let mut data = given();
        data["n"] = json!(i);
        (json!(["done", i.to_string()]), data)
    } else if let Some(i) = known.all("failed").iter().position(|one| *one == id) {
        (json!(["abc"[i..=i]]), if i == 2 { given() } else { Value::Null })
    } else if let Some(i) = known.all("waiting").iter().position(|one| *one == id) {
        (json!(["waits", i.to_string()]), json!({"w": i}))
    } else if let Some(i) = known.all("children").iter().position(|one| *one == id) {
        (json!(["child", i.to_string()]), json!({"c": i}))
    } else if id == "order-42" {
        (json!(["named"]), given())
    } else if id == "asleep" {
        (json!(["1"]), json!({"active": true}))
    } else if id == known.one("delayed") {
        (json!(["delayed"]), json!({"d": 1}))
    } else if id == known.one("flow") {
        (json!(["parent"]), Value::Null)
    } else {
        return;
    };
    assert_eq!((&job["arguments"], &job["data"], &job["incomplete"]), (&arguments, &data, &Value::Null), "{job}");
}

/// Opens what was left behind, looks at all of it, and lets it run to its end.
async fn is_taken_over(place: Arc<Place>, known: Known, start: impl Fn(Start) -> Start) {
    let mut server = start(Jobber::serve().at(&place).env(FOREVER.0, FOREVER.1)).start().await;
    for (id, state) in known.states() {
        let (status, job) = server.get(&format!("/api/v1/jobs/{id}")).await;
        assert_eq!(status, 200, "{id}: {job}");
        // The lease of the one that ran is over, and nobody takes it while the queue is paused.
        let states: &[&str] = if state == "active" { &["active", "waiting"] } else { &[state] };
        assert!(states.contains(&job["state"].as_str().unwrap()), "{id} was {state}: {job}");
        check_bodies(&job, &known);
    }
    let (_, failures) = server.get("/api/v1/failures").await;
    assert!(failures.to_string().contains("missing-image"), "{failures}");
    let (_, schedules) = server.get("/api/v1/schedules").await;
    let schedules: Vec<_> = schedules["items"].as_array().unwrap_or_else(|| panic!("{schedules}")).clone();
    let paused: BTreeMap<_, _> =
        schedules.iter().map(|one| (one["id"].as_str().unwrap(), one["paused"].as_bool().unwrap())).collect();
    assert_eq!(paused, BTreeMap::from([("asleep-every", true), ("yearly", false)]));
    let yearly = schedules.iter().find(|one| one["id"] == "yearly").unwrap();
    assert_eq!((&yearly["job"]["data"], &yearly["tz"]), (&given(), &json!("Europe/Berlin")));
    // Its key is still taken.
    let again = json!({"name": "echo-args", "deduplication": {"key": "once"}});
    let (_, again) = server.post("/api/v1/jobs", again).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&json!(known.one("keyed")), &json!(true)));

    let mut worker = start(Jobber::work().at(&place).env(FOREVER.0, FOREVER.1)).start().await;
    assert_eq!(server.post("/api/v1/queue:resume", Value::Null).await.0 / 100, 2);
    assert_eq!(server.post(&format!("/api/v1/jobs/{}:promote", known.one("delayed")), Value::Null).await.0, 202);
    let ran: Vec<_> =
        known.states().into_iter().filter(|(_, state)| !["completed", "failed"].contains(state)).collect();
    for (id, _) in &ran {
        let job = server.wait_final(id).await;
        assert_eq!(job["state"], "completed", "{job}");
        check_bodies(&job, &known);
        let attempts: Vec<_> = job["attempts"].as_array().unwrap().iter().map(|a| a["number"].clone()).collect();
        // The one that was killed with its worker comes again.
        assert_eq!(attempts, if *id == "asleep" { vec![json!(1), json!(2)] } else { vec![json!(1)] }, "{job}");
        let output = job["attempts"].as_array().unwrap().last().unwrap()["report"]["stdout"]["text"].to_string();
        assert!(output.contains("args: "), "{job}");
    }
    let ran: BTreeMap<_, _> = ran.into_iter().map(|(id, _)| (id.to_owned(), 1)).collect();
    let mut all = runs(&place);
    // The schedule's time may have come since.
    all.retain(|id, _| !id.starts_with("repeat:"));
    assert_eq!(all, ran, "each once, and nothing that had ended");
    // Attempts of the version before have no build; those of this one do, and are compared with none.
    let (status, builds) = server.get("/api/v1/stats/builds?name=echo-args").await;
    assert_eq!((status, builds["builds"].as_array().map(Vec::len)), (200, Some(1)), "{builds}");
    assert_eq!(builds["regressions"], json!([]), "{builds}");
    worker.stop().await;
    server.stop().await;
    let check = jobber(&place, &["rebuild", "--check"], "").await;
    assert_eq!(check.code, 0, "{check:?}");
    assert!(check.stdout.contains("aggregates that differ                         0"), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_0_1_0_is_taken_over() {
    is_taken_over(place_with("jobber.db"), Known::of("embedded.json"), |start| start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_on_redis_of_0_1_0_is_taken_over() {
    let redis = Redis::start();
    let port = redis.port().to_string();
    let fed = std::process::Command::new("redis-cli")
        .args(["-p", &port, "--pipe"])
        .stdin(std::fs::File::open(left_behind("redis.aof")).unwrap())
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&fed.stdout).into_owned();
    assert!(fed.status.success() && said.contains("errors: 0"), "{said}");
    let url = redis.url();
    is_taken_over(place_with("redis-jobber.db"), Known::of("redis.json"), |start| start.env("JOBBER_QUEUE_URL", &url))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_0_1_0_is_imported() {
    let (place, known) = (Place::new(), Known::of("embedded.json"));
    let text = std::fs::read_to_string(left_behind("export.jsonl")).unwrap();
    for new in ["17", "0"] {
        let imported = jobber(&place, &["import"], &text).await;
        assert_eq!(imported.code, 0, "{imported:?}");
        assert!(imported.stdout.contains(new), "{imported:?}");
    }
    // All of it comes out again as it came in, but for the first line.
    let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&jobber(&place, &["export"], "").await.stdout), lines(&text));
    let mut server = Jobber::serve().at(&place).env(FOREVER.0, FOREVER.1).start().await;
    for (id, _) in known.states() {
        let job = eventually("history to be read", async || {
            let (status, job) = server.get(&format!("/api/v1/jobs/{id}")).await;
            (status == 200).then_some(job)
        })
        .await;
        check_bodies(&job, &known);
    }
    server.stop().await;
    let check = jobber(&place, &["rebuild", "--check"], "").await;
    assert!(check.stdout.contains("aggregates that differ                         0"), "{check:?}");
}

#[tokio::test]
async fn of_a_data_directory_of_0_1_0_notices_tell_what_ends_from_now_on() {
    let receiver = Receiver::start().await;
    let place = place_with("jobber.db");
    place.job("breaks", "#!/bin/sh\nexit 5\n");
    let url = receiver.url();
    let config = format!("[[notify]]\nname = \"ops\"\non = [\"failed\"]\njobs = [\"breaks\"]\nurl = \"{url}\"\n");
    std::fs::write(place.path().join("jobber.toml"), config).unwrap();
    let jobber = Jobber::dev().at(&place).env(FOREVER.0, FOREVER.1).start().await;
    assert_eq!(jobber.post("/api/v1/queue:resume", Value::Null).await.0 / 100, 2);
    let id = jobber.submit(json!({"name": "breaks", "attempts": 1})).await;
    jobber.wait_final(&id).await;
    assert_eq!(receiver.taken(1).await[0].json()["job"]["id"], json!(id));
}
