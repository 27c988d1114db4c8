//! Turns the command line into settings of the configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use super::exec::HereFlags;
use super::{Command, EnvironmentSetting, Globals, ListenArgs, WorkerArgs};

type Settings = Vec<(&'static str, Vec<String>)>;

/// The given settings, by key. The other layers decide on the rest. `--env KEY` takes its value
/// from `own`, the environment of this process.
pub fn settings(globals: &Globals, command: &Command, own: &BTreeMap<String, String>) -> Settings {
    let mut given = Settings::new();
    set(&mut given, "data_dir", globals.data_dir.as_deref().map(show));
    match command {
        Command::Dev(args) => {
            listen(&mut given, &args.listen, globals);
            worker(&mut given, &args.worker, own);
        }
        Command::Serve(args) => {
            listen(&mut given, &args.listen, globals);
            set(&mut given, "worker.jobs_dir", args.jobs_dir.as_deref().map(show));
        }
        Command::Work(args) => {
            worker(&mut given, &args.worker, own);
            set(&mut given, "worker.max_jobs", args.max_jobs.map(|n| n.to_string()));
            set(&mut given, "worker.max_time", args.max_time.map(millis));
        }
        Command::Exec(args) => here(&mut given, &args.here, own),
        Command::Replay(args) => here(&mut given, &args.here, own),
        Command::New(args) => set(&mut given, "worker.jobs_dir", args.jobs_dir.as_deref().map(show)),
        Command::Doctor(args) => worker(&mut given, &args.worker, own),
        Command::Rebuild(_) | Command::Export(_) | Command::Import(_) => {}
        Command::Bench(_) | Command::Openapi | Command::Client(_) => {}
    }
    given
}

/// The filter for log lines: by `-v` and `-q` if given, else as configured.
pub fn log_filter(globals: &Globals, configured: &str) -> String {
    match (globals.quiet, globals.verbose) {
        (true, _) => "error".to_owned(),
        (false, 0) => configured.to_owned(),
        (false, 1) => "debug".to_owned(),
        (false, _) => "trace".to_owned(),
    }
}

/// Prints on standard error why the process can't go on, with all causes.
pub fn complain(error: &anyhow::Error) {
    // When standard error is gone, there is no place to print to.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

fn listen(given: &mut Settings, args: &ListenArgs, globals: &Globals) {
    set(given, "serve.listen", args.listen.map(|a| a.to_string()));
    set(given, "serve.insecure", args.insecure.then(|| "true".to_owned()));
    set(given, "serve.token", globals.token.as_ref().map(|t| t.reveal().to_owned()));
    set(given, "serve.token_file", globals.token_file.as_deref().map(show));
}

fn here(given: &mut Settings, args: &HereFlags, own: &BTreeMap<String, String>) {
    set(given, "worker.jobs_dir", args.jobs_dir.as_deref().map(show));
    environment(given, &args.environment, own);
    set(given, "worker.pin", args.no_pin.then(|| "false".to_owned()));
}

fn worker(given: &mut Settings, args: &WorkerArgs, own: &BTreeMap<String, String>) {
    if !args.queues.is_empty() {
        given.push(("worker.queues", args.queues.iter().map(ToString::to_string).collect()));
    }
    set(given, "worker.queue_order", args.queue_order.clone());
    set(given, "worker.jobs_dir", args.jobs_dir.as_deref().map(show));
    set(given, "worker.cores", args.cores.map(|n| n.to_string()));
    set(given, "worker.cpus", args.cpus.clone());
    set(given, "worker.cores_per_process", args.cores_per_process.map(|n| n.to_string()));
    set(given, "worker.memory", args.memory_total.map(|n| n.to_string()));
    for (key, pairs) in [("worker.labels", &args.labels), ("worker.resources", &args.resources)] {
        if !pairs.is_empty() {
            given.push((key, pairs.clone()));
        }
    }
    set(given, "worker.drain_timeout", args.drain_timeout.map(millis));
    set(given, "worker.pin", args.no_pin.then(|| "false".to_owned()));
    set(given, "defaults.timeout", args.timeout.map(millis));
    set(given, "defaults.grace", args.grace.map(millis));
    set(given, "defaults.memory", args.memory.map(|n| n.to_string()));
    environment(given, &args.environment, own);
}

fn environment(given: &mut Settings, variables: &[EnvironmentSetting], own: &BTreeMap<String, String>) {
    let value = |v: &EnvironmentSetting| v.value.clone().or_else(|| own.get(&v.key).cloned());
    let set: Vec<_> = variables.iter().filter_map(|v| Some(format!("{}={}", v.key, value(v)?))).collect();
    if !set.is_empty() {
        given.push(("worker.set_environment", set));
    }
}

fn set(given: &mut Settings, key: &'static str, value: Option<String>) {
    if let Some(value) = value {
        given.push((key, vec![value]));
    }
}

fn millis(duration: std::time::Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
