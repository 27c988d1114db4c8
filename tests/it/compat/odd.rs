//! What a Node producer may write that is odd: read as JavaScript means it, or refused by name.

use serde_json::{Value, json};

use super::{done, node, server};
use crate::harness::{Jobber, eventually};

with_node! { odd_data_and_options_are_read_as_javascript_means_them }

async fn odd_data_and_options_are_read_as_javascript_means_them(bullmq: &str) {
    let redis = server().await;
    let jobber = Jobber::dev().env("JOBBER_QUEUE_URL", &redis.url()).start().await;
    jobber.job("echo", "#!/bin/sh\necho \"$@\"\n");
    jobber.job("stdin", "#!/bin/sh\nexec cat\n");
    jobber.job("fail", "#!/bin/sh\necho went wrong >&2\nexit 3\n");
    jobber.job("lines", "#!/bin/sh\nseq 10\n");
    jobber.job("talks", "#!/bin/sh\necho ::progress 40 rows\nsleep 0.2\n");
    let ended = node(bullmq, "odd.js", &[&redis.port().to_string()]).await.remove(0);
    let of = |name: &str| &ended[name];

    assert_eq!(of("half")["returnvalue"], done(r#""party \ud83c""#), "{ended:#}");
    // As Node hands such a text to a program.
    assert_eq!(of("halfArgument")["returnvalue"], done("party \u{fffd}"), "{ended:#}");
    for (name, attempts, entries) in [("odd", 4, 4), ("text", 3, 2)] {
        assert_eq!((&of(name)["state"], &of(name)["attemptsMade"]), (&json!("failed"), &json!(attempts)), "{ended:#}");
        let trace = of(name)["stacktrace"].as_array().unwrap();
        assert_eq!(trace.len(), entries, "{ended:#}");
        assert!(trace.iter().all(|entry| entry.as_str().unwrap().contains("went wrong")), "{ended:#}");
    }
    for (name, place) in [("mine", "opts/backoff/type: \"mine\""), ("broken", "data: ")] {
        assert_eq!(of(name)["state"], "failed", "{ended:#}");
        assert!(of(name)["failedReason"].as_str().unwrap().contains(place), "{ended:#}");
        let view = jobber.wait_final(of(name)["id"].as_str().unwrap()).await;
        assert_eq!(view["attempts"], json!([]), "it was never run: {view}");
    }
    assert_eq!(of("lines")["state"], "completed");
    assert!(of("lines")["logs"].as_array().unwrap().len() <= 3, "{ended:#}");
    assert_eq!(of("talks")["progress"]["progress"], 40.0, "{ended:#}");

    // Attempts are counted from one, although the options were mended first.
    let view = jobber.wait_final(of("odd")["id"].as_str().unwrap()).await;
    let numbers: Vec<_> = view["attempts"].as_array().unwrap().iter().map(|a| a["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3, 4].map(Value::from), "{view}");

    let reports = eventually("all runs of the fixed id", async || {
        let (_, list) = jobber.get("/api/v1/jobs?limit=200").await;
        let jobs = list["items"].as_array()?.iter().filter(|job| job["id"].as_str().unwrap().starts_with("report"));
        let jobs: Vec<_> = jobs.filter(|job| job["state"] == "completed").cloned().collect();
        (jobs.len() == 3).then_some(jobs)
    })
    .await;
    let mut results = Vec::new();
    for job in reports {
        results.push(jobber.wait_final(job["id"].as_str().unwrap()).await["result"].clone());
    }
    // The list has the last submitted first. The id alone, which the first record has, stands for the last.
    assert_eq!(results[..2], ["three", "two"]);
    assert_eq!(jobber.wait_final("report").await["result"], "three");
}
