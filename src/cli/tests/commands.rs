//! Runs commands against a server with scripted answers, and checks what they ask, print and exit with.

use serde_json::{Value, json};

use super::*;
use crate::client::fake::{FakeServer, events, json as answer, problem};

fn completed_job(result: serde_json::Value, stdout: &str) -> JobView {
    let mut job = failed_job();
    let report = job.attempts[1].report.as_mut().unwrap();
    report.outcome = Outcome::Exit { code: 0 };
    report.stdout.text = stdout.into();
    JobView {
        state: JobState::Completed,
        outcome: Some(Outcome::Exit { code: 0 }),
        error: None,
        result: Some(result),
        ..job
    }
}

struct Ran {
    code: ExitCode,
    out: String,
    err: String,
    requests: Vec<String>,
}

/// Runs a command line against a server that gives these answers.
async fn cli(words: &[&str], answers: Vec<Vec<u8>>) -> Ran {
    let server = FakeServer::start(answers).await;
    let address = server.address();
    let words = ["jobber", "--server", address].into_iter().chain(words.iter().copied()).map(OsString::from);
    let Cli { globals, command } = parse(words).unwrap();
    let Command::Client(command) = command else { panic!("{command:?} is a role") };
    let (console, out, err) = captured(&globals);
    let code = run(command, &globals, console).await;
    Ran { code, out: text(&out), err: text(&err), requests: server.requests() }
}

fn submitted() -> Vec<u8> {
    answer(202, &json!({"id": "0192-a", "status": "queued", "duplicate": false}))
}

fn output(stream: &str, text: &str) -> serde_json::Value {
    json!({"type": "output", "attempt": 1, "stream": stream, "text": text})
}

fn state(state: &str) -> serde_json::Value {
    json!({"type": "state", "state": state})
}

