//! What a job says and how it ends.

use super::*;
use crate::domain::{SpawnFailure, Usage};
use serde_json::json;

#[tokio::test]
async fn a_job_that_ends_well_gives_its_trimmed_output() {
    let fixture = Fixture::new();
    let report = fixture.run(fixture.script("echo; echo hello; echo there >&2")).await;
    assert_eq!(report.outcome, Outcome::Exit { code: 0 });
    assert_eq!(report.result, Some(json!("hello")));
    assert_eq!((report.stdout.text.as_str(), report.stderr.text.as_str()), ("\nhello\n", "there\n"));
    assert_eq!((report.error, report.stopping_ms, report.peak_beside), (None, None, 0));
    assert!(report.ended_at >= report.started_at);
    let Usage { wall_us, peak_rss_bytes, .. } = report.usage.unwrap();
    assert!(wall_us > 0 && peak_rss_bytes > 0);
}

#[tokio::test]
async fn many_attempts_use_few_threads_and_descriptors() {
    let fixture = Fixture::new();
    for n in 0..50 {
        let report = fixture.run(fixture.script(&format!("echo {n}"))).await;
        assert_eq!(report.result, Some(json!(n.to_string())), "{report:?}");
    }
    assert!(fixture.runner.pool.run(|thread| thread.number).await.unwrap().unwrap() < 3);
}

#[tokio::test]
async fn directives_are_heard_and_not_part_of_the_output() {
    let fixture = Fixture::new();
    let heard = nothing();
    let script =
        "echo a; echo '::progress 25 loading'; echo '::result {\"n\": 1}'; echo b; printf '::result {\"n\": 2}'";
    let report = fixture.run_with(fixture.script(script), StopHandle::new().unwrap().1, heard.clone()).await;
    assert_eq!(report.result, Some(json!({"n": 2})));
    assert_eq!(report.stdout.text, "a\nb\n");
    assert_eq!(heard.text(), "a\nb\n");
    assert_eq!(*heard.progress.lock().unwrap(), [Progress { percent: 25.0, text: "loading".into() }]);
}

