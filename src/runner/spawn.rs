//! The only place that spawns: a program and its surroundings in, a process with its pipes out.
//!
//! `std::process::Command` takes the fast way (`posix_spawn`, which is vfork-like: no page table is copied, however
//! large the worker is) only without `pre_exec` and, in a static binary, without `current_dir`. So what a child is to
//! have is set on the thread that spawns it, and inherited: see [`SpawnThread`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CpuSet;

use super::{binary::BinaryError, sys};
use crate::domain::SpawnFailure;

/// What to spawn.
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(String, String)],
    pub(super) own_environment: &'a [(&'static str, String)],
    pub(super) directory: &'a Path,
    /// `None` leaves the thread's CPUs as they are.
    pub(super) cpus: Option<&'a [u32]>,
    /// For its standard input; empty for none.
    pub(super) input: Vec<u8>,
    /// Added to the nice value.
    pub(super) nice: u8,
}

/// A process that runs, leader of a process group of its own.
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Open until its end has been read.
    pub(super) stdout: Option<OwnedFd>,
    /// Likewise.
    pub(super) stderr: Option<OwnedFd>,
    /// What of its input did not fit into the pipe yet.
    pub(super) input: Option<Feed>,
    pub(super) started: Instant,
    /// Whether its end has been taken note of: from then on its id may mean another process.
    pub(super) reaped: bool,
}

impl Drop for Spawned {
    /// Nothing is left running when its supervisor gives up half-way.
    fn drop(&mut self) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = sys::reap(self.pid, true);
        }
    }
}

/// Input on its way into a process.
pub(super) struct Feed {
    pub(super) pipe: OwnedFd,
    data: Vec<u8>,
    written: usize,
}

/// Why nothing was spawned.
#[derive(Debug)]
pub(super) struct SpawnError {
    pub(super) failure: SpawnFailure,
    pub(super) message: String,
    /// Whether the path itself was not there: what was known of the binary may be out of date.
    pub(super) vanished: bool,
}

impl From<BinaryError> for SpawnError {
    fn from(error: BinaryError) -> Self {
        Self { failure: error.failure, message: error.to_string(), vanished: false }
    }
}

impl SpawnError {
    /// The system refused something that may work another time.
    pub(super) fn system(what: &str, error: impl Into<io::Error>) -> Self {
        Self { failure: SpawnFailure::System, message: format!("{what}: {}", error.into()), vanished: false }
    }
}

/// What the spawning thread has taken on, to be inherited by its children.
pub(super) struct SpawnThread {
    /// Whether this thread's working directory is its own.
    own_directory: bool,
    /// The CPUs it runs on, once it has been pinned.
    cpus: Vec<u32>,
}

impl SpawnThread {
    /// Prepares the calling thread, which must not be used for anything but spawning and waiting.
    pub(super) fn prepare() -> Self {
        let own_directory = match sys::unshare_working_directory() {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "threads can't have a working directory of their own here; spawning is slower");
                false
            }
        };
        if let Err(error) = rustix::thread::set_no_new_privs(true) {
            tracing::warn!(%error, "couldn't set no_new_privs; jobs may gain privileges by set-user-id programs");
        }
        Self { own_directory, cpus: Vec::new() }
    }

    /// Spawns it.
    pub(super) fn spawn(&mut self, program: Program<'_>) -> Result<Spawned, SpawnError> {
        let mut command = self.command(&program)?;
        let input = if program.input.is_empty() {
            command.stdin(Stdio::null());
            None
        } else {
            let (stdin, feed) =
                fill(program.input).map_err(|e| SpawnError::system("couldn't make a pipe for the data", e))?;
            command.stdin(stdin);
            feed
        };
        if let Some(cpus) = program.cpus {
            self.pin(cpus);
        }
        let started = Instant::now();
        let mut child = spawn_patiently(&mut command).map_err(|error| explain(&error, program.path))?;
        // Frees our copy of the child's end of its input.
        drop(command);
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
            // Without it there is no waiting with a deadline.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = sys::reap(pid, true);
            SpawnError::system("couldn't watch the process", error)
        })?;
        // Fails when it has ended already.
        if program.nice > 0 {
            let _ = rustix::process::setpriority_process(Some(pid), own_nice() + i32::from(program.nice));
        }
        let (stdout, stderr) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
        Ok(Spawned { pid, pidfd, stdout, stderr, input, started, reaped: false })
    }

    #[expect(clippy::disallowed_methods, reason = "this is the only place that spawns")]
    fn command(&self, program: &Program<'_>) -> Result<Command, SpawnError> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(program.path);
        command
            .args(program.arguments)
            .env_clear()
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .envs(program.own_environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if self.own_directory {
            rustix::process::chdir(program.directory)
                .map_err(|error| SpawnError::system("couldn't enter the scratch directory", error))?;
        } else {
            command.current_dir(program.directory);
        }
        Ok(command)
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

/// The nice value of this process, read once.
fn own_nice() -> i32 {
    static OWN: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    *OWN.get_or_init(|| rustix::process::getpriority_process(None).unwrap_or(0))
}

/// Spawns, and waits a little while somebody still writes the file (a build or a copy that is just ending).
fn spawn_patiently(command: &mut Command) -> io::Result<std::process::Child> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let first = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && first.elapsed() < PATIENCE => {
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
        None if error.kind() == io::ErrorKind::InvalidInput => {
            (SpawnFailure::NotExecutable, "an argument holds a NUL byte".to_owned())
        }
        _ => (SpawnFailure::System, error.to_string()),
    };
    let message = format!("couldn't start {}: {why}", path.display());
    SpawnError { failure, message, vanished: error.raw_os_error() == Some(libc::ENOENT) && !path.exists() }
}

/// Makes a pipe with as much of `data` in it as fits. What fits in whole needs no care any more.
fn fill(data: Vec<u8>) -> io::Result<(Stdio, Option<Feed>)> {
    /// What every pipe takes, even when its user is over the limit for pipe memory.
    const ALWAYS_FITS: usize = 4096;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if data.len() > ALWAYS_FITS {
        rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    }
    let mut feed = Feed { pipe: write, data, written: 0 };
    let more = feed.write();
    Ok((Stdio::from(File::from(read)), more.then_some(feed)))
}

impl Feed {
    /// Writes as much as the pipe takes; false when there is nothing more to write, or nobody who reads.
    pub(super) fn write(&mut self) -> bool {
        while self.written < self.data.len() {
            match rustix::io::write(self.pipe.as_fd(), &self.data[self.written..]) {
                Ok(n) => self.written += n,
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                // EPIPE: it has closed its input, as it may (the runtime ignores SIGPIPE).
                Err(_) => return false,
            }
        }
        false
    }
}

/// Starts this program again as the guard of this process, with `table` as its standard input: in a process group of its
/// own, with nothing of this process's environment and none of its descriptors.
#[expect(clippy::disallowed_methods, reason = "this is the only place that spawns")]
pub(super) fn spawn_guard(table: File) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    Command::new(std::env::current_exe()?)
        .args(["guard", "--parent", &std::process::id().to_string()])
        .env_clear()
        .stdin(Stdio::from(table))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
