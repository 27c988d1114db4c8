//! Decides who may use the API: finds out who the caller is ([`super::caller`]), and keeps web pages in a browser on this
//! machine from using it in the user's name.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::caller::Caller;
use super::connection_limit::OnlyProbes;
use super::health;
use super::host::Host;
use super::openapi;
use super::page;
use super::problem::ApiError;
use super::session;
use super::state::Api;
use crate::wire::SignedInBy;

/// Checks whether the API may listen on `address`. Off loopback it needs a token, or `insecure`.
///
/// # Errors
/// A message that tells people what to do.
pub fn check_bind(address: SocketAddr, has_token: bool, insecure: bool) -> Result<(), String> {
    if address.ip().to_canonical().is_loopback() || has_token || insecure {
        return Ok(());
    }
    Err(format!(
        "others can reach {address}, and no token is set: set JOBBER_TOKEN, listen on 127.0.0.1, or allow everybody in with --insecure"
    ))
}

/// The state of [`guard`].
#[derive(Clone)]
pub(super) struct AuthState {
    pub(super) api: Arc<Api>,
    /// Whether only this machine can reach the listener.
    pub(super) loopback: bool,
}

/// Middleware: refuses requests that are not allowed, and passes on the others.
pub(super) async fn guard(State(guard): State<AuthState>, mut request: Request, next: Next) -> Response {
    if request.extensions().get::<OnlyProbes>().is_some() && !health::is_probe(request.uri().path()) {
        let detail = "too many connections are being answered; try again, or raise serve.max_connections";
        return ApiError::busy("too_many_connections", detail).into_response();
    }
    let host = match Host::admit(&request, guard.loopback, &guard.api.settings.allowed_hosts) {
        Ok(host) => host,
        Err(error) => return error.into_response(),
    };
    let path = request.uri().path();
    let caller = Caller::of(&guard.api, request.headers());
    if !request.method().is_safe() {
        let host = host.as_ref().map(|host| host.text.as_str());
        // A browser adds its cookie by itself, whichever page asks. So only this server's own page may act by it.
        let may_be_forged = caller.signed_in_by == Some(SignedInBy::Cookie) || path == session::PATH;
        let is_foreign =
            if may_be_forged { !is_own(request.headers(), host) } else { is_foreign(request.headers(), host) };
        if is_foreign {
            let detail = "only a page of this server may do this from a browser, and other programs with a token";
            return ApiError::new(StatusCode::FORBIDDEN, "cross_site", detail).into_response();
        }
    }
    if !is_open(path)
        && let Err(refused) = caller.check(request.method(), path)
    {
        return refused.into_response();
    }
    // Fields of the document are named after what it describes.
    let is_description = path == openapi::PATH;
    request.extensions_mut().insert(caller);
    let answer = next.run(request).await;
    if is_description { answer } else { caller.shown(answer).await }
}

/// Whether a path answers without a token: it shows no data.
fn is_open(path: &str) -> bool {
    health::is_probe(path) || page::is_of_page(path) || path == session::PATH
}

/// Whether a browser sent the request for a page of this server. Programs other than browsers send neither header.
fn is_own(headers: &HeaderMap, host: Option<&str>) -> bool {
    match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => headers.contains_key(header::ORIGIN) && is_origin_own(headers, host),
    }
}

/// Whether a browser sent the request for a page of another site. Programs other than browsers send neither header.
fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    headers.contains_key(header::ORIGIN) && !is_origin_own(headers, host)
}

fn is_origin_own(headers: &HeaderMap, host: Option<&str>) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let authority = origin.and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_needs_a_token_or_an_open_door() {
        let at = |text: &str| text.parse().unwrap();
        assert!(check_bind(at("127.0.0.1:3000"), false, false).is_ok());
        assert!(check_bind(at("[::1]:3000"), false, false).is_ok());
        assert!(check_bind(at("0.0.0.0:3000"), false, false).unwrap_err().contains("JOBBER_TOKEN"));
        assert!(check_bind(at("[::]:3000"), false, false).is_err());
        assert!(check_bind(at("192.168.1.2:3000"), true, false).is_ok());
        assert!(check_bind(at("0.0.0.0:3000"), false, true).is_ok());
    }

    #[test]
    fn pages_of_other_sites_are_foreign() {
        let check = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            is_foreign(&headers, Some("localhost:3000"))
        };
        assert!(!is_foreign(&HeaderMap::new(), Some("localhost:3000")));
        assert!(check("sec-fetch-site", "cross-site"));
        assert!(check("sec-fetch-site", "same-site"));
        assert!(!check("sec-fetch-site", "same-origin"));
        assert!(check("origin", "http://evil.example"));
        assert!(check("origin", "http://localhost:8080"));
        assert!(check("origin", "null"));
        assert!(!check("origin", "http://localhost:3000"));
    }

    #[test]
    fn with_a_cookie_only_the_own_page_may_act() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_own(&headers.collect(), Some("localhost:3000"))
        };
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(check(&[("origin", "http://localhost:3000")]) && check(&[("origin", "https://localhost:3000")]));
        assert!(!check(&[]), "a browser says where a request comes from");
        assert!(!check(&[("sec-fetch-site", "none")]) && !check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("origin", "http://localhost:3000")]));
        assert!(!check(&[("origin", "http://localhost:8080")]) && !check(&[("origin", "null")]));
    }
}
