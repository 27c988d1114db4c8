//! Stopping a job, and what it leaves behind.

use super::*;

#[tokio::test]
async fn a_job_that_runs_too_long_is_asked_to_end() {
    let fixture = Fixture::new();
    let order = fixture.script("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
    let report = fixture.run(RunOrder { timeout: Some(Duration::from_millis(300)), ..order }).await;
    assert_eq!(report.outcome, Outcome::Timeout, "even though it then ended well by itself");
    assert_eq!(report.stdout.text, "up\nbye\n");
    assert!(report.error.unwrap().starts_with("timed out after 300ms"));
    assert!(report.stopping_ms.is_some());
}

#[tokio::test]
async fn a_job_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let fixture = Fixture::new();
    let order = fixture.script("trap '' TERM; sleep 1000; sleep 1000");
    let limits = RunOrder { timeout: Some(Duration::from_millis(200)), grace: Duration::from_millis(200), ..order };
    let report = fixture.run(limits).await;
    assert_eq!(report.outcome, Outcome::Timeout);
    assert!(report.stopping_ms.unwrap() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_stop_gives_its_reason_as_the_outcome() {
    let fixture = Fixture::new();
    for (reason, outcome) in [(StopReason::Cancelled, Outcome::Cancelled), (StopReason::Lost, Outcome::Lost)] {
        let heard = nothing();
        let (handle, stop) = StopHandle::new().unwrap();
        let order = fixture.script("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
        let stopper = async {
            heard.wait_for("up").await;
            handle.stop(reason);
            handle.stop(StopReason::Cancelled);
        };
        let (report, ()) = tokio::join!(fixture.run_with(order, stop, heard.clone()), stopper);
        assert_eq!(report.outcome, outcome);
        assert!(report.error.is_some() && report.result.is_none());
    }
}

#[tokio::test]
async fn a_job_that_is_stopped_before_its_start_is_never_started() {
    let fixture = Fixture::new();
    let (handle, stop) = StopHandle::new().unwrap();
    handle.stop(StopReason::Cancelled);
    let order = fixture.script(&format!("touch {}", fixture.path("ran").display()));
    let report = fixture.run_with(order, stop, nothing()).await;
    assert_eq!((report.outcome, report.usage), (Outcome::Cancelled, None));
    assert!(!fixture.path("ran").exists());
}

#[tokio::test]
async fn a_stopped_process_can_be_stopped_for_good() {
    let fixture = Fixture::new();
    let order = fixture.script("kill -STOP $$; exit 0");
    let report = fixture.run(RunOrder { timeout: Some(Duration::from_millis(200)), ..order }).await;
    assert_eq!(report.outcome, Outcome::Timeout);
}

#[tokio::test]
async fn a_caller_who_goes_away_stops_the_attempt() {
    let fixture = Fixture::new();
    let heard = nothing();
    let pid_file = fixture.path("pid");
    let order = fixture.script(&format!("echo $$ > {}; echo up; exec sleep 1000", pid_file.display()));
    let run = fixture.run_with(order, StopHandle::new().unwrap().1, heard.clone());
    tokio::select! {
        _ = run => panic!("it sleeps for long"),
        () = heard.wait_for("up") => {}
    }
    let pid: i32 = read(&pid_file).trim().parse().unwrap();
    eventually("the process ends", || has_ended(pid));
    // The slot comes back last.
    drop(tokio::time::timeout(FOR_EVER, fixture.slots.acquire(Some(fixture.slots.total_cores()))).await.unwrap());
}

#[tokio::test]
async fn what_is_left_of_the_group_is_killed_when_the_leader_ends() {
    let fixture = Fixture::new();
    // The children hold the pipes: waiting for those would take for ever.
    let report = fixture.run(fixture.script("sleep 1000 & sleep 1000 & (sleep 1000 & sleep 1000) & echo done")).await;
    assert_eq!((report.outcome, report.stdout.text.as_str()), (Outcome::Exit { code: 0 }, "done\n"));
}

#[tokio::test]
async fn what_left_the_group_is_found_and_killed() {
    let fixture = Fixture::new();
    let escapes = "setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & sleep 1000 & wait' & sleep 0.1; echo done";
    let report = fixture.run(fixture.script(escapes)).await;
    assert_eq!((report.outcome, report.stdout.text.as_str()), (Outcome::Exit { code: 0 }, "done\n"));
}

/// A shell's wait until this file has been written.
fn written(file: &Path) -> String {
    format!("until [ -s {} ]; do sleep 0.01; done", file.display())
}

#[tokio::test]
async fn what_hides_its_environment_is_found_by_where_it_works() {
    let fixture = Fixture::new();
    let pid_file = fixture.path("pid");
    let script = format!(
        "env -i setsid sh -c 'echo $$ > {0}; exec sleep 1000' & {1}; echo done",
        pid_file.display(),
        written(&pid_file)
    );
    let report = fixture.run(fixture.script(&script)).await;
    assert_eq!(report.stdout.text, "done\n");
    let pid: i32 = read(&pid_file).trim().parse().unwrap();
    assert!(has_ended(pid));
}

#[tokio::test]
async fn a_pipe_that_is_held_open_is_drained_for_a_bounded_time() {
    let fixture = Fixture::with(|settings| settings.drain = Duration::from_millis(100));
    let (heard, go, pid_file) = (nothing(), fixture.path("go"), fixture.path("pid"));
    let order = fixture.script(&format!(
        "echo $$ > {}; echo up; until [ -e {} ]; do sleep 0.01; done; echo done",
        pid_file.display(),
        go.display()
    ));
    // A process that is none of the job's holds the pipe: nothing but the bounded drain ends the wait.
    let hold = async {
        heard.wait_for("up").await;
        let stdout = format!("/proc/{}/fd/1", read(&pid_file).trim());
        let held = fs_err::OpenOptions::new().write(true).open(stdout).unwrap();
        fs_err::write(&go, "").unwrap();
        held
    };
    let (report, _held) = tokio::join!(fixture.run_with(order, StopHandle::new().unwrap().1, heard.clone()), hold);
    assert_eq!((report.outcome, report.stdout.text.as_str()), (Outcome::Exit { code: 0 }, "up\ndone\n"));
}

#[tokio::test]
async fn what_hides_in_every_way_is_found_all_the_same() {
    let fixture = Fixture::new();
    let pid_file = fixture.path("pid");
    let hidden = format!(
        "cd /; env -i setsid sh -c 'echo $$ > {}; exec sleep 1000' > /dev/null 2>&1 & {}; echo done",
        pid_file.display(),
        written(&pid_file)
    );
    let report = fixture.run(fixture.script(&hidden)).await;
    assert_eq!(report.stdout.text, "done\n");
    assert!(has_ended(read(&pid_file).trim().parse().unwrap()));
}

#[tokio::test]
async fn orphans_that_have_ended_are_reaped_while_the_job_runs() {
    let fixture = Fixture::new();
    let heard = nothing();
    let (go, pid_file) = (fixture.path("go"), fixture.path("pid"));
    // More than one page of the kernel's list of children, and one that lives behind them.
    let order = fixture.script(&format!(
        "i=0; while [ $i -lt 1500 ]; do (true &); i=$((i + 1)); done
         setsid sh -c 'echo $$ > {}; exec sleep 1000' & echo up; until [ -e {} ]; do sleep 0.05; done",
        pid_file.display(),
        go.display()
    ));
    let look = async {
        heard.wait_for("up").await;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let dead = || {
            let children = procfs::children_of_thread(&format!("/proc/self/task/{own}/children")).unwrap_or_default();
            children.into_iter().filter(|id| procfs::stat(*id).is_some_and(|stat| stat.zombie)).count()
        };
        eventually("the dead are reaped", || dead() < 50);
        eventually("the living has told its id", || pid_file.exists() && read(&pid_file).ends_with('\n'));
        fs_err::write(&go, "").unwrap();
    };
    let (report, ()) = tokio::join!(fixture.run_with(order, StopHandle::new().unwrap().1, heard.clone()), look);
    assert!(report.outcome.is_success());
    assert!(has_ended(read(&pid_file).trim().parse().unwrap()));
}

#[tokio::test]
async fn one_attempt_does_not_end_the_children_of_another() {
    let fixture = Fixture::with(|settings| settings.pin = false);
    let slots = Slots::new(vec![0, 1], 1);
    let heard = nothing();
    fixture.executable("long", b"#!/bin/sh\nsetsid sh -c 'exec sleep 0.6' & pid=$!\necho up; wait $pid; echo $?\n");
    fixture.executable("short", b"#!/bin/sh\nsetsid sleep 1000 & exit 0\n");
    let long =
        fixture.runner.run(slots.acquire(None).await, order("long"), StopHandle::new().unwrap().1, heard.clone());
    let short = async {
        heard.wait_for("up").await;
        let slot = slots.acquire(None).await;
        fixture.runner.run(slot, order("short"), StopHandle::new().unwrap().1, nothing()).await
    };
    let (long, short) = tokio::join!(long, short);
    assert_eq!(long.unwrap().stdout.text, "up\n0\n");
    assert!(short.unwrap().outcome.is_success());
    fixture.assert_nothing_left();
}
