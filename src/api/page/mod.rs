//! Serves the page that people see, below `/ui/`. It holds no data, so it needs no token: what it shows it asks the
//! API for.

mod assets;

use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use sha2::{Digest, Sha256};

use super::problem::{self, ApiError};
use super::state::Api;
use assets::Asset;

/// Where the page begins.
pub(super) const START: &str = "/ui/";
/// What every path shows that is no file: the page itself knows which of its views is meant.
const INDEX: &str = "index.html";

/// What a browser may do with the page: run and load only what comes from here, and make no code or markup of texts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Modules import each other by fixed names, so a browser must ask whether a file is still the same.
    (header::CACHE_CONTROL, "no-cache"),
    (header::VARY, "accept-encoding"),
];

/// Whether a path belongs to the page, or leads there.
pub(super) fn is_of_page(path: &str) -> bool {
    matches!(path, "/" | "/ui") || path.starts_with(START)
}

/// `/`: leads browsers to the page. Other clients find nothing here.
pub(super) async fn root(method: Method, headers: HeaderMap, uri: Uri) -> Response {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if method.is_safe() && accepted.any(|types| types.contains("text/html")) {
        return Redirect::temporary(START).into_response();
    }
    problem::no_route(uri).await.into_response()
}

/// `GET /ui`.
pub(super) async fn start() -> Redirect {
    Redirect::permanent(START)
}

/// `GET /ui/...`: a file of the page, or `index.html` where there is no such file.
pub(super) async fn asset(State(api): State<Arc<Api>>, headers: HeaderMap, uri: Uri) -> Result<Response, ApiError> {
    let name = uri.path().strip_prefix(START).filter(|name| is_plain(name)).unwrap_or(INDEX);
    if let Some(folder) = &api.settings.ui_dir {
        let (name, bytes) = match read(folder, name).await {
            Ok(bytes) => (name, bytes),
            Err(_) => (INDEX, read(folder, INDEX).await.map_err(|e| ApiError::internal(e.to_string()))?),
        };
        let tag = entity_tag(&bytes);
        return Ok(answer(&headers, name, bytes.into(), &tag, false));
    }
    let found = Asset::find(name).map(|asset| (name, asset));
    let (name, asset) = found
        .or_else(|| Some((INDEX, Asset::find(INDEX)?)))
        .ok_or_else(|| ApiError::internal("the page has no index.html"))?;
    Ok(match asset.gzip().filter(|_| accepts_gzip(&headers)) {
        Some((bytes, tag)) => answer(&headers, name, bytes.clone(), tag, true),
        None => answer(&headers, name, Bytes::from_static(asset.bytes), &asset.tag, false),
    })
}

/// Whether a path below `/ui/` can name a file: words of letters, digits and `.`, `_`, `-` that begin with no dot. So no
/// path leads out of the directory of the page.
fn is_plain(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    name.split('/').all(|word| !word.is_empty() && !word.starts_with('.') && word.bytes().all(is_allowed))
}

async fn read(folder: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let path = folder.join(name);
    tokio::fs::read(&path).await.map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn entity_tag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// The content type by the end of a name. `None` for what the page does not consist of.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        _ => return None,
    })
}

fn answer(asked: &HeaderMap, name: &str, bytes: Bytes, tag: &str, gzip: bool) -> Response {
    let is_known = has_tag(asked, tag);
    let mut response = Response::builder().header(header::ETAG, tag);
    for (header, value) in HEADERS {
        response = response.header(header, value);
    }
    if is_known {
        response = response.status(StatusCode::NOT_MODIFIED);
    } else {
        response = response.header(header::CONTENT_TYPE, content_type(name).unwrap_or("application/octet-stream"));
        if gzip {
            response = response.header(header::CONTENT_ENCODING, "gzip");
        }
    }
    let body = if is_known { Body::empty() } else { Body::from(bytes) };
    response.body(body).expect("the headers are made of fixed texts and digests")
}

/// Whether the client has the file with this tag already.
fn has_tag(asked: &HeaderMap, tag: &str) -> bool {
    let given = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|tags| tags.split(',')).map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

fn accepts_gzip(asked: &HeaderMap) -> bool {
    let given = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|codings| codings.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name == "*");
        let is_refused = |weight: &str| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        is_gzip && !parts.any(is_refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_page() {
        for name in ["app.js", "lib/view.js", "a-b/c_d.1.css"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "..", "../x", "lib/../../x", "/etc/passwd", "lib//x", ".git/config", "%2e%2e/x", "a\\b", "a\0"]
        {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn a_client_says_whether_it_unpacks() {
        let accepts = |text: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]))
        };
        assert!(accepts("gzip, deflate, br") && accepts("br;q=1.0, GZIP;q=0.5") && accepts("*"));
        assert!(!accepts("gzip;q=0") && !accepts("br") && !accepts("identity") && !accepts_gzip(&HeaderMap::new()));
    }
}
