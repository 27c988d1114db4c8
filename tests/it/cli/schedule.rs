//! `jobber schedule`, against a server on the embedded queue.

use super::parse;
use crate::harness::{Jobber, eventually};

#[tokio::test]
async fn a_schedule_is_added_listed_triggered_paused_and_removed() {
    let j = Jobber::dev().start().await;
    j.job("tick", "#!/bin/sh\necho \"tick $1\"\n");
    let add = ["schedule", "add", "tick", "--cron", "0 3 1 1 *", "--tz", "Europe/Berlin", "--attempts", "2", "--", "a"];
    let out = j.cli(&add).await;
    assert!(out.code == 0 && out.stdout.contains("0 3 1 1 * (Europe/Berlin)"), "{out:?}");
    assert!(out.stdout.contains("-01-01T02:00:00Z"), "{out:?}");
    let again = j.cli(&add).await;
    assert_eq!(again.code, 0, "{again:?}");
    let all = parse(&j.cli(&["schedule", "ls", "-o", "json"]).await.stdout)["items"].take();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    assert_eq!((&all[0]["id"], &all[0]["job"]["options"]["attempts"]), (&"tick".into(), &2.into()));
    assert_eq!(all[0]["next"].as_array().unwrap().len(), 5);

    let triggered = parse(&j.cli(&["schedule", "trigger", "tick", "-o", "json"]).await.stdout);
    let job = j.wait_final(triggered["id"].as_str().unwrap()).await;
    assert_eq!((&job["state"], &job["result"]), (&"completed".into(), &"tick a".into()));

    assert_eq!(j.cli(&["schedule", "pause", "tick"]).await.code, 0);
    let shown = j.cli(&["schedule", "show", "tick"]).await;
    assert!(shown.stdout.contains("paused") && !shown.stdout.contains("NEXT"), "{shown:?}");
    assert_eq!(j.cli(&["schedule", "resume", "tick"]).await.code, 0);
    assert_eq!(j.cli(&["schedule", "rm", "tick"]).await.code, 0);
    for gone in ["rm", "show", "trigger", "pause"] {
        assert_eq!(j.cli(&["schedule", gone, "tick"]).await.code, 3, "{gone}");
    }
    for wrong in [
        &["--cron", "61 * * * *"] as &[_],
        &["--cron", "* * * * *", "--tz", "Mars/Olympus"],
        &["--every", "10ms"],
        &["--every", "1h", "--delay", "1s"],
        &["--every", "1h", "--dedup", "k"],
    ] {
        let out = j.cli(&[&["schedule", "add", "tick"], wrong].concat()).await;
        assert!(out.code == 1 && out.stderr.contains("error"), "{wrong:?}: {out:?}");
    }
    assert_eq!(j.cli(&["schedule", "add", "tick"]).await.code, 2, "neither --cron nor --every");
}

#[tokio::test]
async fn a_schedule_outlives_a_kill_and_no_time_comes_twice() {
    let mut serve = Jobber::serve().start().await;
    let place = serve.place().clone();
    // A second start of a time would find the folder there.
    let ran = place.path().join("ran");
    std::fs::create_dir(&ran).unwrap();
    serve.job("once", &format!("#!/bin/sh\nmkdir \"{}/$JOBBER_JOB_ID\"\n", ran.display()));
    let workers = [Jobber::work().at(&place).start().await, Jobber::work().at(&place).start().await];
    let out = serve.cli(&["schedule", "add", "once", "--every", "1s", "--attempts", "1"]).await;
    assert_eq!(out.code, 0, "{out:?}");
    let runs = || std::fs::read_dir(&ran).unwrap().count();
    eventually("two runs", async || (runs() >= 2).then_some(())).await;
    serve.kill().await;
    let mut serve = Jobber::serve().at(&place).start().await;
    let before = runs();
    eventually("two more runs", async || (runs() >= before + 2).then_some(())).await;
    assert_eq!(serve.cli(&["schedule", "rm", "once"]).await.code, 0);
    let quiet = eventually("everything that was brought to have ended", async || {
        let (_, counts) = serve.get("/api/v1/queue").await;
        (counts["waiting"] == 0 && counts["active"] == 0 && counts["delayed"] == 0).then_some(counts)
    });
    let counts = quiet.await;
    assert_eq!(counts["failed"], 0, "a time came twice: {counts}");
    assert_eq!(counts["completed"], runs(), "{counts}");
    for mut worker in workers {
        worker.stop().await;
    }
    serve.stop().await;
}
