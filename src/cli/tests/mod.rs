//! What the tests of all commands share, and the tests of parsing.

mod commands;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::view::View;
use super::*;
use crate::domain::{AttemptNumber, AttemptReport, JobOptions, JobState, Outcome, Tail, Timestamp, Usage};
use crate::store::AttemptRecord;
use crate::wire::JobView;

/// The bytes written so far; a test can read them while a console writes.
pub(super) type Written = Arc<Mutex<Vec<u8>>>;

struct Shared(Written);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A console whose stdout and stderr can be read.
pub(super) fn captured(globals: &Globals) -> (Console, Written, Written) {
    let (out, err) = (Written::default(), Written::default());
    let console = Console::new(Box::new(Shared(out.clone())), Box::new(Shared(err.clone())), globals);
    (console, out, err)
}

pub(super) fn text(written: &Written) -> String {
    String::from_utf8(written.lock().unwrap().clone()).unwrap()
}

/// A view, rendered in a format.
pub(super) fn rendered<V: View>(view: &V, format: Format) -> String {
    let (mut console, out, _) = captured(&Globals { output: Some(format), utc: true, ..Globals::default() });
    console.show(view).unwrap();
    text(&out)
}

/// A job that crashed, once with its worker and once by itself.
pub(super) fn failed_job() -> JobView {
    let at = |seconds| Timestamp::from_millis(1_795_507_200_000 + seconds * 1000);
    let report = AttemptReport {
        usage: Some(Usage { wall_us: 1_500_000, user_us: 1_200_000, system_us: 100_000, peak_rss_bytes: 5 << 20 }),
        peak_beside: 2,
        stderr: Tail::of(b"reading input\nbad pixel at 7\n", 29),
        ..AttemptReport::bare(Outcome::Signal { signal: 11 }, at(5), at(6), "bad pixel at 7\n")
    };
    let lost = AttemptReport::bare(Outcome::Lost, at(1), at(4), "worker ended");
    let attempt = |number, report| AttemptRecord {
        number: AttemptNumber(number),
        worker: "build-7-1f2e3d4c".parse().unwrap(),
        host: "build".into(),
        started_at: at(i64::from(number)),
        report: Some(report),
        fingerprint: None,
        build: None,
    };
    JobView {
        id: "0192-a".parse().unwrap(),
        name: "resize".parse().unwrap(),
        arguments: vec!["--size".into(), "10 20".into()],
        data: Some(crate::domain::RawJson::from(&json!({"file": "a.png"}))),
        state: JobState::Failed,
        submitted_at: at(0),
        due_at: None,
        finished_at: Some(at(6)),
        outcome: Some(Outcome::Signal { signal: 11 }),
        result: None,
        error: Some("bad pixel at 7\n".into()),
        worker: None,
        progress: None,
        cancel_requested: None,
        retries: 0,
        options: JobOptions {
            timeout: Some(Duration::from_secs(90)),
            memory_bytes: Some(512 << 20),
            ..JobOptions::default()
        },
        waits_for: vec![],
        attempts: vec![attempt(1, lost), attempt(2, report)],
        categories: std::collections::BTreeMap::new(),
        regression: None,
        incomplete: None,
    }
}

#[test]
fn the_tree_of_commands_holds_together() {
    tree().debug_assert();
}

