//! The services over HTTP: who may ask, what goes wrong, and which service answers.

mod management;
mod query;
mod search;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::faults::{Fault, Service};
use super::{Shared, User};
pub use query::Index as QueryIndex;
pub use search::Index as SearchIndex;

/// A request, as the services need it.
pub struct Call {
    pub node: usize,
    pub user: User,
    pub method: Method,
    /// Its parts, decoded.
    pub path: Vec<String>,
    /// The form in the body, or the query behind the path.
    pub form: Vec<(String, String)>,
    pub body: Bytes,
}

/// Serves a connection until one side ends it.
pub async fn serve<S>(shared: Arc<Shared>, service: Service, node: usize, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Cancelled by a fault that drops the connection.
    let cut = CancellationToken::new();
    let ended = cut.clone();
    let app = Router::new().fallback(move |request: Request| {
        let (shared, cut) = (Arc::clone(&shared), cut.clone());
        async move { meet(&shared, service, node, request, &cut).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    ended.run_until_cancelled(connection).await;
}

/// Answers a request, unless a fault says otherwise.
async fn meet(shared: &Shared, service: Service, node: usize, request: Request, cut: &CancellationToken) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 64 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let text = format!("{} {}", head.uri, String::from_utf8_lossy(&body));
    let fault = {
        let mut state = shared.state();
        state.count(service, None);
        state.faults.of_http(service, &text)
    };
    let answered = || answer(shared, service, node, &head.method, &head.uri.to_string(), &head.headers, body);
    let refusal = |status, body: String| {
        let status = StatusCode::from_u16(status).expect("a status of HTTP");
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    match fault {
        None => answered(),
        Some(Fault::Refuse(status)) => refusal(status, String::new()),
        Some(Fault::RefuseWith(status, body)) => refusal(status, body),
        Some(Fault::DoAndRefuse(status)) => {
            answered();
            refusal(status, String::new())
        }
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            answered()
        }
        Some(Fault::Ignore) => std::future::pending().await,
        Some(Fault::DoAndIgnore) => {
            answered();
            std::future::pending().await
        }
        Some(done @ (Fault::Disconnect | Fault::DoAndDisconnect)) => {
            if done == Fault::DoAndDisconnect {
                answered();
            }
            cut.cancel();
            std::future::pending().await
        }
    }
}

fn answer(
    shared: &Shared,
    service: Service,
    node: usize,
    method: &Method,
    uri: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    let Some(user) = user(shared, headers) else {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"Couchbase\"")]).into_response();
    };
    let url = reqwest::Url::parse(&format!("http://double{uri}")).expect("hyper has read it");
    let decoded = |part: &str| {
        let spaced = part.replace('+', "%2B");
        form(&spaced).into_iter().next().map_or_else(String::new, |(name, _)| name)
    };
    let path = url.path_segments().into_iter().flatten().map(decoded).filter(|part| !part.is_empty()).collect();
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
    let form = if is_form { form(&String::from_utf8_lossy(&body)) } else { form(url.query().unwrap_or_default()) };
    let call = Call { node, user, method: method.clone(), path, form, body };
    match service {
        Service::Management => management::answer(shared, &call),
        Service::Query => query::answer(shared, &call),
        Service::Search => search::answer(shared, &call),
        Service::KeyValue => unreachable!("it has no HTTP"),
    }
}

fn form(text: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://double/?{text}")).expect("a query may hold anything");
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// The user whose name and password came along.
fn user(shared: &Shared, headers: &HeaderMap) -> Option<User> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    let state = shared.state();
    state.users.get(name).filter(|user| user.password == password).cloned()
}

impl Call {
    /// A field of the form.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The parts of the path, for matching.
    pub fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// An answer in JSON.
pub fn json(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status of HTTP");
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(body.to_string())).into_response()
}
