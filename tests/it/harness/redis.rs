//! A real redis-server for one test: on a free loopback port, with its own directory, ended by its pid.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::{Duration, Instant};

use super::certificates::make_certificates;

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Keep what was written over a restart (append-only file, synced on every write).
    pub durable: bool,
    /// The password of the default user.
    pub password: Option<String>,
    /// A further user, with all rights, and its password. The default user is then switched off.
    pub user: Option<(String, String)>,
    /// Speak TLS only, with a certificate for 127.0.0.1 that a private authority signed.
    pub tls: bool,
    /// Be a node of a cluster; see [`Redis::cluster`].
    pub cluster: bool,
}

/// The files of a server's TLS set-up.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "not every test shows a certificate of its own")]
pub struct RedisTls {
    /// The authority's certificate: what a client must trust.
    pub ca: PathBuf,
    /// A certificate that a client may show.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A running server. Killed when dropped, and its directory removed.
pub struct Redis {
    options: RedisOptions,
    port: u16,
    dir: tempfile::TempDir,
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// A plain server without persistence.
    pub fn start() -> Self {
        Self::with(RedisOptions::default())
    }

    /// One plain server for all who hold it at the same time; use names of your own in it.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Mutex<Weak<Redis>>> = LazyLock::new(|| Mutex::new(Weak::new()));
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Self::start());
            *shared = Arc::downgrade(&new);
            new
        })
    }

    /// A server with these options.
    pub fn with(options: RedisOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("jobber-redis-").tempdir().unwrap();
        if options.tls {
            make_certificates(dir.path(), "redis");
        }
        // Another process may take the port between the look and the start; then another is tried.
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = spawn(&options, port, dir.path()) {
                return Self { options, port, dir, child: Mutex::new(Some(child)) };
            }
        }
        panic!("redis-server does not start: {}", log(dir.path()));
    }

    /// Three nodes that share all slots; each is a server of its own.
    #[allow(dead_code, reason = "for the tests of clusters")]
    pub fn cluster() -> Vec<Self> {
        let node = || Self::with(RedisOptions { cluster: true, ..RedisOptions::default() });
        let nodes = vec![node(), node(), node()];
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)))
            .args(["--cluster-replicas", "0", "--cluster-yes"])
            .output()
            .expect("redis-cli is installed");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        for node in &nodes {
            let began = Instant::now();
            while !node.cli(&["cluster", "info"]).contains("cluster_state:ok") {
                assert!(began.elapsed() < Duration::from_secs(60), "the cluster does not come up");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        nodes
    }

    /// The port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL with scheme, user and password as a client needs it.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let who = match (&self.options.user, &self.options.password) {
            (Some((user, password)), _) => format!("{user}:{password}@"),
            (None, Some(password)) => format!(":{password}@"),
            (None, None) => String::new(),
        };
        format!("{scheme}://{who}127.0.0.1:{}", self.port)
    }

    /// The files of its TLS set-up.
    pub fn tls(&self) -> RedisTls {
        let file = |name: &str| self.dir.path().join(name);
        RedisTls { ca: file("ca.crt"), cert: file("redis.crt"), key: file("redis.key") }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    /// Sends it a signal: `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it again on the same port, with what it had kept.
    pub fn restart(&self) {
        self.kill();
        for _ in 0..50 {
            if let Some(child) = spawn(&self.options, self.port, self.dir.path()) {
                *self.child.lock().unwrap() = Some(child);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not start again: {}", log(self.dir.path()));
    }

    /// What redis-cli prints for a command.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = cli(&self.options, self.port, self.dir.path()).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A stopped process does not take note of its end otherwise.
        self.kill();
    }
}

pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn log(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
    log.lines().rev().take(3).collect::<Vec<_>>().join("; ")
}

fn cli(options: &RedisOptions, port: u16, dir: &Path) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--no-auth-warning"]);
    match (&options.user, &options.password) {
        (Some((user, password)), _) => command.args(["--user", user, "-a", password]),
        (None, Some(password)) => command.args(["-a", password]),
        (None, None) => &mut command,
    };
    if options.tls {
        command.arg("--tls").arg("--cacert").arg(dir.join("ca.crt"));
    }
    command
}

/// Starts a server and waits until it answers; `None` when it ended instead (the port was taken).
fn spawn(options: &RedisOptions, port: u16, dir: &Path) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
    command.arg("--dir").arg(dir).arg("--logfile").arg(dir.join("redis.log"));
    command.args(["--appendonly", if options.durable { "yes" } else { "no" }, "--appendfsync", "always"]);
    command.args(["--maxmemory-policy", "noeviction"]);
    if options.tls {
        command.args(["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "optional"]);
        command.arg("--tls-ca-cert-file").arg(dir.join("ca.crt"));
        command.arg("--tls-cert-file").arg(dir.join("redis.crt"));
        command.arg("--tls-key-file").arg(dir.join("redis.key"));
    } else {
        command.args(["--port", &port.to_string()]);
    }
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    if let Some((user, password)) = &options.user {
        let file = dir.join("users.acl");
        let users = format!("user default off\nuser {user} on >{password} ~* &* +@all\n");
        std::fs::write(&file, users).unwrap();
        command.arg("--aclfile").arg(file);
    }
    if options.cluster {
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server can't be started ({error}): run tools/install-test-tools"));
    let began = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        let answer = cli(options, port, dir).arg("ping").output().expect("redis-cli is installed");
        // Another server on that port would answer too, but then this one has ended or is about to.
        if answer.stdout.starts_with(b"PONG") && child.try_wait().unwrap().is_none() {
            return Some(child);
        }
        assert!(began.elapsed() < Duration::from_secs(60), "redis-server does not answer: {}", log(dir));
        std::thread::sleep(Duration::from_millis(10));
    }
}
