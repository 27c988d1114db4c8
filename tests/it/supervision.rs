//! What a job can do to its worker, what a worker does about processes that would outlive a job or itself.

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::harness::{Jobber, Place, Start, as_nobody, eventually};

/// Runs a job to its end; what the API says of it.
async fn run(jobber: &Jobber, body: Value) -> Value {
    let id = jobber.submit(body).await;
    jobber.wait_final(&id).await
}

/// The end of what the last attempt wrote.
fn stdout(view: &Value) -> &str {
    view["attempts"].as_array().unwrap().last().unwrap()["report"]["stdout"]["text"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_memory_are_no_lack_of_it() {
    let jobber = Jobber::dev().start().await;
    jobber.job("cuda", "#!/bin/sh\necho 'CUDA out of memory' >&2\nexit 65\n");
    let body = json!({"name": "cuda", "memory_bytes": 1 << 30, "no_retry_exit_codes": [65], "attempts": 3});
    let view = run(&jobber, body).await;
    let attempts = view["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{view}");
    assert_eq!(attempts[0]["report"]["outcome"], json!({"kind": "exit", "code": 65}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_started_deaf_to_sigterm_hears_it() {
    for start in [Jobber::dev(), Jobber::serve(), Jobber::work()] {
        let mut jobber = start.by(&["env", "--block-signal=TERM", "--block-signal=INT"]).start().await;
        assert_eq!(jobber.stop().await, 0);
    }
}

/// Prints what a job finds of its worker and of the worker's guard.
const SPY: &str = "#!/bin/sh
guard=$(pgrep -f \"guard --parent $PPID\\$\")
echo own: $(tr '\\0' '\\n' < /proc/$$/environ | grep -c ^JOBBER_JOB_ID=)
for pid in $PPID $guard; do
  for file in environ mem maps; do
    if head -c 1 /proc/$pid/$file > /dev/null 2> $file.err || ! grep -q 'ermission denied' $file.err; then
      echo open: $file
    fi
  done
  ls /proc/$pid/fd > /dev/null 2>&1 && echo open: fd
done
tr '\\0' '\\n' < /proc/$PPID/environ
echo spied on $PPID $guard
";

fn with_secrets(start: Start) -> Start {
    let secrets = [("OPENAI_API_KEY", "hush-1"), ("JOBBER_EMBEDDER_API_KEY", "hush-2"), ("BACKUP_PASSWORD", "hush-3")];
    secrets.into_iter().fold(start, |start, (name, value)| start.env(name, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_left_where_even_root_could_read_it_in_passing() {
    let jobber = with_secrets(Jobber::dev()).start().await;
    jobber.job("spy", SPY);
    let view = run(&jobber, json!({"name": "spy"})).await;
    let said = stdout(&view);
    assert!(said.contains("spied on") && !said.contains("hush") && !said.contains("BACKUP_PASSWORD"), "{said}");
    if rustix::process::geteuid().is_root() {
        assert!(said.contains("\nPATH="), "the rest is as it was: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_same_user_sees_nothing_of_its_worker() {
    let place = Place::new();
    let jobber = with_secrets(as_nobody(&place, Jobber::dev())).start().await;
    jobber.job("spy", SPY);
    let view = run(&jobber, json!({"name": "spy"})).await;
    let said = stdout(&view);
    assert!(said.starts_with("own: 1\n"), "a job sees itself: {said}");
    assert!(!said.contains("open:") && !said.contains("hush"), "{said}");
    let pids = said.lines().last().unwrap().trim_start_matches("spied on ").split(' ').count();
    assert_eq!(pids, 2, "the guard was found: {said}");
    assert_eq!(view["state"], "completed", "{view}");
}

/// The guard of a worker, if one runs.
fn guard_of(worker: u32) -> Option<u32> {
    let wanted = format!("guard\0--parent\0{worker}\0");
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // That of a zombie is empty.
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&command).ends_with(&wanted).then_some(pid)
    })
}

fn signal(pid: u32, signal: Signal) {
    let _ = rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

/// Whether a process has ended; one that only waits to be reaped has.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

async fn number_in(file: std::path::PathBuf) -> u32 {
    eventually("a process id", async || std::fs::read_to_string(&file).ok()?.trim().parse().ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_killed_or_stopped_is_replaced() {
    for by in [Signal::KILL, Signal::STOP] {
        let mut jobber = Jobber::dev().start().await;
        let worker = jobber.pid();
        let file = jobber.place().path().join("pid");
        jobber.job("long", &format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", file.display()));
        jobber.submit(json!({"name": "long"})).await;
        let job = number_in(file).await;
        let first = eventually("a guard", async || guard_of(worker)).await;
        signal(first, by);
        eventually("another guard", async || guard_of(worker).filter(|pid| *pid != first)).await;
        assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "it is no zombie");
        assert!(jobber.log().contains("the guard has died"), "{}", jobber.log());
        assert!(!has_ended(job), "what runs is left alone");
        jobber.kill().await;
        eventually("the job to be ended by the new guard", async || has_ended(job).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_outlive_its_worker_and_its_guard() {
    let mut jobber = Jobber::dev().start().await;
    let worker = jobber.pid();
    let file = jobber.place().path().join("pid");
    jobber.job("long", &format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", file.display()));
    jobber.submit(json!({"name": "long"})).await;
    let job = number_in(file).await;
    // Stopped, it can start no other guard.
    signal(worker, Signal::STOP);
    signal(guard_of(worker).expect("it has one"), Signal::KILL);
    eventually("the guard's end", async || guard_of(worker).is_none().then_some(())).await;
    jobber.kill().await;
    eventually("the job's end", async || has_ended(job).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_started_while_there_is_no_guard() {
    let jobber = Jobber::dev().start().await;
    let worker = jobber.pid();
    jobber.job("look", "#!/bin/sh\npgrep -f \"guard --parent $PPID\\$\" > /dev/null && echo guarded || echo alone\n");
    // Each that dies soon is waited for longer.
    for _ in 0..6 {
        let guard = eventually("a guard", async || guard_of(worker)).await;
        signal(guard, Signal::KILL);
        eventually("its end", async || (guard_of(worker) != Some(guard)).then_some(())).await;
    }
    let view = run(&jobber, json!({"name": "look", "attempts": 1})).await;
    assert_eq!(stdout(&view), "guarded\n", "{view}");
}

/// Starts an agent, which forbids others to look at it and leaves its parent, session, directory and environment.
const AGENT: &str = "env -i PATH=\"$PATH\" ssh-agent -a ./s | sed -n 's/.*SSH_AGENT_PID=\\([0-9]*\\);.*/\\1/p'";

fn lacks_ssh_agent() -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join("ssh-agent").exists());
    if !found {
        eprintln!("SKIPPED: no ssh-agent here; install openssh-client");
    }
    !found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_looked_at_ends_with_its_job() {
    if lacks_ssh_agent() {
        return;
    }
    let place = Place::new();
    let jobber = as_nobody(&place, Jobber::dev().env("JOBBER_CORES_PER_PROCESS", "1")).start().await;
    let file = place.path().join("other");
    jobber.job("other", &format!("#!/bin/sh\n{AGENT} > {}\nexec sleep 1000\n", file.display()));
    jobber.job("agent", &format!("#!/bin/sh\n{AGENT}\n"));
    // Another attempt, which has begun before and goes on, has one of its own.
    jobber.submit(json!({"name": "other", "cores": 1})).await;
    let others = number_in(file).await;
    let view = run(&jobber, json!({"name": "agent", "cores": 1})).await;
    let agent: u32 = stdout(&view).trim().parse().unwrap_or_else(|_| panic!("{view}"));
    assert!(has_ended(agent), "it has outlived its job");
    assert!(!has_ended(others), "that of a job that runs is left alone");
    let mut jobber = jobber;
    jobber.kill().await;
    eventually("the guard to end what is left", async || has_ended(others).then_some(())).await;
}
