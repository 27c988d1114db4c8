//! A receiver of webhooks that answers as a test says, and remembers what it got.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::eventually;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// How it was answered.
    pub status: u16,
}

impl Delivery {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// How requests are answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Seen {
    deliveries: Vec<Delivery>,
    answer: Option<Answer>,
}

/// The running receiver.
pub struct Receiver {
    url: String,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::listen("127.0.0.1:0").await
    }

    /// The same at this address.
    pub async fn listen(address: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let app = Router::new().fallback(take).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, server }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Answers everything so from now on.
    pub fn answer(&self, status: u16, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.seen.lock().unwrap().answer = Some(Answer { status, headers });
    }

    /// What came so far.
    pub fn all(&self) -> Vec<Delivery> {
        self.seen.lock().unwrap().deliveries.clone()
    }

    /// What it has taken, once there are so many.
    pub async fn taken(&self, count: usize) -> Vec<Delivery> {
        eventually(&format!("{count} deliveries to {}", self.url), async || {
            let taken: Vec<_> = self.all().into_iter().filter(|delivery| delivery.status < 300).collect();
            (taken.len() >= count).then_some(taken)
        })
        .await
    }

    /// What came, once there are so many.
    pub async fn tried(&self, count: usize) -> Vec<Delivery> {
        eventually(&format!("{count} tries at {}", self.url), async || {
            let all = self.all();
            (all.len() >= count).then_some(all)
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(seen): State<Arc<Mutex<Seen>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut seen = seen.lock().unwrap();
    let answer = seen.answer.clone().unwrap_or(Answer { status: 200, headers: Vec::new() });
    let path = uri.path().to_owned();
    seen.deliveries.push(Delivery { method, path, headers, body: body.to_vec(), status: answer.status });
    let mut response = StatusCode::from_u16(answer.status).unwrap().into_response();
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