#[tokio::test]
async fn flags_become_the_jobs_rules() {
    let ran = cli(
        &[
            "submit",
            "resize",
            "--data",
            "{\"a\": [1]}",
            "--attempts",
            "5",
            "--backoff",
            "fixed:5s:jitter",
            "--delay",
            "1m",
            "--priority",
            "7",
            "--timeout",
            "90s",
            "--grace",
            "2s",
            "--cores",
            "4",
            "--memory",
            "512M",
            "--no-retry-exit-codes",
            "2,3",
            "--dedup",
            "k:1h",
            "--id",
            "order-42",
            "--",
            "-x",
            "--wait",
        ],
        vec![submitted()],
    )
    .await;
    assert_eq!(ran.code, ExitCode::SUCCESS, "{}", ran.err);
    let body = ran.requests[0].split_once("\r\n\r\n").unwrap().1;
    insta::assert_snapshot!(body, @r#"{"name":"resize","arguments":["-x","--wait"],"data":{"a":[1]},"id":"order-42","attempts":5,"backoff":{"type":"fixed","delay_ms":5000,"jitter":0.5},"delay_ms":60000,"priority":7,"timeout_ms":90000,"grace_ms":2000,"cores":4,"memory_bytes":536870912,"no_retry_exit_codes":[2,3],"deduplication":{"key":"k","ttl_ms":3600000}}"#);
    insta::assert_snapshot!(ran.out, @r"
    ID      STATUS
    0192-a  queued
    ");
}

#[tokio::test]
async fn many_jobs_are_one_request_and_ids_are_for_scripts() {
    let answers = || {
        vec![answer(
            202,
            &json!({"jobs": [
                {"id": "a", "status": "queued", "duplicate": false}, {"id": "b", "status": "queued", "duplicate": true},
            ]}),
        )]
    };
    let ran = cli(&["submit", "resize", "--count", "2", "--print-id"], answers()).await;
    assert_eq!(ran.out, "a\nb\n");
    assert!(ran.requests[0].starts_with("POST /api/v1/jobs:bulk "));
    let jobs = |request: &str| {
        let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let mut jobs = body["jobs"].as_array().unwrap().clone();
        let groups: Vec<_> = jobs.iter_mut().map(|job| job.as_object_mut().unwrap().remove("group")).collect();
        assert!(groups[0].is_some() && groups.iter().all(|group| *group == groups[0]), "{groups:?}");
        (Value::Array(jobs), groups[0].as_ref().unwrap().as_str().unwrap().to_owned())
    };
    let (sent, group) = jobs(&ran.requests[0]);
    assert_eq!(sent, json!([{"name": "resize"}, {"name": "resize"}]));
    assert_eq!(ran.err, format!("group {group}\n"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines");
    fs_err::write(&file, "one\r\n\ntwo words\n").unwrap();
    let ran =
        cli(&["submit", "resize", "--each-line", file.to_str().unwrap(), "-o", "jsonl", "--", "-f"], answers()).await;
    assert_eq!(ran.out.lines().count(), 2);
    let expected =
        json!([{"name": "resize", "arguments": ["-f", "one"]}, {"name": "resize", "arguments": ["-f", "two words"]}]);
    assert_eq!(jobs(&ran.requests[0]).0, expected);

    fs_err::write(&file, r#"[{"name": "a", "attempts": 1}, {"name": "b"}]"#).unwrap();
    let ran = cli(&["submit", "--from-json", file.to_str().unwrap(), "--attempts", "9"], answers()).await;
    assert_eq!(jobs(&ran.requests[0]).0, json!([{"name": "a", "attempts": 1}, {"name": "b", "attempts": 9}]));
    let named = ["submit", "resize", "--count", "2", "--group", "alice", "--idempotency-key", "k"];
    assert_eq!(jobs(&cli(&named, answers()).await.requests[0]).1, "alice");
    let keyed = ["submit", "resize", "--count", "2", "--idempotency-key", "k"];
    let (first, again) = (cli(&keyed, answers()).await, cli(&keyed, answers()).await);
    assert_eq!(jobs(&first.requests[0]), jobs(&again.requests[0]), "the same request once more");
}

#[tokio::test]
async fn an_array_is_one_request_and_its_group_is_for_scripts() {
    let array = json!({"group": "g", "count": 3, "duplicates": 0, "first_id": "g-0", "last_id": "g-2"});
    let answers = || vec![answer(202, &json!({"id": "g-0", "status": "queued", "duplicate": false, "array": array}))];
    let ran = cli(&["submit", "sim", "--array", "0-2%2", "--print-id"], answers()).await;
    assert_eq!(ran.out, "g\n");
    let body: Value = serde_json::from_str(ran.requests[0].split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["array"], "0-2%2");
    assert!(body["id"].as_str().is_some_and(|id| id.len() == 36), "it is known before the answer: {body}");
    let ran = cli(&["submit", "sim", "--array", "0-2", "--group", "g", "--idempotency-key", "k"], answers()).await;
    assert!(ran.requests[0].ends_with(r#"{"name":"sim","group":"g","array":"0-2"}"#), "{}", ran.requests[0]);
    insta::assert_snapshot!(ran.out, @r"
    GROUP  JOBS  DUPLICATES  FIRST  LAST
    g      3     0           g-0    g-2
    ");
}

#[tokio::test]
async fn a_group_is_awaited_by_its_counts() {
    let view = |completed: u64, failed: u64, total: u64, behind: bool| {
        let active = total - completed - failed;
        answer(
            200,
            &json!({"group": "g", "total": total, "waiting": 0, "delayed": 0, "prioritized": 0, "active": active,
                "completed": completed, "failed": failed, "progress": 50.0, "submitted_at": null,
                "finished_at": null, "behind": behind}),
        )
    };
    let failed = |code: i32| {
        json!({"id": "g-1", "name": "sim", "state": "failed", "submitted_at": "2026-11-24T08:00:00Z",
            "started_at": null, "finished_at": null, "attempts": 1, "outcome": {"kind": "exit", "code": code},
            "error": null})
    };
    let answers = vec![
        view(1, 0, 1, true),
        view(1, 1, 4, false),
        view(2, 2, 4, false),
        answer(200, &json!({"items": [failed(3)], "next_cursor": "c"})),
        answer(200, &json!({"items": [failed(9)], "next_cursor": null})),
    ];
    let ran = cli(&["wait", "--group", "g"], answers).await;
    assert_eq!(ran.code, ExitCode::from(9), "{}", ran.err);
    assert_eq!(ran.requests.len(), 5);
    assert!(ran.requests[3].starts_with("GET /api/v1/jobs?state=failed&group=g&limit=200 "), "{}", ran.requests[3]);
    insta::assert_snapshot!(ran.err, @r"
     50% 1 of 1 jobs done, 0 failed
     50% 2 of 4 jobs done, 1 failed
    ");
    assert!(ran.out.starts_with("group        g\njobs         4\n"), "{}", ran.out);
}

#[tokio::test]
async fn run_passes_output_and_code_through() {
    let mut job = failed_job();
    job.outcome = Some(Outcome::Exit { code: 3 });
    let ran = cli(
        &["run", "resize"],
        vec![
            submitted(),
            events(&[
                state("active"),
                output("stdout", "half a "),
                json!({"type": "progress", "percent": 50.0, "text": "halfway"}),
                output("stdout", "line\n"),
                output("stderr", "bad pixel\n"),
                json!({"type": "attempt", "attempt": 1, "outcome": {"kind": "exit", "code": 3}}),
                state("failed"),
            ]),
            answer(200, &job),
        ],
    )
    .await;
    assert_eq!(ran.code, ExitCode::from(3));
    assert_eq!(ran.out, "half a line\n");
    insta::assert_snapshot!(ran.err, @r"
    job 0192-a
     50% halfway
    bad pixel
    attempt 1 ended: exit 3
    job 0192-a failed: exit 3
    ");
}

#[tokio::test]
async fn run_prints_a_result_that_was_not_in_the_output() {
    let answers = |job: &JobView, text: &str| {
        vec![submitted(), events(&[output("stdout", text), state("completed")]), answer(200, job)]
    };
    let job = completed_job(json!({"image": "m.ppm"}), "");
    let ran = cli(&["run", "resize"], answers(&job, "no newline")).await;
    assert_eq!((ran.code, ran.out.as_str()), (ExitCode::SUCCESS, "no newline\n{\"image\":\"m.ppm\"}\n"));

    let job = completed_job(json!("hello"), "hello\n");
    let ran = cli(&["run", "resize", "-q"], answers(&job, "hello\n")).await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("hello\n", ""));

    let ran = cli(&["run", "resize", "-q", "-o", "json"], answers(&job, "hello\n")).await;
    assert_eq!(serde_json::from_str::<JobView>(&ran.out).unwrap(), job);
    assert_eq!(ran.err, "hello\n");
}

#[tokio::test]
async fn run_never_gives_the_codes_of_other_commands() {
    let run = async |answers| cli(&["run", "resize"], answers).await;
    let ran = run(vec![problem(422, "unknown_binary", "there is no binary \"resize\"")]).await;
    assert_eq!((ran.code, ran.err.as_str()), (ExitCode::from(127), "error: there is no binary \"resize\"\n"));
    assert_eq!(run(vec![problem(400, "invalid_job", "no")]).await.code, ExitCode::from(126));
    assert_eq!(run(vec![problem(503, "queue_unavailable", "no")]).await.code, ExitCode::from(125));
    assert_eq!(run(vec![problem(401, "unauthorized", "no")]).await.code, ExitCode::from(125));
    assert_eq!(run(vec![]).await.code, ExitCode::from(125));
    assert_eq!(run(vec![submitted(), problem(404, "unknown_job", "no")]).await.code, ExitCode::from(125));
}

#[tokio::test]
async fn other_commands_tell_what_went_wrong_by_their_code() {
    for (answers, code) in [
        (vec![problem(404, "unknown_job", "no")], 3),
        (vec![problem(401, "unauthorized", "no")], 4),
        (vec![problem(409, "wrong_state", "no")], 5),
        (vec![], 6),
        (vec![problem(503, "queue_unavailable", "no")], 1),
        (vec![problem(400, "bad", "no")], 1),
    ] {
        for words in [&["show", "a"][..], &["retry", "a"]] {
            assert_eq!(cli(words, answers.clone()).await.code, ExitCode::from(code), "{words:?}");
        }
    }
}

#[tokio::test]
async fn a_verb_is_tried_on_every_job_and_the_worst_counts() {
    let acted = |id: &str| answer(200, &json!({"id": id, "status": "cancelled"}));
    let ran = cli(
        &["cancel", "a", "b", "c", "--reason", "old"],
        vec![acted("a"), problem(409, "wrong_state", "job b has ended"), acted("c")],
    )
    .await;
    assert_eq!(ran.code, ExitCode::from(5));
    insta::assert_snapshot!(ran.out, @r"
    ID  STATUS
    a   cancelled
    c   cancelled
    ");
    assert_eq!(ran.err, "error: job b has ended\n");
}

#[tokio::test]
async fn conditions_are_followed_batch_by_batch() {
    let batch = |done: &str, next: Option<&str>| {
        let skipped = json!({"b": "job b is active"});
        let more = next.is_some();
        answer(200, &json!({"done": [done], "skipped": skipped, "more": more, "next_cursor": next, "dry_run": true}))
    };
    let words = ["remove", "--state", "failed,active", "--search", "disk", "--all-matching", "--dry-run"];
    let ran = cli(&words, vec![batch("a", Some("1")), batch("c", None)]).await;
    assert_eq!(ran.code, ExitCode::from(5), "one was skipped");
    assert_eq!(ran.err, "so far 1 would be removed, 1 skipped\n");
    insta::assert_snapshot!(ran.out, @r"
    ID  STATUS
    a   would be removed
    c   would be removed
    b   skipped: job b is active
    ");
    for words in [&["remove"][..], &["cancel", "--dry-run"], &["retry", "a", "--state", "failed"]] {
        assert_eq!(cli(words, vec![]).await.code, ExitCode::from(2), "{words:?}");
    }
}

#[tokio::test]
async fn logs_go_to_stdout_whichever_stream_they_are() {
    let log = || vec![events(&[output("stdout", "a\n"), output("stderr", "b\n"), state("completed")])];
    assert_eq!(cli(&["logs", "a"], log()).await.out, "a\nb\n");
    let ran = cli(&["logs", "a", "-o", "json"], log()).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()["items"].as_array().unwrap().len(), 3);
    assert_eq!(cli(&["logs", "-f", "a", "-o", "jsonl"], log()).await.out.lines().count(), 3);
}

#[tokio::test]
async fn all_pages_are_one_list() {
    let page = |id: &str, next: Option<&str>| {
        let job = json!({"id": id, "name": "a", "state": "waiting", "submitted_at": "2026-11-24T08:00:00Z",
            "started_at": null, "finished_at": null, "attempts": 0, "outcome": null, "error": null});
        answer(200, &json!({"items": [job], "next_cursor": next}))
    };
    let ran = cli(&["ls", "--all", "-o", "jsonl"], vec![page("a", Some("c1")), page("b", None)]).await;
    assert_eq!(ran.out.lines().count(), 2);
    assert!(ran.requests[1].contains("cursor=c1"));
    let ran = cli(&["list", "-o", "json"], vec![page("a", Some("c1"))]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()["next_cursor"], "c1");
    assert_eq!(ran.err, "hint: there are more: add --all, or --cursor c1\n");
}

#[tokio::test]
async fn pausing_shows_the_queue_as_it_is_then() {
    let counts = answer(200, &crate::queue::StateCounts { paused: true, ..Default::default() });
    let ran = cli(&["queue", "pause"], vec![answer(200, &json!({})), counts]).await;
    assert!(ran.out.starts_with("queue        paused\n"), "{}", ran.out);
    assert!(ran.requests[0].starts_with("POST /api/v1/queue:pause "));
}

#[tokio::test]
async fn giving_up_on_a_wait_is_no_verdict_on_the_job() {
    let active = JobView { state: JobState::Active, outcome: None, ..failed_job() };
    let answers = (0..50).map(|_| answer(200, &active)).collect();
    let ran = cli(&["wait", "0192-a", "--timeout", "250ms"], answers).await;
    assert_eq!(ran.code, ExitCode::from(125));
    assert!(ran.err.contains("have not all ended within 250 ms"));
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_stdout_is_no_error() {
    let server = FakeServer::start(vec![answer(200, &failed_job())]).await;
    let globals = Globals { server: Some(server.address().to_owned()), ..Globals::default() };
    let err = Written::default();
    let console = Console::new(Box::new(Closed), Box::new(Shared(err.clone())), &globals);
    let Command::Client(command) = parse(["jobber", "show", "a"].map(OsString::from)).unwrap().command else {
        panic!()
    };
    assert_eq!(run(command, &globals, console).await, ExitCode::SUCCESS);
    assert_eq!(text(&err), "");
}

#[tokio::test]
async fn completions_need_no_server() {
    let ran = cli(&["completions", "bash"], vec![]).await;
    assert!(ran.out.contains("_jobber()"), "{}", ran.err);
    assert!(!ran.out.contains("JOBBER_TOKEN="));
}
