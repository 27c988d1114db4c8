//! What jobs ask for and what a worker has: labels, resources, memory.

use serde_json::{Value, json};

use crate::harness::redis::Redis;
use crate::harness::{Jobber, Place, Start, eventually};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A job that tells its units and waits until a file is there.
const HOLD: &str =
    "#!/bin/sh\necho \"$JOBBER_GPU/$CUDA_VISIBLE_DEVICES\"\nwhile [ ! -e \"$1\" ]; do sleep 0.02; done\n";

fn gpu(file: &std::path::Path, units: u32) -> Value {
    json!({"name": "hold", "arguments": [file], "resources": {"gpu": units}})
}

#[tokio::test]
async fn units_are_held_by_one_job_at_a_time_and_shown() {
    let place = Place::new();
    std::fs::write(place.path().join("jobber.toml"), "[worker.resources]\ngpu = [\"GPU-a\", \"GPU-b\"]\nlicence = 1\n")
        .unwrap();
    place.job("hold", HOLD);
    place.job("hello", "#!/bin/sh\necho hello\n");
    let j = Jobber::dev().at(&place).arg("--cores=2").arg("--label=zone=eu").start().await;
    let [first, second, third] = ["first", "second", "third"].map(|name| place.path().join(name));
    let a = j.submit(gpu(&first, 1)).await;
    j.wait_state(&a, "active").await;
    let both = j.submit(gpu(&second, 2)).await;
    let c = j.submit(gpu(&third, 1)).await;
    // What needs none goes on beside them.
    let plain = j.submit(json!({"name": "hello", "require": {"zone": "eu"}})).await;
    assert_eq!(j.wait_final(&plain).await["state"], "completed");
    let held = format!("it asks for gpu=2, which {a} hold now");
    eventually("the worker to tell who holds what", async || {
        j.cli(&["explain", &both]).await.stdout.contains(&held).then_some(())
    })
    .await;
    let workers = eventually("the worker to show who holds what", async || {
        let workers = j.get("/api/v1/workers").await.1;
        (workers["items"][0]["jobs"][0]["resources"] == json!({"gpu": ["GPU-a"]})).then_some(workers)
    })
    .await;
    let worker = &workers["items"][0];
    assert_eq!(worker["resources"], json!({"gpu": ["GPU-a", "GPU-b"], "licence": ["0"]}));
    assert_eq!(worker["labels"], json!({"zone": "eu"}));
    let shown = j.cli(&["worker", "show", worker["id"].as_str().unwrap()]).await.stdout;
    assert!(shown.contains("gpu") && shown.contains("zone=eu"), "{shown}");
    std::fs::write(&first, "").unwrap();
    assert_eq!(j.wait_final(&a).await["result"], "GPU-a/GPU-a");
    // The one that was there first gets both, though one would have been enough for the other.
    j.wait_state(&both, "active").await;
    assert_eq!(j.get(&format!("/api/v1/jobs/{c}")).await.1["state"], "waiting");
    std::fs::write(&second, "").unwrap();
    assert_eq!(j.wait_final(&both).await["result"], "GPU-a,GPU-b/GPU-a,GPU-b");
    std::fs::write(&third, "").unwrap();
    assert_eq!(j.wait_final(&c).await["state"], "completed");
}

#[tokio::test]
async fn limits_of_memory_add_up_to_what_the_worker_divides() {
    let j = Jobber::dev().arg("--cores=2").arg("--memory-total=300MiB").start().await;
    j.job("hold", HOLD);
    let file = j.place().path().join("go");
    let job = |mib: u64| json!({"name": "hold", "arguments": [file], "memory_bytes": mib << 20});
    let first = j.submit(job(200)).await;
    j.wait_state(&first, "active").await;
    let (second, small) = (j.submit(job(200)).await, j.submit(job(50)).await);
    assert_eq!(j.get(&format!("/api/v1/jobs/{second}")).await.1["state"], "waiting");
    std::fs::write(&file, "").unwrap();
    for id in [&first, &second, &small] {
        assert_eq!(j.wait_final(id).await["state"], "completed");
    }
    let most: i64 = 1;
    let beside = j.get(&format!("/api/v1/jobs/{second}")).await.1["attempts"][0]["report"]["peak_beside"].clone();
    assert!(beside.as_i64().is_some_and(|beside| beside <= most), "{beside}");
}