#[test]
fn the_help_names_every_command() {
    let help = tree().render_help().to_string();
    let (commands, options) = help.split_once("Options:").unwrap();
    insta::assert_snapshot!(commands, @r"
    Runs native programs as queued, supervised jobs

    Usage: jobber [OPTIONS] <COMMAND>

    Run jobs:
      dev          Server, workers and embedded storage in one process: all that is needed on one
                   machine
      new          Begin a job in C++, shell or Python: source, build and test
      run          Submit a job, show what it writes, and exit with its code
      submit       Put one or many jobs into the queue
      wait         Wait until jobs have ended and exit with their code
      exec         Run a binary once under the worker's supervision, without server and queue
      schedule     Let jobs come by themselves: at the times of a cron expression, or every so often

    Look:
      list         List jobs, last submitted first
      show         Show a job with all its attempts
      logs         Print what a job writes
      files        List and get the files that a job has left
      top          What goes on: queue, rates, workers, failures, once a second
      ui           Open the server's page in a browser
      group        Look at a group of jobs: how far it is, what its jobs gave back
      worker       Look at the workers, drain one
      binaries     List the binaries that jobs can name, and who can run them

    Act:
      cancel       Stop jobs, running or not
      retry        Put failed jobs back into the queue
      promote      Make delayed jobs ready now
      remove       Take jobs that are not running out of queue and lists
      queue        Look at the queues, pause them, clean them up

    Understand:
      explain      Say why a job stands where it stands
      crash        Show where a job crashed: stack, registers, modules
      replay       Run an attempt of a job once more on this machine, without queue
      failures     What attempts failed with, most frequent first
      similar      Errors that mean the same as a text
      category     Look at the categories of errors, change them, try them out
      stats        Statistics: attempts, concurrency, categories, cost, durations, throughput
      help         Print the help of a command, or a topic: exit-codes, configuration, job-contract

    Operate:
      serve        The HTTP API server and the projector of history
      work         A worker pool
      notify       Who is told of what happens: dead letters, and tests of the targets
      doctor       Check this host and its configuration: what is well, what is not, what to do
      health       Whether the server can work: exit code 0 or 1, for health checks
      export       Write all of history as lines of JSON
      import       Read what `export` wrote into a store without history
      rebuild      Make the statistics anew from the jobs in history
      bench        Measure how many jobs per second this machine carries
      completions  Print a shell's completion script, which asks the server for ids and names
      man          Write manual pages
      openapi      Print the description of the HTTP API: OpenAPI 3.1
    ");
    for told in ["--server <URL>", "--utc", "--color <WHEN>", "-V, --version", "6 no server", "jobber help TOPIC"] {
        assert!(options.contains(told), "{told}: {options}");
    }
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    for words in [
        "jobber",
        "jobber frobnicate",
        "jobber submit",
        "jobber submit ../../bin/sh",
        "jobber submit a --timeout soon",
        "jobber submit a --timeout -1s",
        "jobber submit a --attempts -1",
        "jobber submit a --priority 99999999999999",
        "jobber submit a --memory lots",
        "jobber submit a --no-retry-exit-codes 2,256",
        "jobber submit a --delay 1s --at 2026-11-24T08:00:00Z",
        "jobber submit a --follow --wait",
        "jobber submit a --count 0",
        "jobber submit a --array 3-1",
        "jobber submit a --array 0-9 --count 2",
        "jobber submit a --group a/b",
        "jobber wait a --group b",
        "jobber submit a --id 42",
        "jobber submit a --from-json -",
        "jobber show a/b",
        "jobber wait",
        "jobber list --state sleeping",
        "jobber list --limit 0",
        "jobber list -q -v",
        "jobber queue",
        "jobber queue clean --state active",
        "jobber serve --listen nowhere",
        "jobber work --cores 0",
        "jobber work --cores 2 --cpus 0-1",
    ] {
        let code = parse(words.split(' ').map(OsString::from)).map(|_| ()).unwrap_err();
        assert_eq!(code, ExitCode::from(2), "{words}");
    }
    assert_eq!(parse(["jobber", "--help"].map(OsString::from)).unwrap_err(), ExitCode::SUCCESS);
}

#[test]
fn roles_keep_only_what_was_given() {
    let Command::Dev(args) = parse(["jobber", "dev"].map(OsString::from)).unwrap().command else { panic!() };
    assert!(args.listen.listen.is_none() && args.worker.cores.is_none() && args.ready_fd.is_none());
    let words =
        "jobber work --cores-per-process 2 --timeout 1h --memory 1GiB --env A=b --env HOME --no-pin --data-dir d";
    let cli = parse(words.split(' ').map(OsString::from)).unwrap();
    let Command::Work(args) = cli.command else { panic!() };
    assert_eq!(args.worker.cores_per_process, Some(2));
    assert_eq!(args.worker.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(args.worker.memory, Some(1 << 30));
    assert_eq!(args.worker.environment.len(), 2);
    assert!(args.worker.no_pin);
    assert_eq!(cli.globals.data_dir, Some(PathBuf::from("d")));
}
