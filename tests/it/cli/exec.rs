//! `exec`: a binary under the supervisor, without server and queue.

use crate::harness::{Output, Place, binary, run};

async fn exec(place: &Place, words: &[&str]) -> Output {
    let jobs_dir = place.jobs_dir();
    let data_dir = place.data_dir();
    let fixed = [
        "exec",
        "--jobs-dir",
        jobs_dir.to_str().expect("a UTF-8 path"),
        "--data-dir",
        data_dir.to_str().expect("a UTF-8 path"),
    ];
    run(&[&fixed[..], words].concat(), &[], place.path(), "").await
}

#[tokio::test]
async fn exec_needs_no_server_and_gives_the_code() {
    let place = Place::new();
    place.job("talk", "#!/bin/sh\necho out; echo err >&2; exit \"$1\"\n");
    let out = exec(&place, &["talk", "--", "0"]).await;
    assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, "out\n", "err\n"), "{out:?}");
    assert_eq!(exec(&place, &["talk", "--", "3"]).await.code, 3);
    let out = exec(&place, &["talk", "-v", "--", "0"]).await;
    assert!(out.stderr.contains("peak rss"), "{out:?}");
}

#[tokio::test]
async fn exec_tells_every_end_apart() {
    let place = Place::new();
    place.job("crash", "#!/bin/sh\nkill -SEGV $$\n");
    place.job("hang", "#!/bin/sh\nexec sleep 600\n");
    assert_eq!(exec(&place, &["crash"]).await.code, 139);
    assert_eq!(exec(&place, &["hang", "--timeout", "200ms"]).await.code, 124);
    assert_eq!(exec(&place, &["nothing"]).await.code, 127);
    tokio::fs::create_dir(place.jobs_dir().join("folder")).await.unwrap();
    assert_eq!(exec(&place, &["folder"]).await.code, 126);
    assert_eq!(exec(&place, &["../escape"]).await.code, 2);
}

#[tokio::test]
async fn signals_that_the_caller_ignores_are_as_ever_in_the_job() {
    let place = Place::new();
    place.job("signals", "#!/bin/sh\nexec grep SigIgn /proc/self/status\n");
    // With the ends of children ignored, nobody could ask how a job has ended.
    let script = "trap '' HUP INT QUIT USR1 CHLD; exec \"$0\" exec signals --jobs-dir jobs --data-dir data";
    let out = tokio::process::Command::new("/bin/sh")
        .args(["-c", script, binary()])
        .current_dir(place.path())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let ignored = text.trim().strip_prefix("SigIgn:\t").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    // Those above are the C library's own, and nobody's to change.
    let ignored = ignored.map(|mask| mask & 0x7fff_ffff);
    assert_eq!((out.status.code(), ignored), (Some(0), Some(0)), "{out:?}");
}

#[tokio::test]
async fn exec_gives_data_and_environment() {
    let place = Place::new();
    place.job("look", "#!/bin/sh\ncat; echo; echo \"$COLOUR $JOBBER_ATTEMPT\"\n");
    let out = exec(&place, &["look", "--data", "{\"a\":1}", "--env", "COLOUR=red"]).await;
    let lines: Vec<&str> = out.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!((out.code, lines), (0, vec!["{\"a\":1}", "red 1"]), "{out:?}");
}
