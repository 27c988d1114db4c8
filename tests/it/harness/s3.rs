//! A real S3-compatible server for one test: moto's, on a free loopback port, ended by its process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::redis::free_port;

/// The keys that the server takes; it takes all.
pub const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret-that-nothing-may-print";

/// A running server with one bucket. Killed when dropped.
pub struct S3 {
    port: u16,
    child: Mutex<Option<Child>>,
}

impl S3 {
    /// A server with an empty bucket `jobs`.
    pub async fn start() -> Self {
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = spawn(port).await {
                let server = Self { port, child: Mutex::new(Some(child)) };
                server.make_bucket().await;
                return server;
            }
        }
        panic!("the S3 server does not start");
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The settings of a process that keeps files there, as variables.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("JOBBER_ARTIFACTS_URL", "s3://jobs/of-a-test".to_owned()),
            ("JOBBER_ARTIFACTS_ENDPOINT", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    async fn make_bucket(&self) {
        let answer = reqwest::Client::new().put(format!("{}/jobs", self.endpoint())).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// The keys in the bucket, as the server lists them.
    pub async fn keys(&self) -> Vec<String> {
        let url = format!("{}/jobs?list-type=2", self.endpoint());
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        text.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// Ends the server; what it held is lost.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts the server anew on its port, with an empty bucket.
    pub async fn restart(&self) {
        let child = spawn(self.port).await.expect("its port is free");
        *self.child.lock().unwrap() = Some(child);
        self.make_bucket().await;
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server on this port; `None` when it ends by itself, because the port is taken.
async fn spawn(port: u16) -> Option<Child> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin/moto_server");
    assert!(tool.exists(), "run tools/install-test-tools: {} is missing", tool.display());
    let mut child = Command::new(tool)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if reqwest::get(format!("http://127.0.0.1:{port}/moto-api/")).await.is_ok() {
            return Some(child);
        }
        assert!(began.elapsed() < super::PATIENCE, "the S3 server does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
