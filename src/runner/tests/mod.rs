//! Tests with real processes under a real runner: what a job can do, and what it leaves behind.

mod builds;
mod limits;
mod output;
mod sandbox;
mod stopping;
mod surroundings;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::domain::{
    AttemptNumber, CrashReport, HostRules, HostRulesByName, Job, JobBody, JobId, JobName, JobOptions, Outcome,
    Progress, RawJson, Stream, Timestamp, WorkerId,
};

/// Longer than any test should take, so that a hang shows as a failure.
const FOR_EVER: Duration = Duration::from_secs(60);

/// A runner over directories of its own.
struct Fixture {
    directory: tempfile::TempDir,
    runner: Arc<Runner>,
    slots: Slots,
    worker: WorkerId,
}

/// What a job said while it ran.
#[derive(Default)]
struct Heard {
    output: Mutex<Vec<(Stream, String)>>,
    progress: Mutex<Vec<Progress>>,
    changed: tokio::sync::Notify,
}

impl OutputSink for Heard {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        // A flood is not kept here.
        let mut output = self.output.lock().unwrap();
        if output.len() < 100 {
            output.push((stream, String::from_utf8_lossy(bytes).into_owned()));
        }
        drop(output);
        self.changed.notify_one();
    }

    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
        self.changed.notify_one();
    }
}

impl Heard {
    fn text(&self) -> String {
        self.output.lock().unwrap().iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Returns when the job has said this.
    async fn wait_for(&self, words: &str) {
        let said = async {
            while !self.text().contains(words) {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(FOR_EVER, said).await.expect("the job says what is waited for");
    }
}

fn nothing() -> Arc<Heard> {
    Arc::default()
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RunnerSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let worker = WorkerId::generate("test");
        let mut settings = RunnerSettings {
            jobs_dir: directory.path().join("jobs"),
            scratch_dir: directory.path().join("scratch"),
            worker: worker.clone(),
            pass_environment: vec!["PATH".into()],
            set_environment: vec![],
            output_bytes: 64 * 1024,
            nice: 5,
            pin: true,
            drain: Duration::from_secs(30),
            crash_patience: FOR_EVER,
            host_rules: HostRulesByName::default(),
            hidden: Vec::new(),
        };
        change(&mut settings);
        fs_err::create_dir_all(directory.path().join("jobs")).unwrap();
        let environment = vec![
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("JOBBER_TOKEN".to_owned(), "secret".to_owned()),
            ("OTHER".to_owned(), "other".to_owned()),
        ];
        let runner = Arc::new(Runner::new(settings, environment, Clock::system(), None, RunningGauge::new()).unwrap());
        let slots = Slots::new(CpuSet::detect(None, None).unwrap().into_vec(), 1);
        Self { directory, runner, slots, worker }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a shell script into the jobs directory and makes the order to run it.
    fn script(&self, body: &str) -> RunOrder {
        self.executable("job", format!("#!/bin/sh\n{body}\n").as_bytes());
        order("job")
    }

    fn executable(&self, name: &str, content: &[u8]) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("jobs").join(name);
        fs_err::write(&path, content).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    async fn run(&self, order: RunOrder) -> AttemptReport {
        self.run_with(order, StopHandle::new().unwrap().1, nothing()).await
    }

    async fn run_with(&self, order: RunOrder, stop: StopSignal, sink: Arc<Heard>) -> AttemptReport {
        let slot = self.slots.acquire(order.job.options.cores).await;
        let run = self.runner.run(slot, order, stop, sink);
        let report = tokio::time::timeout(FOR_EVER, run).await.expect("every attempt ends").unwrap();
        self.assert_nothing_left();
        report
    }

    /// No process of this fixture's worker, no scratch file of an attempt.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let mark = [format!("JOBBER_WORKER={}", self.worker).into_bytes()];
        let left: Vec<i32> = procfs::all().into_iter().filter(|id| procfs::environment_holds(*id, &mark)).collect();
        assert!(left.is_empty(), "processes are left: {left:?}");
        // Removed just after the slot is freed, but before the report.
        let scratch = self.path("scratch").join(format!("jobber-{}", self.worker));
        // One that was not touched is kept for the next attempt.
        for kept in fs_err::read_dir(scratch).unwrap() {
            assert_eq!(fs_err::read_dir(kept.unwrap().path()).unwrap().count(), 0, "scratch files are left");
        }
        assert!(self.slots.try_acquire(Some(self.slots.total_cores())).is_some(), "the slot is not free");
    }
}

fn order(name: &str) -> RunOrder {
    order_with(name, &[], None)
}

fn order_with(name: &str, arguments: &[&str], data: Option<Value>) -> RunOrder {
    RunOrder {
        results_before: serde_json::Map::new(),
        start_log: None,
        inputs: None,
        trace: None,
        body: JobBody::new(
            arguments.iter().map(|a| (*a).to_owned()).collect(),
            data.as_ref().map(RawJson::from).as_ref(),
        ),
        job: Arc::new(Job {
            id: JobId::generate(),
            name: JobName::parse(name).unwrap(),
            options: JobOptions::default(),
            submitted_at: Timestamp::from_millis(0),
            trace: None,
        }),
        attempt: AttemptNumber(2),
        timeout: None,
        grace: Duration::from_secs(30),
        memory_bytes: None,
        no_retry_exit_codes: Vec::new(),
        validity: None,
    }
}

/// Whether a process has ended (a zombie counts as such).
fn has_ended(pid: i32) -> bool {
    procfs::stat(pid).is_none_or(|stat| stat.zombie)
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < FOR_EVER, "{what}");
        std::thread::yield_now();
    }
}

fn read(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap()
}
