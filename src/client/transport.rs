//! Sends requests: what goes with each of them, and how answers become values or errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::{Certificate, Method, RequestBuilder, Response, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, ClientError, ClientErrorKind, DEFAULT_SERVER};
use crate::wire::Problem;

const CONNECT: Duration = Duration::from_secs(5);
/// How long the server may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(60);
/// The longest answer that the client reads, in bytes: far more than the server sends.
const MAX_BODY: usize = 256 * 1024 * 1024;

impl Client {
    pub(super) fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &format!("api/v1/{path}"))
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).timeout(ANSWER);
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    pub(super) fn keyed(&self, request: RequestBuilder, key: Option<&str>) -> Result<RequestBuilder, ClientError> {
        match key {
            None => Ok(request),
            Some(key) if (1..=256).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => {
                Ok(request.header("idempotency-key", key))
            }
            Some(key) => Err(ClientError::new(
                ClientErrorKind::Rejected,
                format!("the idempotency key {key:?} is not usable: it must be 1 to 256 printable ASCII characters"),
            )),
        }
    }

    pub(super) async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.send(request).await?;
        serde_json::from_slice(&body).map_err(|e| self.no_jobber("its answer can't be read").caused_by(e))
    }

    /// Sends the request and reads the whole answer. A status other than success becomes an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, ClientError> {
        let response = request.send().await.map_err(|e| self.lost(e))?;
        let status = response.status();
        let is_problem = content_type(&response).starts_with("application/problem+json");
        let body = self.read_all(response).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => ClientError::refused(problem),
            _ => self.no_jobber(&format!("it answered {status}")),
        })
    }

    pub(super) async fn read_all(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.lost(e))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_BODY {
                return Err(self.no_jobber("its answer has no end"));
            }
        }
        Ok(body)
    }

    /// Opens an event stream, which may last for any time.
    pub(super) async fn open_stream(
        &self,
        path: &str,
        query: &impl Serialize,
        last_event_id: Option<&str>,
    ) -> Result<BoxStream<'static, Result<Vec<u8>, ClientError>>, ClientError> {
        let mut request = self.api(Method::GET, path).query(query).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = self.open(request).await?;
        if !content_type(&response).starts_with("text/event-stream") {
            return Err(self.no_jobber("it sent no event stream"));
        }
        let client = self.clone();
        let pieces = response.bytes_stream();
        Ok(pieces.map(move |piece| piece.map(Into::into).map_err(|e| client.lost(e))).boxed())
    }

    /// Sends the request and answers when its answer begins, whose body may take any time. A status other than success
    /// becomes an error.
    pub(super) async fn open(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        const FOR_EVER: Duration = Duration::from_secs(100 * 366 * 86_400);
        let sent = tokio::time::timeout(ANSWER, request.timeout(FOR_EVER).send()).await;
        let response = match sent {
            Ok(response) => response.map_err(|e| self.lost(e))?,
            Err(_) => return Err(self.silent()),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let kind = content_type(&response);
        let body = self.read_all(response).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if kind.starts_with("application/problem+json") => ClientError::refused(problem),
            _ => self.no_jobber(&format!("it answered {status}")),
        })
    }

    pub(super) fn lost(&self, error: reqwest::Error) -> ClientError {
        if error.is_timeout() && !error.is_connect() {
            return self.silent().caused_by(error);
        }
        let at = self.server();
        let message = if error.is_connect() {
            format!("couldn't reach a jobber server at {at}")
        } else {
            format!("lost the connection to the jobber server at {at}")
        };
        let hint = if self.base.scheme() == "https" {
            "check --server or JOBBER_SERVER; if its certificate comes from an authority of your own, name that with --ca \
             or JOBBER_CA"
                .to_owned()
        } else if at == DEFAULT_SERVER {
            "start it with `jobber dev`, or point to another one with --server or JOBBER_SERVER".to_owned()
        } else {
            "check --server or JOBBER_SERVER, or start one on this machine with `jobber dev`".to_owned()
        };
        ClientError::new(ClientErrorKind::Unreachable, message).with_hint(hint).caused_by(error)
    }

    pub(super) fn silent(&self) -> ClientError {
        ClientError::new(
            ClientErrorKind::Unreachable,
            format!("the jobber server at {} does not answer", self.server()),
        )
    }

    pub(super) fn no_jobber(&self, why: &str) -> ClientError {
        ClientError::new(
            ClientErrorKind::Server,
            format!("{} does not answer as a jobber server: {why}", self.server()),
        )
        .with_hint("check the address (--server, JOBBER_SERVER) and that both ends have the same version")
    }
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(header::CONTENT_TYPE);
    value.and_then(|v| v.to_str().ok()).unwrap_or("").to_ascii_lowercase()
}

/// Reads the certificates of authorities. Without a text, those of this system count: `None`.
pub(super) fn authorities(pem: Option<&[u8]>) -> Result<Option<Vec<Certificate>>, ClientError> {
    let Some(pem) = pem else { return Ok(None) };
    let unusable = || {
        ClientError::new(ClientErrorKind::Rejected, "the file of authorities holds no certificate in PEM")
            .with_hint("correct --ca or JOBBER_CA")
    };
    match Certificate::from_pem_bundle(pem) {
        Ok(found) if found.is_empty() => Err(unusable()),
        Ok(found) => Ok(Some(found)),
        Err(error) => Err(unusable().caused_by(error)),
    }
}

pub(super) fn build(base: &Url, authorities: Option<Vec<Certificate>>) -> reqwest::Result<reqwest::Client> {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(|ip: IpAddr| SocketAddr::new(ip, 0));
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("jobber/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        // The server never redirects. A redirect would carry the token elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        // A static binary can't count on the system's resolver for this name.
        .resolve_to_addrs("localhost", &loopback);
    if base.scheme() == "http" {
        // Without this the client loads the system's certificates all the same, and fails if there are none.
        let unused = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(unused);
    } else if let Some(authorities) = authorities {
        builder = builder.tls_certs_only(authorities);
    }
    let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']);
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// Percent-encodes all but the unreserved characters of RFC 3986, so that any text is one segment of a path.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
