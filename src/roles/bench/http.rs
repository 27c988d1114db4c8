//! The API: how many submissions a second it takes over HTTP, beside the least that any answer costs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::pipeline::Pipeline;
use crate::config::Config;
use crate::metrics::Role;
use crate::roles::parts::{self, ApiListener, Telemetry};
use crate::traces::Traces;

/// How many connections ask at the same time.
pub(super) const CONNECTIONS: usize = 64;
/// How many jobs a bulk request submits.
const BULK: usize = 1000;

/// The API of a pipeline, on a port of its own.
pub(super) struct Server {
    address: SocketAddr,
    tasks: TaskTracker,
}

/// Requests, or jobs, a second.
pub(super) struct Answered {
    /// `GET /healthz`.
    pub(super) health: f64,
    /// `POST /jobs`.
    pub(super) single: f64,
    /// Jobs in `POST /api/v1/jobs:bulk`, on one connection.
    pub(super) bulk: f64,
}

impl Server {
    pub(super) async fn start(config: &Config, pipeline: &Pipeline) -> anyhow::Result<Self> {
        let mut config = config.clone();
        config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        (config.serve.token, config.serve.view_token, config.serve.tls) = (None, None, None);
        let listener: ApiListener = parts::bind(&config, &pipeline.clock).await?;
        let address = listener.address()?;
        let address = address.trim_start_matches("http://").parse().context("the API's address")?;
        let traces = Traces::default();
        let telemetry = Telemetry { role: Role::Dev, traces: &traces, notices: None };
        let (ports, life) = (&pipeline.ports, &pipeline.life);
        parts::start_api(&config, ports, &pipeline.clock, listener, life, life.stop.clone(), &telemetry);
        Ok(Self { address, tasks: life.tasks.clone() })
    }

    /// Asks for each `requests` times. The jobs wait in the queue.
    pub(super) async fn ask(&self, requests: usize) -> anyhow::Result<Answered> {
        let health = self.rate("GET /healthz", "", CONNECTIONS, requests).await?;
        let single = self.rate("POST /jobs", r#"{"name":"hello"}"#, CONNECTIONS, requests).await?;
        let jobs = vec![r#"{"name":"hello"}"#; BULK].join(",");
        let many = requests.div_ceil(BULK);
        let bulk =
            self.rate("POST /api/v1/jobs:bulk", &format!(r#"{{"jobs":[{jobs}]}}"#), 1, many).await? * BULK as f64;
        Ok(Answered { health, single, bulk })
    }

    /// How many jobs [`Server::ask`] leaves in the queue.
    pub(super) fn jobs(requests: usize) -> usize {
        requests + requests.div_ceil(BULK) * BULK
    }

    async fn rate(&self, what: &str, body: &str, connections: usize, requests: usize) -> anyhow::Result<f64> {
        let request = Arc::new(format!(
            "{what} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ));
        let next = Arc::new(AtomicUsize::new(0));
        let mut sockets = Vec::new();
        for _ in 0..connections {
            let socket = TcpStream::connect(self.address).await?;
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        let began = Instant::now();
        let askers: Vec<_> = sockets
            .into_iter()
            .map(|mut socket| {
                let (next, request) = (next.clone(), request.clone());
                self.tasks.spawn(async move {
                    let mut buffer = Vec::with_capacity(16 * 1024);
                    while next.fetch_add(1, Ordering::Relaxed) < requests {
                        socket.write_all(request.as_bytes()).await?;
                        let status = read_answer(&mut socket, &mut buffer).await?;
                        ensure!(
                            (200..300).contains(&status),
                            "the API answered {status}: {}",
                            String::from_utf8_lossy(&buffer)
                        );
                    }
                    Ok(())
                })
            })
            .collect();
        for asker in askers {
            asker.await??;
        }
        Ok(requests as f64 / began.elapsed().as_secs_f64())
    }
}

/// Reads one answer whose length is told, and returns its status.
async fn read_answer(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    loop {
        if socket.read_buf(buffer).await? == 0 {
            bail!("the API closed the connection");
        }
        if let Some((status, length)) = parsed(buffer)?
            && buffer.len() >= length
        {
            return Ok(status);
        }
    }
}

/// The status of an answer, and the length of all of it, once its head is there.
fn parsed(answer: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end]).context("the head of an answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("an answer without a status")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some((status, end + 4 + length.context("an answer without a length")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        assert_eq!(parsed(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let head = b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\nx: y\r\n\r\n";
        assert_eq!(parsed(head).unwrap(), Some((503, head.len() + 7)));
        assert!(parsed(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "it could not be known where it ends");
    }
}
