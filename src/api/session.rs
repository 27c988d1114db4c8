//! Signs browsers in and out, and tells any caller who it is to the server.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::body::SmallJson;
use super::caller::Caller;
use super::problem::ApiError;
use super::state::Api;
use crate::wire::{SignIn, SignedInBy};

/// Where all this happens. It answers without a token.
pub(super) const PATH: &str = "/api/v1/session";

/// `GET /api/v1/session`: who the caller is.
pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    answer(&api, &caller, None)
}

/// `POST /api/v1/session`: gives a browser that sends a token a cookie that stands for it.
pub(super) async fn sign_in(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    SmallJson(SignIn { token }): SmallJson<SignIn>,
) -> Result<Response, ApiError> {
    if caller.signed_in_by == Some(SignedInBy::Open) {
        return Ok(answer(&api, &caller, None));
    }
    match Caller::sign_in(&api, token.reveal().as_bytes(), is_secure(&api, &headers)) {
        Some((caller, cookie)) => {
            tracing::info!(role = ?caller.access, "a browser has signed in");
            Ok(answer(&api, &caller, Some(cookie)))
        }
        None => {
            tracing::warn!("a sign-in with a wrong token was refused");
            api.wrong_sign_ins.delay().await;
            let detail = "this is no token of this server; its operator has it: JOBBER_TOKEN or serve.token";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail))
        }
    }
}

/// `DELETE /api/v1/session`: takes the cookie away.
pub(super) async fn sign_out(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let left = if caller.signed_in_by == Some(SignedInBy::Open) { caller } else { Caller::STRANGER };
    answer(&api, &left, Some(super::session_cookie::clear()))
}

/// Whether the browser speaks TLS, with this server or with a proxy before it.
fn is_secure(api: &Api, headers: &HeaderMap) -> bool {
    api.settings.certificate.is_some()
        || headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

fn answer(api: &Api, caller: &Caller, cookie: Option<String>) -> Response {
    let mut response = ([(header::CACHE_CONTROL, "no-store")], axum::Json(caller.session(api))).into_response();
    if let Some(cookie) = cookie {
        let value = cookie.parse().expect("a cookie is made of visible ASCII");
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
