//! Tells who sent a request and what that allows: an operator everything, a viewer to look, a caller without a token
//! nothing.
//!
//! With `serve.view_hides_data` a viewer is not shown what jobs are given and what they write. The guard sees to that
//! for every route, so that none can be forgotten:
//!
//! | route | what a viewer does not get |
//! |---|---|
//! | `/api/v1/jobs/{id}` | `arguments`, `data`, `result`, and of each attempt `stdout`, `stderr`, `result`, `files`, the registers of a crash |
//! | `/api/v1/jobs/{id}/logs`, `.../stdout`, `.../stderr`, `.../files`, `.../inputs` | everything: 403 `hidden` |
//! | `/api/v1/schedules`, `/api/v1/schedules/{id}` | `arguments` and `data` of the job |
//! | `/api/v1/groups/{group}/results` | `result` of each line |
//! | every other route that answers with JSON | fields of these names, at any depth |
//!
//! Lists, statistics and the streams `/api/v1/events` and `/api/v1/overview` hold none of this. Error texts are shown,
//! and those may quote what a job wrote.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::problem::ApiError;
use super::session_cookie;
use super::state::{Api, Token};
use crate::domain::Timestamp;
use crate::wire::{Access, Session, SignedInBy};

/// The fields that hold what a job is given and what it writes.
const HIDDEN: [&str; 7] = ["arguments", "data", "result", "stdout", "stderr", "files", "registers"];
/// What a viewer may send though it is no GET: it changes nothing.
const TRIALS: [&str; 2] = ["/api/v1/categories:test", "/api/v1/categories:calibrate"];

/// The sender of a request. Handlers take it as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    /// What it may do.
    pub(super) access: Access,
    /// How it has shown that.
    pub(super) signed_in_by: Option<SignedInBy>,
    /// When its cookie ends.
    pub(super) expires_at: Option<Timestamp>,
    /// Whether it is shown no data, arguments, results and output.
    pub(super) hides_data: bool,
}

impl Caller {
    /// A caller that has shown no token, though the server wants one.
    pub(super) const STRANGER: Self =
        Self { access: Access::None, signed_in_by: None, expires_at: None, hides_data: false };

    /// Finds out who sent these headers. A token in `Authorization` counts before a cookie, even if it is wrong.
    pub(super) fn of(api: &Api, headers: &HeaderMap) -> Self {
        if api.settings.token.is_none() {
            return Self::known(api, Access::Operator, SignedInBy::Open, None);
        }
        if let Some(given) = bearer(headers) {
            return match access_of(api, given) {
                Access::None => Self::STRANGER,
                access => Self::known(api, access, SignedInBy::Token, None),
            };
        }
        let now = api.clock.now();
        let cookie_of = |(access, role, token): (Access, &str, &Token)| {
            let expires_at = session_cookie::find(headers, role, token, now)?;
            Some(Self::known(api, access, SignedInBy::Cookie, Some(expires_at)))
        };
        tokens(api).find_map(cookie_of).unwrap_or(Self::STRANGER)
    }

    /// A caller that has just shown `given` as its token, together with the cookie that stands for it. `None` when that
    /// is no token of this server.
    pub(super) fn sign_in(api: &Api, given: &[u8], secure: bool) -> Option<(Self, String)> {
        let (access, role, token) = tokens(api).filter(|(_, _, token)| token.is(given)).last()?;
        let now = api.clock.now();
        let seconds = (now + api.settings.session_ttl).as_millis() / 1000;
        let expires_at = Timestamp::from_millis(seconds * 1000);
        let cookie = session_cookie::issue(role, token, now, expires_at, secure);
        Some((Self::known(api, access, SignedInBy::Cookie, Some(expires_at)), cookie))
    }

    fn known(api: &Api, access: Access, by: SignedInBy, expires_at: Option<Timestamp>) -> Self {
        let hides_data = access == Access::Viewer && api.settings.view_hides_data;
        Self { access, signed_in_by: Some(by), expires_at, hides_data }
    }

