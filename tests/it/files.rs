//! The files that jobs leave are kept with them, and their inputs come to them: in the data directory and on a real S3
//! server, with one process and with two on Redis.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jobber::config::{Config, Sources};
use jobber::domain::Clock;
use jobber::reconciler::files::FileSweep;
use jobber::store::Retention;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use crate::harness::redis::Redis;
use crate::harness::s3::{S3, SECRET};
use crate::harness::{Jobber, Place, Start, eventually};

const DAY: Duration = Duration::from_secs(86_400);

/// Leaves a text, a picture's beginning and a file in a folder, and fails at the first attempt.
const LEAVES: &str = "#!/bin/sh
cd \"$JOBBER_OUTPUT_DIR\" || exit 9
echo \"attempt $JOBBER_ATTEMPT\" > note.txt
printf '\\211PNG\\r\\n\\032\\nrest' > picture.dat
mkdir -p 'a folder/b'
printf x > 'a folder/b/ä.bin'
[ \"$JOBBER_ATTEMPT\" -gt 1 ] || { echo 'not yet' >&2; exit 1; }
";

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

/// Scratch directories of attempts that are over.
fn scratch_is_empty(j: &Jobber) -> bool {
    below(&j.place().data_dir().join("scratch")).is_empty()
}

fn with_s3(start: Start, server: &S3) -> Start {
    server.environment().iter().fold(start, |start, (name, value)| start.env(name, value))
}

async fn names(j: &Jobber, id: &str) -> Vec<(u64, String)> {
    let (status, files) = j.get(&format!("/api/v1/jobs/{id}/files")).await;
    assert_eq!(status, 200, "{files}");
    let items = files["items"].as_array().unwrap().iter();
    items.map(|file| (file["attempt"].as_u64().unwrap(), file["name"].as_str().unwrap().to_owned())).collect()
}

/// What a user does with the files of a job, wherever they are kept.
async fn files_come_back(j: &Jobber) {
    j.job("leaves", LEAVES);
    let id = j.submit(json!({"name": "leaves", "backoff": {"type": "fixed", "delay_ms": 1}})).await;
    let view = j.wait_final(&id).await;
    assert_eq!(view["state"], "completed", "{view}");
    let (_, files) = j.get(&format!("/api/v1/jobs/{id}/files")).await;
    let of = |attempt: u64| [(attempt, "a folder/b/ä.bin"), (attempt, "note.txt"), (attempt, "picture.dat")];
    let wanted: Vec<_> = [of(1), of(2)].concat().into_iter().map(|(n, name)| (n, name.to_owned())).collect();
    assert_eq!(names(j, &id).await, wanted);
    let picture = &files["items"][5];
    assert_eq!(picture["content_type"], "image/png", "{picture}");
    assert_eq!((&picture["size"], &picture["sha256"]), (&json!(12), &json!(hex(b"\x89PNG\r\n\x1a\nrest"))));
    assert_eq!(files["notes"], json!([]));
    assert_eq!(view["attempts"][0]["report"]["files"].as_array().unwrap().len(), 3);

    // Each attempt has its own.
    for (attempt, text) in [(1, "attempt 1\n"), (2, "attempt 2\n")] {
        let url = format!("/api/v1/jobs/{id}/attempts/{attempt}/files/note.txt");
        assert_eq!(j.get(&url).await, (200, json!(text)));
    }
    assert_eq!(j.get(&format!("/api/v1/jobs/{id}/files/note.txt")).await, (200, json!("attempt 2\n")));
    let url = files["items"][3]["url"].as_str().unwrap();
    assert_eq!(j.get(url).await, (200, json!("x")), "{url}");
    for missing in ["files/other", "attempts/3/files/note.txt", "attempts/1/files/..%2F..%2Fjobber.db"] {
        let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/{missing}")).await;
        assert_eq!((status, &problem["code"]), (404, &json!("unknown_file")), "{missing}: {problem}");
    }

    let listed = j.cli(&["files", "ls", &id]).await;
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    assert!(listed.stdout.contains("image/png") && listed.stdout.contains("a folder/b/ä.bin"), "{}", listed.stdout);
    let to = j.place().path().join("got");
    let got = j.cli(&["files", "get", &id, "--to", to.to_str().unwrap()]).await;
    assert_eq!(got.code, 0, "{}", got.stderr);
    assert_eq!(std::fs::read_to_string(to.join("note.txt")).unwrap(), "attempt 2\n");
    assert_eq!(std::fs::read(to.join("a folder/b/ä.bin")).unwrap(), b"x");
    assert_eq!(below(&to).len(), 3);
    let first = j.cli(&["files", "get", &id, "note.txt", "--attempt", "1", "--to", "-"]).await;
    assert_eq!((first.code, first.stdout.as_str()), (0, "attempt 1\n"), "{}", first.stderr);
    let missing = j.cli(&["files", "get", &id, "other"]).await;
    assert!(missing.code == 3 && missing.stderr.contains("jobber files ls"), "{}", missing.stderr);
    eventually("the scratch directories to be removed", async || scratch_is_empty(j).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_in_the_data_directory() {
    let j = Jobber::dev().start().await;
    files_come_back(&j).await;
    assert_eq!(below(&j.place().data_dir().join("artifacts")).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_on_s3_by_a_worker_and_given_by_a_server() {
    let (redis, store) = (Redis::start(), S3::start().await);
    let serve = with_s3(Jobber::serve(), &store).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let work = with_s3(Jobber::work(), &store).at(serve.place()).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    files_come_back(&serve).await;
    let keys = store.keys().await;
    assert!(keys.len() == 6 && keys.iter().all(|key| key.starts_with("of-a-test/jobs/")), "{keys:?}");
    assert!(!serve.place().data_dir().join("artifacts").exists());

    // More than one request holds.
    serve.job("large", "#!/bin/sh\nhead -c 20000003 /dev/zero > \"$JOBBER_OUTPUT_DIR/zeros\"\n");
    let id = serve.submit(json!({"name": "large"})).await;
    serve.wait_final(&id).await;
    let to = serve.place().path().join("large-files");
    let got = serve.cli(&["files", "get", &id, "--to", to.to_str().unwrap()]).await;
    assert_eq!(got.code, 0, "{}", got.stderr);
    assert!(std::fs::read(to.join("zeros")).unwrap() == vec![0; 20_000_003]);
    for log in [serve.log(), work.log()] {
        assert!(!log.contains(SECRET), "{log}");
    }
    // No job sees the keys.
    serve.job("looks", "#!/bin/sh\nenv; cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n'; exit 0\n");
    let id = serve.submit(json!({"name": "looks"})).await;
    let view = serve.wait_final(&id).await;
    assert!(!view.to_string().contains(SECRET), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_file_and_what_browsers_may_do_with_it() {
    let j = Jobber::dev().start().await;
    j.job("page", "#!/bin/sh\ncd $JOBBER_OUTPUT_DIR; printf '<script>alert(1)</script>' | tee a.html > a.png\n");
    let id = j.submit(json!({"name": "page"})).await;
    j.wait_final(&id).await;
    let get = async |name: &str, header: (&str, &str)| {
        let request = j.http().get(j.url(&format!("/api/v1/jobs/{id}/files/{name}"))).header(header.0, header.1);
        request.send().await.unwrap()
    };
    let whole = get("a.html", ("accept", "*/*")).await;
    let header = |name: &str| whole.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert!(header("content-disposition").starts_with("attachment; "));
    assert!(header("content-security-policy").contains("sandbox") && header("x-content-type-options") == "nosniff");
    let tag = header("etag");
    assert_eq!(tag, format!("\"{}\"", hex(b"<script>alert(1)</script>")));
    // A name alone makes no picture of it.
    let disguised = get("a.png", ("accept", "*/*")).await;
    assert_eq!(disguised.headers()["content-type"], "text/plain; charset=utf-8");

    assert_eq!(get("a.html", ("if-none-match", &tag)).await.status(), 304);
    let part = get("a.html", ("range", "bytes=1-6")).await;
    assert_eq!((part.status().as_u16(), &part.headers()["content-range"]), (206, &"bytes 1-6/25".parse().unwrap()));
    assert_eq!(part.text().await.unwrap(), "script");
    assert_eq!(get("a.html", ("range", "bytes=-9")).await.text().await.unwrap(), "</script>");
    let beyond = get("a.html", ("range", "bytes=25-")).await;
    assert_eq!((beyond.status().as_u16(), &beyond.headers()["content-range"]), (416, &"bytes */25".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_leaves_can_not_lead_out_of_its_directory() {
    let j = Jobber::dev().start().await;
    let secret = j.place().path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    j.job(
        "links",
        "#!/bin/sh
cd $JOBBER_OUTPUT_DIR
ln -s $1 link; ln -s / root; mkfifo pipe; mkdir shut; echo x > shut/x; chmod 0 shut; echo ok > ok
printf x > \"$(printf 'two\\nlines')\"
",
    );
    j.job("swaps", "#!/bin/sh\nrmdir $JOBBER_OUTPUT_DIR; ln -s $1 $JOBBER_OUTPUT_DIR\n");
    let id = j.submit(json!({"name": "links", "arguments": [secret]})).await;
    let view = j.wait_final(&id).await;
    let kept: Vec<_> = names(&j, &id).await.into_iter().map(|(_, name)| name).collect();
    // Root may read all.
    let may_read_all = rustix::process::geteuid().is_root();
    assert_eq!(kept, if may_read_all { vec!["ok", "shut/x"] } else { vec!["ok"] });
    let note = view["attempts"][0]["report"]["files_note"].as_str().unwrap();
    for part in ["3 files, the first", "only regular files are kept", "control characters"] {
        assert!(note.contains(part), "{part}: {note}");
    }
    let id = j.submit(json!({"name": "swaps", "arguments": [j.place().path()]})).await;
    assert_eq!(j.wait_final(&id).await["state"], "completed");
    assert!(names(&j, &id).await.is_empty());
    eventually("the scratch directories to be removed", async || scratch_is_empty(&j).then_some(())).await;
    assert!(secret.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_is_kept_is_left_out_and_said() {
    let j =
        Jobber::dev().env("JOBBER_ARTIFACTS_MAX_FILES", "3").env("JOBBER_ARTIFACTS_MAX_BYTES", "10KiB").start().await;
    j.job(
        "many",
        "#!/bin/sh\ncd $JOBBER_OUTPUT_DIR; for n in 1 2 3 4 5; do echo $n > f$n; done; head -c 20000 /dev/zero > a\n",
    );
    let id = j.submit(json!({"name": "many"})).await;
    let view = j.wait_final(&id).await;
    assert_eq!(view["state"], "completed", "{view}");
    let kept: Vec<_> = names(&j, &id).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(kept, ["f1", "f2", "f3"]);
    let (_, files) = j.get(&format!("/api/v1/jobs/{id}/files")).await;
    let note = files["notes"][0]["note"].as_str().unwrap();
    for part in ["2 files, the first \"f4\": more than 3 files", "\"a\": more than 10240 bytes"] {
        assert!(note.contains(part), "{note}");
    }
    let listed = j.cli(&["files", "ls", &id]).await;
    assert!(listed.stdout.contains("artifacts.max_files"), "{}", listed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_no_attempt_and_no_slot() {
    let store = S3::start().await;
    let start = with_s3(Jobber::dev(), &store).env("JOBBER_ARTIFACTS_PATIENCE", "3s").arg("--cores").arg("1");
    let j = start.start().await;
    j.job("leaves", "#!/bin/sh\necho kept > $JOBBER_OUTPUT_DIR/a\n");
    j.job("plain", "#!/bin/sh\necho done\n");
    store.kill();
    let id = j.submit(json!({"name": "leaves"})).await;
    // The one slot is free although the files of the first job are not kept yet.
    let other = j.submit(json!({"name": "plain"})).await;
    assert_eq!(j.wait_final(&other).await["state"], "completed");
    let view = j.wait_final(&id).await;
    assert_eq!((&view["state"], view["attempts"].as_array().unwrap().len()), (&json!("completed"), 1), "{view}");
    let note = view["attempts"][0]["report"]["files_note"].as_str().unwrap();
    assert!(note.contains("\"a\": the store of files does not take it"), "{note}");
    let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/files/a")).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_file")));

    // One that comes back in time has all.
    let mut back = None;
    for _ in 0..20 {
        let id = j.submit(json!({"name": "leaves"})).await;
        if back.is_none() {
            store.restart().await;
            back = Some(());
        }
        j.wait_final(&id).await;
        if !names(&j, &id).await.is_empty() {
            assert_eq!(j.get(&format!("/api/v1/jobs/{id}/files/a")).await, (200, json!("kept\n")));
            // The store loses it: that is said.
            store.kill();
            let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/files/a")).await;
            assert_eq!((status, &problem["code"]), (503, &json!("files_unavailable")), "{problem}");
            store.restart().await;
            let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/files/a")).await;
            assert_eq!((status, &problem["code"]), (404, &json!("unknown_file")), "{problem}");
            return;
        }
    }
    panic!("no files are kept after the store was back");
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_from_whom_data_is_hidden_see_no_files() {
    let start = Jobber::dev().env("JOBBER_TOKEN", "operators-token").env("JOBBER_VIEW_TOKEN", "viewers-token");
    let j = start.env("JOBBER_VIEW_HIDES_DATA", "true").start().await;
    j.job("leaves", "#!/bin/sh\necho kept > $JOBBER_OUTPUT_DIR/a\n");
    let get = async |path: &str, token: &str| {
        let answer = j.http().get(j.url(path)).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let request = j.http().post(j.url("/api/v1/jobs")).bearer_auth("operators-token").json(&json!({"name": "leaves"}));
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let id = answer["id"].as_str().unwrap();
    let (_, view) = get(&format!("/api/v1/jobs/{id}?wait=20"), "operators-token").await;
    assert!(view.contains("\"files\""), "{view}");
    assert_eq!(get(&format!("/api/v1/jobs/{id}/files/a"), "operators-token").await, (200, "kept\n".to_owned()));
    assert!(!get(&format!("/api/v1/jobs/{id}"), "viewers-token").await.1.contains("\"files\""));
    for path in ["files", "files/a", "attempts/1/files/a"] {
        assert_eq!(get(&format!("/api/v1/jobs/{id}/{path}"), "viewers-token").await.0, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_the_strictest_sandbox_may_leave_files() {
    let j =
        Jobber::dev().env("JOBBER_SANDBOX", "strict").env("JOBBER_SANDBOX_UNSUPPORTED", "best_effort").start().await;
    j.job("leaves", "#!/bin/sh\nmkdir $JOBBER_OUTPUT_DIR/in && echo kept > $JOBBER_OUTPUT_DIR/in/a\n");
    let id = j.submit(json!({"name": "leaves", "attempts": 1})).await;
    let view = j.wait_final(&id).await;
    assert_eq!(view["state"], "completed", "{view}");
    assert_eq!(names(&j, &id).await, [(1, "in/a".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mandelbrot_keeps_its_picture() {
    let j = Jobber::dev().start().await;
    j.place().cpp_jobs();
    let out = j.cli(&["run", "mandelbrot", "--data", r#"{"width": 80, "height": 60, "iterations": 50}"#]).await;
    assert_eq!(out.code, 0, "{}", out.stderr);
    let (_, list) = j.get("/api/v1/jobs?name=mandelbrot").await;
    let id = list["items"][0]["id"].as_str().unwrap();
    let (_, files) = j.get(&format!("/api/v1/jobs/{id}/files")).await;
    assert_eq!(files["items"][0]["name"], "mandelbrot.png", "{files}");
    assert_eq!(files["items"][0]["content_type"], "image/png");
}

/// What history of this place says, and its files, to a sweep at this time.
async fn sweep(place: &Place, after: Duration) {
    let flags = vec![("data_dir", vec![place.data_dir().display().to_string()])];
    let config = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
    let clock = Clock::manual(Clock::system().now() + after);
    let ports = jobber::wiring::open_server(&config, &clock, &TaskTracker::new()).await.unwrap();
    let sweep = FileSweep {
        artifacts: ports.artifacts.clone(),
        history: ports.history.clone(),
        source: ports.source.clone(),
        retention: Retention::new(Some(DAY * 7)),
        clock,
    };
    sweep.sweep().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_inputs_expire_with_history() {
    let mut j = Jobber::dev().start().await;
    j.job("leaves", "#!/bin/sh\ncat $JOBBER_INPUT_DIR/in > $JOBBER_OUTPUT_DIR/a\n");
    let place = j.place().clone();
    for name in ["used", "waited-for"] {
        std::fs::write(place.path().join(name), name).unwrap();
    }
    let done = j.cli(&["run", "leaves", "--input", "used=in"]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let waiting = j.cli(&["submit", "leaves", "--input", "waited-for=in", "--delay", "1000d"]).await;
    assert_eq!(waiting.code, 0, "{}", waiting.stderr);
    // An attempt of which history was never told.
    let lost = place.data_dir().join("artifacts/jobs/1700000000000~lost/1");
    std::fs::create_dir_all(&lost).unwrap();
    std::fs::write(lost.join("a"), "x").unwrap();
    let list = j.cli(&["list", "-o", "json", "--state", "completed"]).await;
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let id = list["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(j.stop().await, 0);
    let kept = |folder: &str| below(&place.data_dir().join("artifacts").join(folder)).len();

    sweep(&place, DAY * 6).await;
    assert_eq!((kept("jobs"), kept("inputs")), (2, 2));
    sweep(&place, DAY * 9).await;
    assert_eq!((kept("jobs"), kept("inputs")), (0, 2));
    sweep(&place, DAY * 12).await;
    let left = below(&place.data_dir().join("artifacts/inputs"));
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(std::fs::read_to_string(&left[0]).unwrap(), "waited-for");

    // Before its record has gone, the job still says what it left, and that this is gone.
    let j = Jobber::dev().at(&place).start().await;
    let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/files/a")).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_file")), "{problem}");
}

/// Says what it finds among its inputs, and whether it may change that.
const READS: &str = "#!/bin/sh
cd \"$JOBBER_INPUT_DIR\" && cat scene.json 'more/b.txt' && stat -c '%a' scene.json more .
";

async fn inputs_arrive(j: &Jobber) {
    j.job("reads", READS);
    let place = j.place().path();
    std::fs::write(place.join("a.json"), "{\"a\":1}\n").unwrap();
    std::fs::write(place.join("b.txt"), "b\n").unwrap();
    let args = ["run", "-v", "reads", "--input", "a.json=scene.json", "--input", "b.txt=more/b.txt"];
    let first = j.cli(&args).await;
    assert_eq!((first.code, first.stdout.as_str()), (0, "{\"a\":1}\nb\n444\n555\n555\n"), "{}", first.stderr);
    assert!(first.stderr.contains("a.json: uploading 8 bytes"), "{}", first.stderr);
    let again = j.cli(&args).await;
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(
        again.stderr.contains("a.json: the server has it") && !again.stderr.contains("uploading"),
        "{}",
        again.stderr
    );

    // By the API: upload, and name it.
    let bytes = vec![7; 9_000_000];
    let sha256 = hex(&bytes);
    let url = format!("/api/v1/inputs/{sha256}");
    assert_eq!(j.get(&url).await.0, 404);
    let job = json!({"name": "sums", "inputs": [{"name": "x", "sha256": sha256}]});
    j.job("sums", "#!/bin/sh\nsha256sum < $JOBBER_INPUT_DIR/x | cut -c 1-64\n");
    let (status, problem) = j.post("/api/v1/jobs", job.clone()).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/inputs/0/sha256")), "{problem}");
    let other = j.http().put(j.url(&url)).body("something else").send().await.unwrap();
    assert_eq!(other.status(), 409);
    assert!(other.text().await.unwrap().contains("digest_mismatch"));
    assert_eq!(j.http().head(j.url(&url)).send().await.unwrap().status(), 404);
    for _ in 0..2 {
        let put = j.http().put(j.url(&url)).body(bytes.clone()).send().await.unwrap();
        assert_eq!(put.status(), 201);
    }
    assert_eq!(j.get(&url).await, (200, json!({"sha256": sha256, "size": 9_000_000})));
    let id = j.submit(job).await;
    let view = j.wait_final(&id).await;
    assert_eq!(view["result"], json!(sha256), "{view}");
    assert_eq!(view["options"]["inputs"], json!([{"name": "x", "sha256": sha256, "size": 9_000_000}]));
    for (wrong, pointer) in [
        (json!([{"name": "../x", "sha256": sha256}]), "/inputs/0/name"),
        (json!([{"name": "x", "sha256": sha256}, {"name": "x/y", "sha256": sha256}]), "/inputs/1/name"),
        (json!([{"name": "x", "sha256": "ab"}]), "/inputs/0/sha256"),
    ] {
        let (status, problem) = j.post("/api/v1/jobs", json!({"name": "sums", "inputs": wrong})).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let missing = j.cli(&["submit", "reads", "--input", "nowhere"]).await;
    assert!(missing.code == 2 && missing.stderr.contains("nowhere"), "{}", missing.stderr);
    eventually("the scratch directories to be removed", async || scratch_is_empty(j).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_arrive_by_the_data_directory() {
    let j = Jobber::dev().start().await;
    inputs_arrive(&j).await;
    let large = j.place().path().join("large");
    let file = std::fs::File::create(&large).unwrap();
    file.set_len((1 << 30) + 1).unwrap();
    let refused = j.cli(&["submit", "reads", "--input", "large"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("artifacts.max_input_bytes"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_arrive_by_s3_at_a_worker_in_the_strictest_sandbox() {
    let (redis, store) = (Redis::start(), S3::start().await);
    let serve = with_s3(Jobber::serve(), &store).env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let work = with_s3(Jobber::work(), &store).at(serve.place()).env("JOBBER_QUEUE_URL", &redis.url());
    let strict = work.env("JOBBER_SANDBOX", "strict").env("JOBBER_SANDBOX_UNSUPPORTED", "best_effort");
    let _work = strict.start().await;
    inputs_arrive(&serve).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_input_is_gone_fails_and_one_whose_store_is_away_waits() {
    let store = S3::start().await;
    let j = with_s3(Jobber::dev(), &store).start().await;
    j.job("reads", "#!/bin/sh\ncat $JOBBER_INPUT_DIR/a\n");
    std::fs::write(j.place().path().join("a"), "here\n").unwrap();
    let paused = j.cli(&["queue", "pause"]).await;
    assert_eq!(paused.code, 0, "{}", paused.stderr);
    let submit = async || {
        let out = j.cli(&["submit", "reads", "--input", "a", "--print-id"]).await;
        assert_eq!(out.code, 0, "{}", out.stderr);
        out.stdout.trim().to_owned()
    };
    let id = submit().await;
    // What it held is lost with it.
    store.kill();
    assert_eq!(j.cli(&["queue", "resume"]).await.code, 0);
    eventually("the worker to say that the store is away", async || {
        j.log().contains("the inputs of a job can't be had").then_some(())
    })
    .await;
    let (_, view) = j.get(&format!("/api/v1/jobs/{id}")).await;
    assert!(view["attempts"].as_array().unwrap().is_empty(), "{view}");
    store.restart().await;
    let view = j.wait_final(&id).await;
    assert_eq!(view["outcome"]["kind"], "spawn_error", "{view}");
    assert!(view["error"].as_str().unwrap().contains("is not in the store any more"), "{view}");
    let id = submit().await;
    assert_eq!(j.wait_final(&id).await["result"], "here");
}
