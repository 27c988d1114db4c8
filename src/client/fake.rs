//! A server that says what a test tells it to, over real sockets: one scripted answer for each request, in order.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Client, Secret};

/// Accepts, answers, remembers; ends when it is dropped.
pub(crate) struct FakeServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

/// Bytes to answer with, after which the connection is closed.
pub(crate) type CannedResponse = Vec<u8>;

/// A JSON answer.
pub(crate) fn json(status: u16, body: &(impl Serialize + ?Sized)) -> CannedResponse {
    answer(status, "application/json", &serde_json::to_string(body).unwrap())
}

/// An error as the API writes it.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> CannedResponse {
    let body = serde_json::json!({
        "type": format!("/problems/{code}"), "title": code, "status": status, "detail": detail, "code": code,
    });
    answer(status, "application/problem+json", &body.to_string())
}

/// Events, each with its `type` as its name.
pub(crate) fn events(events: &[Value]) -> CannedResponse {
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\n".to_owned();
    for event in events {
        text.push_str(&format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
    }
    text.into_bytes()
}

/// Any answer with a length.
pub(crate) fn answer(status: u16, kind: &str, body: &str) -> CannedResponse {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

impl FakeServer {
    /// Listens on a port of the system's choice.
    pub(crate) async fn start(answers: Vec<CannedResponse>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let (seen, token) = (requests.clone(), stop.clone());
        TaskTracker::new().spawn(async move {
            token
                .run_until_cancelled(async move {
                    for answer in answers {
                        let (mut socket, _) = listener.accept().await.unwrap();
                        let request = read_request(&mut socket).await;
                        seen.lock().unwrap().push(request);
                        socket.write_all(&answer).await.unwrap();
                        socket.shutdown().await.unwrap();
                    }
                })
                .await;
        });
        Self { address, requests, _stop: stop.drop_guard() }
    }

    /// A client without a token.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address, None).unwrap()
    }

    /// A client with a token.
    pub(crate) fn client_with(&self, token: &str) -> Client {
        Client::new(&self.address, Some(Secret::new(token))).unwrap()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Everything that was asked, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "the client hung up");
    }
}