#[tokio::test]
async fn a_job_that_no_worker_can_run_waits_and_fails_after_a_time() {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho hello\n");
    let start = Jobber::dev().at(&place).arg("--label=zone=eu").env("JOBBER_UNPLACEABLE_AFTER", "8s");
    let j = start.start().await;
    let id = j.submit(json!({"name": "hello", "require": {"zone": "us"}, "attempts": 3})).await;
    let why = j.cli(&["explain", &id]).await.stdout;
    assert!(why.contains("no worker that serves its queue can run it") && why.contains("zone=us"), "{why}");
    let queue = parse(&j.cli(&["queue", "status", "my-job-queue", "-o", "json"]).await.stdout);
    assert_eq!(queue["backlog"]["unplaceable_jobs"], 1, "{queue}");
    let other = j.submit(json!({"name": "hello"})).await;
    assert_eq!(j.wait_final(&other).await["state"], "completed", "it holds nobody up");
    let failed = j.wait_final(&id).await;
    assert_eq!((&failed["state"], &failed["outcome"]["kind"]), (&json!("failed"), &json!("spawn_error")), "{failed}");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("no worker could run it for 8s") && error.contains("is not labelled zone=us"), "{error}");
    assert_eq!(failed["attempts"].as_array().unwrap().len(), 0, "nothing was started");
}

#[tokio::test]
async fn a_worker_that_comes_takes_what_no_other_could_run() {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho hello\n");
    let serve = Jobber::serve().at(&place).start().await;
    let _poor = Jobber::work().at(&place).start().await;
    let id = serve.submit(json!({"name": "hello", "resources": {"gpu": 1}, "require": {"zone": "eu"}})).await;
    let why = serve.cli(&["explain", &id]).await.stdout;
    assert!(why.contains("is not labelled zone=eu"), "{why}");
    let _rich =
        Jobber::work().at(&place).env("JOBBER_LABELS", "zone=eu").env("JOBBER_RESOURCES", "gpu=1").start().await;
    let done = serve.wait_final(&id).await;
    assert_eq!((&done["state"], done["attempts"].as_array().unwrap().len()), (&json!("completed"), 1));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_told() {
    let j = Jobber::serve().start().await;
    j.job("hello", "#!/bin/sh\n");
    for (body, field) in [
        (json!({"name": "hello", "require": {"a b": "c"}}), "/require"),
        (json!({"name": "hello", "resources": {"gpu": 0}}), "/resources"),
    ] {
        let (status, problem) = j.post("/api/v1/jobs", body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(field)), "{problem}");
    }
    for body in [
        json!({"name": "hello", "resources": {"cores": 1}}),
        json!({"name": "hello", "resources": {"gpu": "one"}}),
        json!({"name": "hello", "require": ["zone"]}),
    ] {
        let (status, problem) = j.post("/api/v1/jobs", body).await;
        assert!((400..500).contains(&status), "{problem}");
    }
    let twice = j.cli(&["submit", "hello", "--resource=gpu=1", "--resource=gpu=2"]).await;
    assert!(twice.code == 2 && twice.stderr.contains("names one again"), "{twice:?}");
    let both = j.cli(&["submit", "hello", "--resource=gpu", "--resource=licence=2", "--print-id"]).await;
    let (_, job) = j.get(&format!("/api/v1/jobs/{}", both.stdout.trim())).await;
    assert_eq!(job["options"]["resources"], json!({"gpu": 1, "licence": 2}));
    for (flag, said) in [("--require=zone", "NAME=VALUE"), ("--resource=gpu=0", "NAME=N")] {
        let refused = j.cli(&["submit", "hello", flag]).await;
        assert!(refused.code == 2 && refused.stderr.contains(said), "{refused:?}");
    }
    for (variable, value) in
        [("JOBBER_LABELS", "zone"), ("JOBBER_RESOURCES", "gpu=x"), ("JOBBER_WORKER_MEMORY", "much")]
    {
        let refused = crate::harness::run(&["work"], &[(variable, value)], j.place().path(), "").await;
        assert!(refused.code != 0 && refused.stderr.contains(variable), "{refused:?}");
    }
}

#[tokio::test]
async fn on_redis_a_job_that_was_handed_on_says_so() {
    let place = Place::new();
    place.job("hello", "#!/bin/sh\necho hello\n");
    let redis = tokio::task::spawn_blocking(Redis::shared).await.unwrap();
    let prefix = format!("p{}", uuid::Uuid::new_v4().simple());
    let on = |start: Start| start.at(&place).env("JOBBER_QUEUE_URL", &redis.url()).env("JOBBER_QUEUE_PREFIX", &prefix);
    let serve = on(Jobber::serve()).start().await;
    let worker = on(Jobber::work()).arg("--label=zone=eu").start().await;
    let id = serve.submit(json!({"name": "hello", "require": {"zone": "us"}})).await;
    eventually("the job to be handed on", async || {
        let why = serve.cli(&["explain", &id]).await.stdout;
        (why.contains("a queue of its own") && why.contains("is not labelled zone=us")).then_some(())
    })
    .await;
    assert!(worker.log().contains("a queue of their own"), "{}", worker.log());
    let other = serve.submit(json!({"name": "hello"})).await;
    assert_eq!(serve.wait_final(&other).await["state"], "completed");
    let _able = on(Jobber::work()).arg("--label=zone=us").start().await;
    let done = serve.wait_final(&id).await;
    assert_eq!((&done["state"], done["attempts"].as_array().unwrap().len()), (&json!("completed"), 1));
}
