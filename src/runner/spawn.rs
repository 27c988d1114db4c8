//! The only place that spawns: makes a process with its pipes.
//!
//! What a child does by itself before it executes its program is in [`super::launch`]. What it inherits (its CPUs,
//! `no_new_privs`) is set on the thread that spawns it: see [`SpawnThread`].

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::CpuSet;

use super::alarm::Alarm;
use super::binary::BinaryError;
use super::environment::Variable;
use super::launch::{Launch, Launched, Refusal, Strings, launch};
use super::sandbox::Confinement;
use super::stack::Stack;
use super::tracer::{self, Scope, Tracer};
use crate::domain::{JobBody, SandboxLevel, SpawnFailure, Validity};

/// The program to spawn, with its surroundings and its limits.
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(String, String)],
    pub(super) own_environment: &'a [Variable],
    pub(super) directory: &'a Path,
    /// `None` leaves the thread's CPUs as they are.
    pub(super) cpus: Option<&'a [u32]>,
    /// What the job is given: its data goes to the standard input.
    pub(super) body: &'a JobBody,
    /// Added to the nice value.
    pub(super) nice: u8,
    /// Resource limits: the resource (`RLIMIT_*`), then its soft and its hard limit.
    pub(super) limits: &'a [(u32, [u64; 2])],
    /// The directory of the cgroup (version 2) that it is born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// The program is not executed once this is over: the child looks at the clock last of all.
    pub(super) validity: Option<&'a Validity>,
    /// The file and the offset at which the child writes its id and the end of its validity before
    /// it executes, eight bytes each.
    pub(super) note: Option<(BorrowedFd<'a>, u64)>,
    /// What of it is traced, and how long a crash may be looked at.
    pub(super) trace: Option<(Scope, Duration)>,
    /// The sandbox that it runs in.
    pub(super) confinement: Option<&'a Confinement>,
}

/// A process that runs, leader of a process group of its own.
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// The standard output, open until its end has been read.
    pub(super) stdout: Option<OwnedFd>,
    /// The standard error, open until its end has been read.
    pub(super) stderr: Option<OwnedFd>,
    /// The rest of its input, which did not fit into the pipe yet.
    pub(super) input: Option<Feed>,
    pub(super) started: Instant,
    /// Traces it; `None` if it is not traced.
    pub(super) tracer: Option<Tracer>,
    /// Whether this process has reaped it: from then on its id may mean another process.
    pub(super) reaped: bool,
}

impl Drop for Spawned {
    /// Kills and reaps the process if its supervisor gives up half-way.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            tracer::reap_killed(self.pid);
        }
    }
}

/// Input on its way into a process.
pub(super) struct Feed {
    pub(super) pipe: OwnedFd,
    body: JobBody,
    /// What of the body's text is still to be written.
    rest: Range<usize>,
}

/// Why nothing was spawned.
#[derive(Debug)]
pub(super) enum NotSpawned {
    /// Its validity was over.
    Late,
    /// It could not be put into its cgroup; without one it may be spawned.
    Cgroup(io::Error),
    /// The process could not be made or set up, or could not execute its program.
    Failed(SpawnError),
}

/// What kept a program from being started.
#[derive(Debug)]
pub(super) struct SpawnError {
    pub(super) failure: SpawnFailure,
    pub(super) message: String,
    pub(super) cause: Cause,
}

/// The part that is to blame when a program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The job: it asks for something that can't be had.
    Job,
    /// The file: this machine can't execute it, until it changes.
    File,
    /// The path: no file is there, so the remembered path of the binary may be out of date.
    Path,
    /// This worker: it can't start processes now, be it this job's or another's.
    Worker,
}

impl From<BinaryError> for SpawnError {
    fn from(error: BinaryError) -> Self {
        // This failure concerns the jobs directory as a whole, not one binary.
        let cause = if error.failure == SpawnFailure::System { Cause::Worker } else { Cause::File };
        Self { failure: error.failure, message: error.to_string(), cause }
    }
}

