//! A server that speaks OpenAI's protocol for vectors, and misbehaves as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long the vectors are, unless it lies about that.
pub const DIMENSION: usize = 8;

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Answers well.
    Well,
    /// Answers this status, with these headers and this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Never answers.
    Hang,
    /// Breaks the connection off.
    Die,
    /// Answers 200 with this body.
    Say(String),
    /// Answers with vectors of another length.
    Short,
}

#[derive(Default)]
struct Seen {
    /// How the next requests are treated; when it is empty, well.
    manners: VecDeque<Manner>,
    requests: Vec<(HeaderMap, Value)>,
    /// How often each text was answered as it should be.
    embedded: BTreeMap<String, u32>,
    is_dead: bool,
    running: usize,
    most_running: usize,
}

/// The running server.
pub struct Embeddings {
    url: String,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

impl Embeddings {
    pub async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (address, server) = Self::listen("127.0.0.1:0".parse().unwrap(), &seen).await;
        Self { url: format!("http://{address}/v1"), address, seen, server }
    }

    async fn listen(address: SocketAddr, seen: &Arc<Mutex<Seen>>) -> (SocketAddr, JoinHandle<()>) {
        let app = Router::new().route("/v1/embeddings", post(answer)).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next requests are treated so, one after the other.
    pub fn next(&self, manners: impl IntoIterator<Item = Manner>) {
        self.seen.lock().unwrap().manners.extend(manners);
    }

    /// All requests so far: their headers and bodies.
    pub fn requests(&self) -> Vec<(HeaderMap, Value)> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// How many texts each request had.
    pub fn batches(&self) -> Vec<usize> {
        self.requests().iter().map(|(_, body)| body["input"].as_array().unwrap().len()).collect()
    }

    /// How often each text was answered as it should be.
    pub fn embedded(&self) -> BTreeMap<String, u32> {
        self.seen.lock().unwrap().embedded.clone()
    }

    /// How many of the next requests are still to be treated badly.
    pub fn troubles(&self) -> usize {
        self.seen.lock().unwrap().manners.len()
    }

    /// The most requests that ran at the same time.
    pub fn most_running(&self) -> usize {
        self.seen.lock().unwrap().most_running
    }

    /// Stops listening; connections are refused from now on.
    pub async fn die(mut self) -> String {
        self.fall().await;
        self.url.clone()
    }

    /// Stops listening and breaks off the connections that there are.
    pub async fn fall(&mut self) {
        self.seen.lock().unwrap().is_dead = true;
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    /// Listens again at the same address.
    pub async fn rise(&mut self) {
        self.seen.lock().unwrap().is_dead = false;
        self.server = Self::listen(self.address, &self.seen).await.1;
    }
}

impl Drop for Embeddings {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(seen): State<Arc<Mutex<Seen>>>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let manner = {
        let mut seen = seen.lock().unwrap();
        seen.requests.push((headers, body.clone()));
        seen.running += 1;
        seen.most_running = seen.most_running.max(seen.running);
        if seen.is_dead { Manner::Die } else { seen.manners.pop_front().unwrap_or(Manner::Well) }
    };
    // Long enough that requests at the same time meet.
    tokio::time::sleep(Duration::from_millis(30)).await;
    seen.lock().unwrap().running -= 1;
    match manner {
        Manner::Well => {
            let texts = body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
            let mut seen = seen.lock().unwrap();
            texts.for_each(|text| *seen.embedded.entry(text).or_insert(0) += 1);
            well(&body, 0).into_response()
        }
        Manner::Short => well(&body, 1).into_response(),
        Manner::Status(status, headers, text) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), text).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Manner::Hang => std::future::pending().await,
        Manner::Die => {
            let broken = futures_util::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("it dies"))]);
            axum::body::Body::from_stream(broken).into_response()
        }
        Manner::Say(text) => text.into_response(),
    }
}

/// Vectors that depend on the text alone, last text first; so much shorter than they should be.
fn well(body: &Value, shorter: usize) -> axum::Json<Value> {
    let texts = body["input"].as_array().unwrap();
    let length = body["dimensions"].as_u64().map_or(DIMENSION, |n| usize::try_from(n).unwrap()) - shorter;
    let entry = |(index, text): (usize, &Value)| {
        let text = text.as_str().unwrap();
        let vector: Vec<f32> =
            (0..length).map(|at| 0.1 + text.bytes().skip(at).step_by(length).map(f32::from).sum::<f32>()).collect();
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = texts.iter().enumerate().map(entry).rev().collect();
    axum::Json(json!({ "object": "list", "data": data, "model": body["model"], "usage": { "total_tokens": 1 } }))
}
