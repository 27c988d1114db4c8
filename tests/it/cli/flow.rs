//! Jobs that come after others: `submit --after` and `POST /api/v1/flows`, on the embedded queue.

use serde_json::{Value, json};

use crate::harness::{Jobber, eventually};

async fn submitted(j: &Jobber, args: &[&str]) -> String {
    let out = j.cli(&[&["submit", "--print-id"], args].concat()).await;
    assert_eq!(out.code, 0, "{out:?}");
    out.stdout.trim().to_owned()
}

#[tokio::test]
async fn a_job_waits_for_others_says_so_and_gets_their_results() {
    let j = Jobber::dev().start().await;
    let gate = j.place().path().join("gate");
    j.job("gated", &format!("#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.05; done\necho \"$1\"\n", gate.display()));
    j.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let (a, b) = (submitted(&j, &["gated", "--", "one"]).await, submitted(&j, &["gated", "--", "two"]).await);
    let c = submitted(&j, &["gather", "--after", &format!("{a},{b}")]).await;
    let shown = j.cli(&["show", &c]).await;
    assert!(shown.stdout.contains("waits for") && shown.stdout.contains(&a), "{shown:?}");
    let out = j.cli(&["explain", &c]).await;
    assert!(out.stdout.contains(&format!("until job {a} has completed")), "{out:?}");
    let listed = eventually("it in the list", async || {
        let out = j.cli(&["list", "--state", "delayed"]).await;
        out.stdout.lines().find(|line| line.starts_with(&c)).map(str::to_owned)
    });
    listed.await;
    let (_, counts) = j.get("/api/v1/queue").await;
    assert_eq!(counts["delayed"], 1, "{counts}");
    std::fs::write(&gate, "").unwrap();
    let done = j.wait_final(&c).await;
    assert_eq!(done["state"], "completed", "{done:#}");
    let results: Value = serde_json::from_str(done["result"].as_str().unwrap()).unwrap();
    assert_eq!(results, json!({a: "one", b: "two"}));
    let out = j.cli(&["submit", "gather", "--after", "never-there"]).await;
    assert!(out.code == 1 && out.stderr.contains("never-there"), "{out:?}");
}

#[tokio::test]
async fn a_flow_runs_from_its_leaves_and_fails_with_them() {
    let j = Jobber::dev().start().await;
    j.job("leaf", "#!/bin/sh\n[ \"$1\" != bad ] || exit 3\necho \"$1\"\n");
    j.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let leaf = |word: &str| json!({"job": {"name": "leaf", "arguments": [word], "attempts": 1}});
    let flow = json!({
        "job": {"name": "gather"},
        "children": [{"job": {"name": "gather"}, "children": [leaf("x"), leaf("y")]}, leaf("z")],
    });
    let (status, made) = j.post("/api/v1/flows", flow).await;
    assert_eq!((status, made["children"].as_array().unwrap().len()), (202, 2), "{made}");
    let root = j.wait_final(made["id"].as_str().unwrap()).await;
    assert_eq!(root["state"], "completed", "{root:#}");
    let results: Value = serde_json::from_str(root["result"].as_str().unwrap()).unwrap();
    assert_eq!(results[made["children"][1]["id"].as_str().unwrap()], "z", "{results}");
    assert_eq!(results.as_object().unwrap().len(), 2);

    let (_, bad) =
        j.post("/api/v1/flows", json!({"job": {"name": "gather"}, "children": [leaf("bad"), leaf("z")]})).await;
    let root = j.wait_final(bad["id"].as_str().unwrap()).await;
    assert_eq!((&root["state"], &root["outcome"]["kind"]), (&json!("failed"), &json!("cancelled")), "{root:#}");
    let child = bad["children"][0]["id"].as_str().unwrap();
    assert!(root["error"].as_str().unwrap().contains(child) && root["attempts"] == json!([]), "{root:#}");

    let refused = async |flow: Value| {
        let (status, problem) = j.post("/api/v1/flows", flow).await;
        (status, problem["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    };
    let mut keyed = leaf("x");
    keyed["job"]["deduplication"] = json!({"key": "k"});
    assert_eq!(refused(keyed).await, (422, "/job/deduplication".to_owned()));
    let unknown = json!({"job": {"name": "gather"}, "children": [{"job": {"name": "no-such"}}]});
    assert_eq!(refused(unknown).await, (422, "/children/0/job/name".to_owned()));
    let mut twice = leaf("x");
    twice["job"]["id"] = json!("same");
    let twice = json!({"job": {"name": "gather"}, "children": [twice.clone(), twice]});
    assert_eq!(refused(twice).await, (422, "/children/1/job/id".to_owned()));
}

#[tokio::test]
async fn a_flow_outlives_the_kill_of_everybody() {
    let mut serve = Jobber::serve().start().await;
    let place = serve.place().clone();
    serve.job("slow", "#!/bin/sh\nsleep 0.2\necho \"$1\"\n");
    serve.job("gather", "#!/bin/sh\nexec cat \"$JOBBER_RESULTS_FILE\"\n");
    let mut work = Jobber::work().at(&place).start().await;
    let leaf = |i: u32| json!({"job": {"name": "slow", "arguments": [i.to_string()]}});
    let children: Vec<_> = (0..8).map(leaf).collect();
    let (_, made) = serve.post("/api/v1/flows", json!({"job": {"name": "gather"}, "children": children})).await;
    let first = made["children"][0]["id"].as_str().unwrap().to_owned();
    serve.wait_final(&first).await;
    work.kill().await;
    serve.kill().await;
    let mut serve = Jobber::serve().at(&place).start().await;
    let mut work = Jobber::work().at(&place).start().await;
    let root = serve.wait_final(made["id"].as_str().unwrap()).await;
    assert_eq!(root["state"], "completed", "{root:#}");
    let results: Value = serde_json::from_str(root["result"].as_str().unwrap()).unwrap();
    assert_eq!(results.as_object().unwrap().len(), 8, "{results}");
    assert_eq!(root["attempts"].as_array().unwrap().len(), 1);
    work.stop().await;
    serve.stop().await;
}