impl From<SpawnError> for NotSpawned {
    fn from(error: SpawnError) -> Self {
        NotSpawned::Failed(error)
    }
}

impl SpawnError {
    /// The system refused this worker something that may work another time.
    pub(super) fn system(what: &str, error: impl Into<io::Error>) -> Self {
        Self::of_worker(format!("{what}: {}", error.into()))
    }

    /// This worker can't start processes now.
    pub(super) fn of_worker(message: String) -> Self {
        Self { failure: SpawnFailure::System, message, cause: Cause::Worker }
    }

    fn not_executable(path: &Path, why: &str) -> Self {
        let message = format!("couldn't start {}: {why}", path.display());
        Self { failure: SpawnFailure::NotExecutable, message, cause: Cause::Job }
    }
}

/// What the spawning thread has set for its children to inherit, and what it needs for each of them.
pub(super) struct SpawnThread {
    /// The CPUs it runs on, once it has been pinned.
    cpus: Vec<u32>,
    /// The stack that its children use in turn, mapped with the first child.
    stack: Option<Stack>,
    /// Interrupts this thread while it waits as a tracer, made for the first process that it traces.
    pub(super) alarm: Option<Alarm>,
    /// `/dev/null`, opened with the first child that gets no input.
    nothing: Option<OwnedFd>,
}

impl SpawnThread {
    /// Prepares the calling thread, which must not be used for anything but spawning and waiting.
    pub(super) fn prepare() -> Self {
        if let Err(error) = rustix::thread::set_no_new_privs(true) {
            tracing::warn!(%error, "couldn't set no_new_privs; jobs may gain privileges by set-user-id programs");
        }
        Self { cpus: Vec::new(), stack: None, alarm: None, nothing: None }
    }