    /// Whether it may send such a request.
    ///
    /// # Errors
    /// 401 without a token, 403 when a viewer would act or would see what is hidden.
    pub(super) fn check(&self, method: &Method, path: &str) -> Result<(), ApiError> {
        use axum::http::StatusCode;
        match self.access {
            Access::Operator => Ok(()),
            Access::None => {
                let detail = "send the server's token as `Authorization: Bearer ...`, or sign in on its page, /ui/";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail))
            }
            Access::Viewer if !method.is_safe() && !TRIALS.contains(&path) => {
                let detail = "the viewers' token lets you look, not act; ask an operator, or sign in as one";
                Err(ApiError::new(StatusCode::FORBIDDEN, "read_only", detail))
            }
            Access::Viewer if self.hides_data && is_output(path) => {
                let detail = "this server shows viewers no output of jobs (serve.view_hides_data)";
                Err(ApiError::new(StatusCode::FORBIDDEN, "hidden", detail))
            }
            Access::Viewer => Ok(()),
        }
    }

    /// The answer without what the caller is not shown.
    pub(super) async fn shown(&self, response: Response) -> Response {
        let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if !self.hides_data || !is_json {
            return response;
        }
        let (mut head, body) = response.into_parts();
        let read = match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => serde_json::from_slice::<Value>(&bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(mut value) => {
                hide(&mut value);
                head.headers.remove(header::CONTENT_LENGTH);
                Response::from_parts(head, Body::from(value.to_string()))
            }
            Err(error) => ApiError::internal(error).into_response(),
        }
    }

    /// The caller, as it is told itself.
    pub(super) fn session(&self, api: &Api) -> Session {
        Session {
            role: self.access,
            signed_in_by: self.signed_in_by,
            version: api.settings.version.clone(),
            expires_at: self.expires_at,
            hides_data: self.hides_data,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let known = parts.extensions.get::<Self>().copied();
        known.ok_or_else(|| ApiError::internal("the guard has not looked at this request"))
    }
}

/// What the holder of `given` may do.
fn access_of(api: &Api, given: &[u8]) -> Access {
    // Compares with every token, so that the time it takes does not tell which is there.
    tokens(api).filter(|(_, _, token)| token.is(given)).last().map_or(Access::None, |(access, _, _)| access)
}

/// The tokens of the server: what each allows, the name of its holders in cookies, and the token.
fn tokens(api: &Api) -> impl Iterator<Item = (Access, &'static str, &Token)> {
    let operators = api.settings.token.iter().map(|token| (Access::Operator, "operator", token));
    operators.chain(api.settings.view_token.iter().map(|token| (Access::Viewer, "viewer", token)))
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Whether a path gives what a job was given, or has written.
fn is_output(path: &str) -> bool {
    let below = path.strip_prefix("/api/v1/jobs/").and_then(|rest| rest.split_once('/'));
    below.is_some_and(|(_, below)| {
        let last = below.rsplit('/').next();
        matches!(last, Some("logs" | "stdout" | "stderr"))
            || below.split('/').any(|part| ["files", "inputs"].contains(&part))
    })
}

/// Takes the hidden fields out, at any depth.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !HIDDEN.contains(&name.as_str()));
            fields.values_mut().for_each(hide);
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_viewer_looks_and_tries_out_but_does_not_act() {
        let viewer = |hides_data| Caller { access: Access::Viewer, hides_data, ..Caller::STRANGER };
        let may = |hides_data, method: Method, path: &str| {
            viewer(hides_data).check(&method, path).map_err(|error| error.status.as_u16())
        };
        assert_eq!(may(false, Method::GET, "/api/v1/jobs/a/logs"), Ok(()));
        assert_eq!(may(false, Method::HEAD, "/api/v1/jobs"), Ok(()));
        assert_eq!(may(false, Method::POST, "/api/v1/categories:test"), Ok(()));
        for (method, path) in
            [(Method::POST, "/api/v1/jobs"), (Method::DELETE, "/api/v1/jobs/a"), (Method::PUT, "/api/v1/schedules/a")]
        {
            assert_eq!(may(false, method, path), Err(403), "{path}");
        }
        for below in ["logs", "attempts/1/stdout", "attempts/1/stderr", "files", "attempts/1/files/a/b", "inputs/a/b"] {
            let path = &format!("/api/v1/jobs/a/{below}");
            assert_eq!(may(true, Method::GET, path), Err(403), "{path}");
        }
        for path in ["/api/v1/jobs/logs", "/api/v1/jobs", "/api/v1/jobs/a/explain", "/api/v1/events"] {
            assert_eq!(may(true, Method::GET, path), Ok(()), "{path}");
        }
    }

    #[test]
    fn hidden_fields_are_taken_out_wherever_they_are() {
        let mut answer = json!({"id": "a", "arguments": ["x"], "attempts": [{"report": {"stdout": {}, "exit_code": 1}}],
            "items": [{"job": {"data": {"result": 1}, "name": "n"}}]});
        hide(&mut answer);
        let left = json!({"id": "a", "attempts": [{"report": {"exit_code": 1}}], "items": [{"job": {"name": "n"}}]});
        assert_eq!(answer, left);
    }
}
