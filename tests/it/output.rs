//! What a job writes is what `jobber run` prints: all of it, byte for byte, on both queues; and what is not is said.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::harness::redis::Redis;
use crate::harness::{Jobber, PATIENCE, Start, binary};

/// What a client command printed, byte for byte, and what it said.
async fn cli(j: &Jobber, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(binary());
    command.args(args).env("JOBBER_SERVER", j.base()).current_dir(j.place().path()).kill_on_drop(true);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await.expect("it ends").unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Bytes of all values, without an order that anything could guess.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn lines(length: usize) -> Vec<u8> {
    let lines: String = (0..length / 8).map(|n| format!("{n:06} é\n")).collect();
    lines.into_bytes()
}

/// Two answers are compared without printing megabytes.
fn assert_same(got: &[u8], wanted: &[u8], what: &str) {
    let first = got.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(got.len().min(wanted.len()));
    assert!(got == wanted, "{what}: {} bytes of {}, other from byte {first} on", got.len(), wanted.len());
}

/// Bytes that Redis has sent while one job said five megabytes to so many followers.
async fn sent_to_followers(followers: usize) -> u64 {
    let redis = Redis::start();
    let sent = || {
        let stats = redis.cli(&["info", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let piece = j.place().path().join("piece");
    std::fs::write(&piece, noise(100_000)).unwrap();
    let go = j.place().path().join("go");
    let script = "#!/bin/sh\nuntil [ -e $1 ]; do sleep 0.05; done\nfor n in $(seq 50); do cat $2; done\n";
    j.job("talks", script);
    let id = j.submit(json!({"name": "talks", "arguments": [go, piece]})).await;
    j.wait_state(&id, "active").await;
    let before = sent();
    let begin = async {
        // Most are there by then; who is late reads what was said. It is said at once: how often they look meanwhile
        // is no matter of this test.
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::write(&go, "").unwrap();
    };
    let follow = ["logs", "-f", &id];
    let all = futures_util::future::join_all((0..followers).map(|_| cli(&j, &follow)));
    let (all, ()) = tokio::join!(all, begin);
    for (code, out, err) in all {
        assert_eq!((code, out.len()), (Some(0), 5_000_000), "{err}");
    }
    sent() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_followers_cost_redis_little_more_than_one() {
    let (one, ten) = (sent_to_followers(1).await, sent_to_followers(10).await);
    assert!(one > 5_000_000 && ten < 2 * one, "one follower costs {one} bytes, ten cost {ten}");
}

/// A stream of a job's first attempt as a file: whether it is whole, with the file's name, and its bytes.
async fn download(j: &Jobber, id: &str, stream: &str) -> (String, Vec<u8>) {
    let response = j.http().get(j.url(&format!("/api/v1/jobs/{id}/attempts/1/{stream}"))).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/plain; charset=utf-8");
    let file = format!("{} {}", header("x-jobber-output"), header("content-disposition"));
    (file, response.bytes().await.unwrap().to_vec())
}

async fn all_of_it_comes_through(start: Start) {
    let j = start.start().await;
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(j.place().path().join(name), bytes).unwrap();
        j.job(name, &format!("#!/bin/sh\ncat {}\n", j.place().path().join(name).display()));
    };
    let wanted = [
        ("burst", lines(300_000)),
        ("pixels", noise(2048)),
        ("twenty", noise(20 << 20)),
        ("half", b"caf\xc3".to_vec()),
    ];
    for (name, bytes) in &wanted {
        file(name, bytes);
    }
    for (name, bytes) in &wanted {
        let (code, stdout, stderr) = cli(&j, &["-q", "run", name]).await;
        assert_same(&stdout, bytes, name);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{name}");
    }
    // Who comes when it is over gets all of it, too, as long as the queue has it; and JSON has the bytes.
    let id = j.submit(json!({"name": "burst"})).await;
    j.wait_final(&id).await;
    let (_, stdout, stderr) = cli(&j, &["logs", &id]).await;
    assert_same(&stdout, &wanted[0].1, "logs");
    assert_eq!(stderr, "");
    let (file, bytes) = download(&j, &id, "stdout").await;
    assert_same(&bytes, &wanted[0].1, "the file");
    assert_eq!(file, format!("whole attachment; filename=\"{id}-1-stdout.log\""));
    let (code, stdout, stderr) = cli(&j, &["logs", &id, "--stream", "stdout", "--save", "saved", "-o", "jsonl"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let saved: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((&saved["output"], &saved["attempt"]), (&json!("whole"), &json!(1)), "{saved}");
    assert_same(&std::fs::read(j.place().path().join("saved")).unwrap(), &wanted[0].1, "the saved file");
    let (status, problem) = j.get(&format!("/api/v1/jobs/{id}/attempts/2/stdout")).await;
    assert_eq!((status, &problem["code"]), (404, &json!("unknown_attempt")), "{problem}");
    let id = j.submit(json!({"name": "half"})).await;
    let view = j.wait_final(&id).await;
    let tail = &view["attempts"][0]["report"]["stdout"];
    assert_eq!((&tail["text"], &tail["base64"]), (&json!("caf\u{fffd}"), &json!("Y2Fmww==")), "{view}");
    assert_eq!(view["result"], "caf\u{fffd}");
    assert_eq!(download(&j, &id, "stdout").await.1, b"caf\xc3");
}

#[tokio::test]
async fn run_prints_every_byte_that_the_job_wrote() {
    all_of_it_comes_through(Jobber::dev()).await;
}

#[tokio::test]
async fn run_prints_every_byte_that_the_job_wrote_on_redis() {
    let redis = Redis::start();
    all_of_it_comes_through(Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url())).await;
}

async fn what_is_missing_is_said(start: Start) {
    let j = start.env("JOBBER_SPOOL_BYTES", "64KiB").env("JOBBER_OUTPUT_BYTES", "1KiB").start().await;
    let bytes = lines(3 << 20);
    std::fs::write(j.place().path().join("flood.txt"), &bytes).unwrap();
    j.job("flood", &format!("#!/bin/sh\ncat {}\necho done >&2\n", j.place().path().join("flood.txt").display()));
    let id = j.submit(json!({"name": "flood"})).await;
    j.wait_final(&id).await;
    let (file, tail) = download(&j, &id, "stdout").await;
    assert_same(&tail, &bytes[bytes.len() - 1024..], "the tail");
    assert_eq!(file, format!("tail attachment; filename=\"{id}-1-stdout-tail.log\""));
    let (file, stderr) = download(&j, &id, "stderr").await;
    assert_eq!((&file[..5], &stderr[..]), ("whole", &b"done\n"[..]));
    let (code, stdout, stderr) = cli(&j, &["-q", "logs", "--stream", "stdout", &id]).await;
    assert_eq!(code, Some(0));
    let missing: Vec<usize> = stderr
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("warning: ").unwrap_or_else(|| panic!("{stderr}"));
            let (bytes, rest) = rest.split_once(' ').unwrap();
            assert_eq!(rest, "bytes of the stdout of attempt 1 are missing here");
            bytes.parse().unwrap()
        })
        .collect();
    assert!(!missing.is_empty());
    assert_eq!(missing.iter().sum::<usize>() + stdout.len(), bytes.len());
    assert!(bytes.ends_with(&stdout[stdout.len() - 1024..]));
    let (_, events, _) = cli(&j, &["logs", "-o", "jsonl", &id]).await;
    let events = String::from_utf8(events).unwrap();
    assert!(events.contains(r#"{"type":"gap","attempt":1,"stream":"stdout","bytes":"#), "{events}");
    assert!(events.contains(r#""stream":"stderr","text":"done\n"}"#), "the other stream has no gap: {events}");
}

#[tokio::test]
async fn output_that_is_missing_is_marked_and_counted() {
    what_is_missing_is_said(Jobber::dev()).await;
}

#[tokio::test]
async fn output_that_is_missing_is_marked_and_counted_on_redis() {
    let redis = Redis::start();
    what_is_missing_is_said(Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url())).await;
}

#[tokio::test]
async fn a_job_does_not_stand_still_because_redis_is_away() {
    let redis = Redis::start();
    let j = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    let dir = j.place().path().display().to_string();
    std::fs::write(j.place().path().join("much"), noise(32 << 20)).unwrap();
    j.job("much", &format!("#!/bin/sh\ntouch {dir}/up\nwhile [ ! -e {dir}/go ]; do sleep 0.05; done\ncat {dir}/much\ntouch {dir}/through\nsleep 100\n"));
    j.submit(json!({"name": "much", "attempts": 1})).await;
    let there = |name: &str| j.place().path().join(name).exists();
    crate::harness::eventually("its start", async || there("up").then_some(())).await;
    redis.signal("STOP");
    std::fs::write(j.place().path().join("go"), "").unwrap();
    let through = async {
        while !there("through") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let through = tokio::time::timeout(Duration::from_secs(25), through).await;
    redis.signal("CONT");
    through.expect("the job wrote on while nobody took what it wrote");
}