    /// Spawns a program with its pipes. Returns once the child has executed it.
    pub(super) fn spawn(&mut self, program: Program<'_>) -> Result<Spawned, NotSpawned> {
        let (arguments, environment) = strings(&program)?;
        let c_string = |path: &Path| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|_| SpawnError::not_executable(path, "its path holds a NUL byte"))
        };
        let (path, directory) = (c_string(program.path)?, c_string(program.directory)?);
        let pipe =
            || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| SpawnError::system("couldn't make a pipe", e));
        let ((stdout, its_stdout), (stderr, its_stderr)) = (pipe()?, pipe()?);
        let (its_stdin, input) = match program.body.data_range() {
            None => (None, None),
            Some(data) => {
                let (stdin, feed) = fill(program.body.clone(), data)
                    .map_err(|e| SpawnError::system("couldn't make a pipe for the data", e))?;
                (Some(stdin), feed)
            }
        };
        if let Some(cpus) = program.cpus {
            self.pin(cpus);
        }
        if program.trace.is_some() && self.alarm.is_none() {
            match Alarm::of_this_thread() {
                Ok(alarm) => self.alarm = Some(alarm),
                Err(error) => tracing::warn!(%error, "jobs are not traced, so their crashes are not reported"),
            }
        }
        let stack = match &mut self.stack {
            Some(stack) => stack,
            none => none.insert(Stack::map().map_err(|e| SpawnError::system("couldn't map a stack", e))?),
        };
        let stdin = match (&its_stdin, &mut self.nothing) {
            (Some(stdin), _) => stdin.as_fd(),
            (None, Some(nothing)) => (*nothing).as_fd(),
            (None, none) => (*none.insert(dev_null()?)).as_fd(),
        };
        let order = Launch {
            path: &path,
            arguments: &arguments,
            environment: &environment,
            directory: &directory,
            stdio: [stdin, its_stdout.as_fd(), its_stderr.as_fd()],
            nice: (program.nice > 0).then(|| own_nice() + i32::from(program.nice)),
            limits: program.limits,
            cgroup: program.cgroup,
            validity: program.validity,
            note: program.note,
            traced: program.trace.is_some() && self.alarm.is_some(),
            confinement: program.confinement,
        };
        let started = Instant::now();
        let Launched { pid, pidfd, traced } = launch_patiently(stack, &order).map_err(|refusal| match refusal {
            Refusal::Late => NotSpawned::Late,
            Refusal::Cgroup(errno) => NotSpawned::Cgroup(io::Error::from_raw_os_error(errno)),
            Refusal::Directory(errno) => {
                SpawnError::system("couldn't enter the scratch directory", io::Error::from_raw_os_error(errno)).into()
            }
            Refusal::Sandbox(errno) => {
                let message = format!("couldn't put it into its sandbox: {}", io::Error::from_raw_os_error(errno));
                let cause = if errno == libc::ENOMEM { Cause::Worker } else { Cause::Job };
                SpawnError { failure: SpawnFailure::System, message, cause }.into()
            }
            Refusal::SetUp(errno) => {
                SpawnError::system("couldn't set a process up", io::Error::from_raw_os_error(errno)).into()
            }
            Refusal::Clone(errno) => {
                SpawnError { cause: Cause::Worker, ..explain(&io::Error::from_raw_os_error(errno), program.path) }
                    .into()
            }
            Refusal::Exec(errno) => {
                let mut error = explain(&io::Error::from_raw_os_error(errno), program.path);
                if errno == libc::EACCES && program.confinement.is_some_and(|its| its.level == SandboxLevel::Strict) {
                    error.message.push_str(
                        "; sandbox = \"strict\" lets it use the system's programs only: is its interpreter or loader \
                         one of those that sandbox_read lists?",
                    );
                }
                // With less memory than its program needs to begin, it is the job that asked for too little.
                let is_limited = program.limits.iter().any(|(resource, _)| *resource == libc::RLIMIT_DATA);
                let cause = match errno {
                    libc::EAGAIN | libc::EMFILE | libc::ENFILE => Cause::Worker,
                    libc::ENOMEM if !is_limited => Cause::Worker,
                    libc::ENOENT if !program.path.exists() => Cause::Path,
                    libc::ENOENT | libc::ENOEXEC | libc::EACCES | libc::EPERM => Cause::File,
                    _ => Cause::Job,
                };
                SpawnError { cause, ..error }.into()
            }
        })?;
        let tracer = program.trace.filter(|_| traced).and_then(|(scope, patience)| Tracer::begin(pid, scope, patience));
        Ok(Spawned { pid, pidfd, stdout: Some(stdout), stderr: Some(stderr), input, started, tracer, reaped: false })
    }

    /// Pins this thread, and so its children. A failure (a CPU went offline) leaves them where they may run.
    fn pin(&mut self, cpus: &[u32]) {
        if self.cpus == cpus {
            return;
        }
        let mut set = CpuSet::new();
        for cpu in cpus {
            set.set(*cpu as usize);
        }
        match rustix::thread::sched_setaffinity(None, &set) {
            Ok(()) => self.cpus = cpus.to_vec(),
            Err(error) => tracing::warn!(?cpus, %error, "couldn't pin a job to its CPUs"),
        }
    }
}

/// Makes the arguments, the program's path first, and the environment, in which a variable of the
/// program's own replaces a shared one.
fn strings(program: &Program<'_>) -> Result<(Strings, Strings), SpawnError> {
    let (mut arguments, mut environment) = (Strings::default(), Strings::default());
    let path = program.path.as_os_str().as_bytes();
    let mut whole = arguments.push(&[path]);
    for argument in program.arguments {
        whole &= arguments.push(&[argument.as_bytes()]);
    }
    let is_own = |name: &str| program.own_environment.iter().any(|(own, _)| *own == name);
    let shared = program.environment.iter().map(|(name, value)| (name.as_str(), value));
    let own = program.own_environment.iter().map(|(name, value)| (&**name, value));
    for (name, value) in shared.filter(|(name, _)| !is_own(name)).chain(own) {
        whole &= environment.push(&[name.as_bytes(), b"=", value.as_bytes()]);
    }
    if whole {
        Ok((arguments, environment))
    } else {
        Err(SpawnError::not_executable(program.path, "an argument holds a NUL byte"))
    }
}

