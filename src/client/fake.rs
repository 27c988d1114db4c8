//! A server with scripted answers for tests, over real sockets: one answer for each request, in order.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Client, Secret};

/// Accepts connections, answers from its script, and remembers the requests. It ends when it is dropped.
pub(crate) struct FakeServer {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

/// The bytes of one answer. The server closes the connection after them.
pub(crate) type CannedResponse = Vec<u8>;

/// An answer with a JSON body.
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

/// An event stream. Each event has its `type` as its name.
pub(crate) fn events(events: &[Value]) -> CannedResponse {
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hello\n\n".to_owned();
    for event in events {
        text.push_str(&format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()));
    }
    text.into_bytes()
}

/// An answer of any type, with its length.
pub(crate) fn answer(status: u16, kind: &str, body: &str) -> CannedResponse {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

impl FakeServer {
    /// Starts the server on a port of the system's choice.
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

    /// A client of this server without a token.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address, None).unwrap()
    }

    /// A client of this server with a token.
    pub(crate) fn client_with(&self, token: &str) -> Client {
        Client::new(&self.address, Some(Secret::new(token))).unwrap()
    }

    /// The URL of this server.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All requests so far, head and body.
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