#[tokio::test]
async fn output_is_heard_while_the_job_runs() {
    let fixture = Fixture::new();
    let heard = nothing();
    let (handle, stop) = StopHandle::new().unwrap();
    let run = fixture.run_with(fixture.script("echo started; exec sleep 1000"), stop, heard.clone());
    let stopper = async {
        heard.wait_for("started").await;
        handle.stop(StopReason::Cancelled);
    };
    assert_eq!(tokio::join!(run, stopper).0.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_failed_job_says_why() {
    let fixture = Fixture::new();
    let fail = async |body: &str| {
        let report = fixture.run(fixture.script(body)).await;
        assert_eq!(report.result, None);
        (report.outcome, report.error.unwrap())
    };
    let exit = |code| Outcome::Exit { code };
    assert_eq!(fail("echo ' out of luck ' >&2; exit 3").await, (exit(3), "out of luck".into()));
    assert_eq!(fail("exit 4").await, (exit(4), "exited with code 4 and wrote nothing to standard error".into()));
    assert_eq!(
        fail("echo noise >&2; echo ' told in full ' > \"$JOBBER_ERROR_FILE\"; exit 255").await,
        (exit(255), "told in full".into())
    );
    assert_eq!(fail("mkfifo \"$JOBBER_ERROR_FILE\"; echo fifo >&2; exit 1").await.1, "fifo");
    assert_eq!(fail("ln -s /etc/passwd \"$JOBBER_ERROR_FILE\"; echo link >&2; exit 1").await.1, "link");
    assert_eq!(fail("head -c 100000 /dev/zero | tr '\\0' x > \"$JOBBER_ERROR_FILE\"; exit 1").await.1.len(), 65_536);
    let segv = Outcome::Signal { signal: 11 };
    let (outcome, error) = fail("kill -SEGV $$").await;
    assert!(outcome == segv && error.starts_with("segmentation fault in "), "{error}");
    let (outcome, error) = fail("echo oh >&2; kill -SEGV $$").await;
    assert!(outcome == segv && error.ends_with(": oh"), "{error}");
    let silent = Fixture::with(|settings| {
        let rules = HostRules { crash_report: CrashReport::Off, ..HostRules::default() };
        settings.host_rules.defaults = Arc::new(rules);
    });
    let report = silent.run(silent.script("echo oh >&2; kill -SEGV $$")).await;
    assert_eq!((report.error.as_deref(), report.crash), (Some("killed by signal 11 (SIGSEGV): oh"), None));
    assert_eq!(fail("kill -KILL $$").await.0, Outcome::Signal { signal: 9 });
}

#[tokio::test]
async fn what_can_not_be_started_is_told_apart() {
    let fixture = Fixture::new();
    let fail = async |order: RunOrder| {
        let report = fixture.run(order).await;
        assert_eq!(report.usage, None);
        (report.outcome, report.error.unwrap())
    };
    let spawn_error = |reason| Outcome::SpawnError { reason };
    let (outcome, error) = fail(order("missing")).await;
    assert_eq!(outcome, spawn_error(SpawnFailure::NotFound), "{error}");
    fixture.executable("no-shebang", b"echo hi\n");
    let (outcome, error) = fail(order("no-shebang")).await;
    assert_eq!(outcome, spawn_error(SpawnFailure::NotExecutable));
    assert!(error.contains("#!/bin/sh"), "{error}");
    fixture.executable("bad-interpreter", b"#!/no/such/thing\n");
    let (outcome, error) = fail(order("bad-interpreter")).await;
    assert_eq!(outcome, spawn_error(SpawnFailure::NotExecutable));
    assert!(error.contains("interpreter"), "{error}");
    fixture.executable("good", b"#!/bin/sh\n");
    let (outcome, error) = fail(order_with("good", &["a\0b"], None)).await;
    assert_eq!(outcome, spawn_error(SpawnFailure::NotExecutable));
    assert!(error.contains("NUL"), "{error}");
    let long = "x".repeat(200_000);
    assert_eq!(fail(order_with("good", &[&long], None)).await.0, spawn_error(SpawnFailure::NotExecutable));
}

#[tokio::test]
async fn a_binary_that_is_replaced_is_run_anew() {
    let fixture = Fixture::new();
    for n in 0..5 {
        assert_eq!(fixture.run(fixture.script(&format!("echo {n}"))).await.result, Some(json!(n.to_string())));
        fs_err::remove_file(fixture.path("jobs/job")).unwrap();
        assert!(matches!(fixture.run(order("job")).await.outcome, Outcome::SpawnError { .. }));
    }
}

#[tokio::test]
async fn a_flood_costs_its_tail_and_nothing_more() {
    let fixture = Fixture::with(|settings| settings.output_bytes = 10_000);
    let report = fixture.run(fixture.script("yes | head -c 50000000; yes n | head -c 20000001 >&2; exit 1")).await;
    assert_eq!((report.stdout.total_bytes, report.stderr.total_bytes), (50_000_000, 20_000_001));
    assert_eq!((report.stdout.text.len(), report.stderr.text.len()), (10_000, 10_000));
    assert!(report.stdout.truncated && report.stderr.truncated);
    assert!(report.error.unwrap().len() <= 4096);
}

#[tokio::test]
async fn data_arrives_whole_whatever_its_size() {
    let fixture = Fixture::new();
    fixture.script("cat; [ -z \"$1\" ] || echo \" $1,$2\"");
    let report = fixture.run(order_with("job", &["a b", "c'\"*"], Some(json!({"k": "é\n"})))).await;
    assert_eq!(report.result, Some(json!("{\"k\":\"é\\n\"} a b,c'\"*")));
    assert_eq!(fixture.run(order("job")).await.result, Some(json!("")));
    fixture.script("exec wc -c");
    for size in [4000, 4094, 4095, 65_534, 65_535, 5_000_000] {
        let report = fixture.run(order_with("job", &[], Some(json!("x".repeat(size))))).await;
        assert_eq!(report.result, Some(json!((size + 2).to_string())));
    }
}

#[tokio::test]
async fn a_job_need_not_read_its_data() {
    let fixture = Fixture::new();
    let big = || Some(json!("x".repeat(3_000_000)));
    fixture.script("exit 0");
    assert_eq!(fixture.run(order_with("job", &[], big())).await.outcome, Outcome::Exit { code: 0 });
    fixture.script("exec <&-; sleep 0.1; echo closed");
    assert_eq!(fixture.run(order_with("job", &[], big())).await.result, Some(json!("closed")));
    fixture.script("sleep 1000 & wait");
    let order = RunOrder { timeout: Some(Duration::from_millis(100)), ..order_with("job", &[], big()) };
    assert_eq!(fixture.run(order).await.outcome, Outcome::Timeout);
}