fn dev_null() -> Result<OwnedFd, SpawnError> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SpawnError::system("couldn't open /dev/null", e))
}

/// The nice value of this process, read once.
fn own_nice() -> i32 {
    static OWN: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    *OWN.get_or_init(|| rustix::process::getpriority_process(None).unwrap_or(0))
}

/// Launches a program. Tries again for a little while if another program still writes the file (a
/// build or a copy that is just ending).
fn launch_patiently(stack: &mut Stack, order: &Launch<'_>) -> Result<Launched, Refusal> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let first = Instant::now();
    loop {
        match launch(stack, order) {
            Err(Refusal::Exec(libc::ETXTBSY)) if first.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

fn explain(error: &io::Error, path: &Path) -> SpawnError {
    let (failure, why) = match error.raw_os_error() {
        Some(libc::ENOEXEC) => (
            SpawnFailure::NotExecutable,
            "it is neither a program for this machine nor a script with a first line such as #!/bin/sh".to_owned(),
        ),
        Some(libc::ENOENT) => (
            SpawnFailure::NotExecutable,
            "the interpreter or loader that it names (first line, or a dynamic program's ld.so) does not exist"
                .to_owned(),
        ),
        Some(libc::EACCES | libc::EPERM) => {
            (SpawnFailure::NotExecutable, format!("{error} (is it on a file system mounted noexec?)"))
        }
        Some(libc::E2BIG) => (
            SpawnFailure::NotExecutable,
            "its arguments and environment are too long for the system; use data for more".to_owned(),
        ),
        Some(libc::ETXTBSY) => (SpawnFailure::System, "something still writes to the file".to_owned()),
        Some(libc::EAGAIN) => (
            SpawnFailure::System,
            "no more processes are allowed (ulimit -u, or the pids limit of its cgroup)".to_owned(),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (SpawnFailure::System, format!("{error} (raise ulimit -n)")),
        _ => (SpawnFailure::System, error.to_string()),
    };
    let message = format!("couldn't start {}: {why}", path.display());
    SpawnError { failure, message, cause: Cause::Job }
}

/// Makes a pipe with as much of the data in it as fits. What fits in whole needs no care any more.
fn fill(body: JobBody, data: Range<usize>) -> io::Result<(OwnedFd, Option<Feed>)> {
    /// What every pipe takes, even when its user is over the limit for pipe memory.
    const ALWAYS_FITS: usize = 4096;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if data.len() > ALWAYS_FITS {
        rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    }
    let mut feed = Feed { pipe: write, body, rest: data };
    let more = feed.write();
    Ok((read, more.then_some(feed)))
}

impl Feed {
    /// Writes as much as the pipe takes. Answers false when nothing is left to write, or the
    /// process has closed its input.
    pub(super) fn write(&mut self) -> bool {
        while !self.rest.is_empty() {
            match rustix::io::write(self.pipe.as_fd(), &self.body.as_str().as_bytes()[self.rest.clone()]) {
                Ok(n) => self.rest.start += n,
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                // EPIPE: it has closed its input, as it may (the runtime ignores SIGPIPE).
                Err(_) => return false,
            }
        }
        false
    }
}

/// The arguments of the guard process, before the process id of its worker.
pub(super) const GUARD: [&str; 2] = ["guard", "--parent"];

/// Starts this program again as the guard of this process, with `table` as its standard input: in a process group of
/// its own, with nothing of this process's environment and none of its descriptors.
#[expect(clippy::disallowed_methods, reason = "this is the only place that spawns")]
pub(super) fn spawn_guard(table: File) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    // This path leads to the program as it runs, even if its file has been replaced or removed. The
    // name is for people who list processes.
    let name = std::env::current_exe().unwrap_or_else(|_| "jobber".into());
    Command::new("/proc/self/exe")
        .arg0(name)
        .args(GUARD)
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(Stdio::from(table))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
