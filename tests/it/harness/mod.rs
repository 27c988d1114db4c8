//! Starts the real binary in a directory of its own, talks to it as a user would, and checks that it leaves nothing
//! behind: no process, no scratch directory, and aggregates that equal a recount of the documents.

pub mod certificates;
pub mod collector;
pub mod couchbase;
pub mod couchbase_double;
pub mod embeddings;
pub mod post;
pub mod proxy;
pub mod pty;
pub mod receiver;
pub mod redis;
pub mod s3;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// How long anything may take before a test fails: generous, because machines differ.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A directory with data and jobs, shared by the processes of one test.
pub struct Place {
    dir: tempfile::TempDir,
}

/// How to start a process.
pub struct Start {
    role: &'static str,
    args: Vec<String>,
    env: Vec<(String, String)>,
    place: Option<Arc<Place>>,
    default_jobs_dir: bool,
    before: Vec<String>,
}

/// A running `jobber dev`, `serve` or `work`.
pub struct Jobber {
    role: &'static str,
    child: Option<Child>,
    address: Option<String>,
    place: Arc<Place>,
    log: Arc<std::sync::Mutex<String>>,
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_jobber")
}

/// Waits until `condition` gives something, looking again and again.
pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut condition: F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Place {
    pub fn new() -> Arc<Self> {
        let dir = tempfile::Builder::new().prefix("jobber-it-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("jobs")).unwrap();
        Arc::new(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn jobs_dir(&self) -> PathBuf {
        self.dir.path().join("jobs")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Makes a job of a script. Written by another process, so that no descriptor of this one, inherited by a child
    /// that another test is just starting, keeps the file busy.
    pub fn job(&self, name: &str, script: &str) {
        let path = self.jobs_dir().join(name);
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "cat > \"$1.new\" && chmod 755 \"$1.new\" && mv \"$1.new\" \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Copies the C++ jobs, built once for all tests, into the jobs directory. Copies, because each new hard link to a
    /// file changes its inode, and an archiver that reads it for another test complains. By another process, for the
    /// reason `job` gives.
    pub fn cpp_jobs(&self) {
        let built = std::fs::read_dir(cpp_build_dir()).unwrap().map(|entry| entry.unwrap().path());
        let jobs = built.filter(|path| path.is_file() && !path.file_name().unwrap().to_string_lossy().starts_with('.'));
        let status = std::process::Command::new("cp").args(jobs).arg(self.jobs_dir()).status().unwrap();
        assert!(status.success());
    }

    /// Processes whose working directory is, or was, in this place.
    pub fn leftovers(&self) -> Vec<String> {
        let root = self.dir.path().canonicalize().unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid.bytes().all(|b| b.is_ascii_digit())
                && let Ok(cwd) = std::fs::read_link(entry.path().join("cwd"))
                && cwd.starts_with(&root)
            {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                if !command.trim().is_empty() {
                    found.push(format!("{pid}: {command}"));
                }
            }
        }
        found
    }
}

/// Nobody in particular: not root, who may do everything to everybody.
const NOBODY: &str = "65534";

/// Lets the process run as a user without rights, if the tests run as root; else it does so anyway.
pub fn as_nobody(place: &Arc<Place>, start: Start) -> Start {
    let start = start.at(place);
    if !rustix::process::geteuid().is_root() {
        return start;
    }
    let place = place.path();
    std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // Its standard output is given to that user, too, so that it can be opened again.
    let drop_rights =
        format!("chown {NOBODY} /proc/self/fd/1; exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups \"$@\"");
    start.by(&["sh", "-c", &drop_rights, "sh"])
}

/// Builds the C++ jobs once and says where they are.
pub fn cpp_build_dir() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp-jobs");
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cpp-jobs");
            let output = std::process::Command::new("make")
                .arg("-C")
                .arg(source)
                .arg(format!("JOBS_DIR={}", target.display()))
                .output()
                .expect("make is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            target
        })
        .clone()
}

impl Start {
    fn new(role: &'static str) -> Self {
        Self { role, args: Vec::new(), env: Vec::new(), place: None, default_jobs_dir: false, before: Vec::new() }
    }

    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Shares the data and the jobs of other processes.
    pub fn at(mut self, place: &Arc<Place>) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// Leaves the jobs directory to the default, a path relative to where the process starts: the same place.
    pub fn with_default_jobs_dir(mut self) -> Self {
        self.default_jobs_dir = true;
        self
    }

    /// Starts it by another program, which must become it: `env`, `setpriv`, with arguments.
    pub fn by(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the process and waits until it says that it is ready.
    pub async fn start(self) -> Jobber {
        let place = self.place.unwrap_or_else(Place::new);
        let mut words = self.before.iter().map(String::as_str).chain([binary()]);
        let mut command = Command::new(words.next().expect("the binary at least"));
        command.args(words).arg(self.role).args(["--ready-fd", "1", "--data-dir"]).arg(place.data_dir());
        if self.default_jobs_dir {
            // Nothing is said of it.
        } else if self.role != "serve" {
            command.arg("--jobs-dir").arg(place.jobs_dir());
        } else {
            command.env("JOBBER_JOBS_DIR", place.jobs_dir());
        }
        if self.role != "work" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(&self.args).current_dir(place.path());
        for (name, _) in std::env::vars_os() {
            if ["JOBBER_", "OTEL_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        // The whole library costs seconds in a debug build; tests that are about it ask for it.
        command.env("JOBBER_FAILURES_SEED", "original");
        command.envs(self.env);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(std::sync::Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, stdout.next_line()).await;
        let ready = match line {
            Ok(Ok(Some(line))) => serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{line:?}: {e}")),
            other => panic!("{} did not get ready: {other:?}\n{}", self.role, log.lock().unwrap()),
        };
        // Keep the pipe open: a closed one would be an error for whoever prints.
        tokio::spawn(async move {
            let mut rest = Vec::new();
            stdout.into_inner().read_to_end(&mut rest).await.ok();
        });
        let address = ready["address"].as_str().map(str::to_owned);
        Jobber { role: self.role, child: Some(child), address, place, log }
    }
}

impl Jobber {
    /// Everything in one process.
    pub fn dev() -> Start {
        Start::new("dev")
    }

    /// The API and the projector.
    pub fn serve() -> Start {
        Start::new("serve")
    }

    /// A worker.
    pub fn work() -> Start {
        Start::new("work")
    }

    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub fn job(&self, name: &str, script: &str) {
        self.place.job(name, script);
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn base(&self) -> &str {
        self.address.as_deref().expect("this role listens")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base())
    }

    pub fn http(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.http().get(self.url(path)).send().await).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.http().post(self.url(path)).json(&body).send().await).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        answer(self.http().delete(self.url(path)).send().await).await
    }

    pub async fn post_raw(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        answer(self.http().post(self.url(path)).header("content-type", content_type).body(body).send().await).await
    }

    /// Submits a job and gives its id.
    pub async fn submit(&self, body: Value) -> String {
        let (status, answer) = self.post("/api/v1/jobs", body).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The job, once it has ended.
    pub async fn wait_final(&self, id: &str) -> Value {
        eventually(&format!("the end of job {id}"), async || {
            let (status, view) = self.get(&format!("/api/v1/jobs/{id}?wait=20")).await;
            assert_eq!(status, 200, "{view}\n{}", self.log());
            matches!(view["state"].as_str(), Some("completed" | "failed")).then_some(view)
        })
        .await
    }

    /// The job, once it is in this state.
    pub async fn wait_state(&self, id: &str, state: &str) -> Value {
        eventually(&format!("job {id} to be {state}"), async || {
            let (_, view) = self.get(&format!("/api/v1/jobs/{id}")).await;
            (view["state"] == state).then_some(view)
        })
        .await
    }

    /// Runs a client command against this server.
    pub async fn cli(&self, args: &[&str]) -> Output {
        self.cli_stdin(args, "").await
    }

    pub async fn cli_stdin(&self, args: &[&str], input: &str) -> Output {
        let base = self.base().to_owned();
        run(args, &[("JOBBER_SERVER", &base)], self.place.path(), input).await
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGSTOP, between two writes: a process that stands in the midst of one holds the database, and all others wait.
    pub async fn freeze(&self) {
        use rustix::process::Signal;
        let file = self.place.data_dir().join("jobber.db");
        let is_free = move || {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
            let Ok(connection) = rusqlite::Connection::open_with_flags(&file, flags) else { return true };
            connection.busy_timeout(Duration::from_secs(2)).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
        };
        loop {
            self.signal(Signal::STOP);
            let stat = || std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
            eventually("it to stand", async || stat().contains(") T ").then_some(())).await;
            if tokio::task::spawn_blocking(is_free.clone()).await.unwrap() {
                return;
            }
            self.signal(Signal::CONT);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// SIGKILL, and wait.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM, and wait for the end; its exit code.
    pub async fn stop(&mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Waits for the end; its exit code, 128 + n for a signal.
    pub async fn ended(&mut self) -> i32 {
        let mut child = self.child.take().expect("it runs");
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
        use std::os::unix::process::ExitStatusExt;
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }
}

async fn answer(response: reqwest::Result<reqwest::Response>) -> (u16, Value) {
    let response = response.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    (status, body)
}

/// Runs a tool, which has to succeed within this time, and gives what it printed.
pub async fn succeed(mut tool: Command, patience: Duration) -> String {
    let name = format!("{tool:?}");
    let child = tool.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience, child).await.expect("it ends").expect("it is installed");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// Runs the binary to its end.
pub async fn run(args: &[&str], env: &[(&str, &str)], dir: &Path, input: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(args).current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JOBBER_") {
            command.env_remove(name);
        }
    }
    command.envs(env.iter().copied()).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes the pipe early.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await.expect("it ends").unwrap();
    use std::os::unix::process::ExitStatusExt;
    Output {
        code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for Jobber {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32))
        {
            let began = Instant::now();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                // A second signal skips the drain: tests that end with running jobs do not wait for them.
                if began.elapsed() > Duration::from_millis(500) {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
                }
                if began.elapsed() > PATIENCE {
                    child.start_kill().ok();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of jobber {} ---\n{}", self.role, self.log());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let began = Instant::now();
        while !self.leftovers().is_empty() {
            assert!(began.elapsed() < PATIENCE, "processes were left behind: {:#?}", self.leftovers());
            std::thread::sleep(Duration::from_millis(20));
        }
        post::check(self);
    }
}
