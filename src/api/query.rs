//! Reads query strings and headers. Refuses unknown parameters, because ignoring one would drop a
//! condition without a word.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::problem::ApiError;

/// The parameters of a request, taken out one by one.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|e| ApiError::bad_request("invalid_query", e.body_text()))?;
        match pairs.iter().find(|(_, value)| value.contains('\0')) {
            Some((key, _)) => Err(invalid(key, "must not contain a NUL character")),
            None => Ok(Self(pairs)),
        }
    }
}

fn invalid(key: &str, problem: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request("invalid_query", format!("{key}: {problem}"))
}

impl Params {
    /// All values of a parameter that may be repeated or hold a list with commas.
    pub(super) fn list<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Result<Vec<T>, ApiError> {
        let (taken, rest) = std::mem::take(&mut self.0).into_iter().partition(|(k, _)| k == key);
        self.0 = rest;
        let taken: Vec<(String, String)> = taken;
        taken
            .iter()
            .flat_map(|(_, value)| value.split(','))
            .map(|word| word.trim().parse().map_err(|e| invalid(key, e)))
            .collect()
    }

    /// Takes a parameter as text.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, ApiError> {
        let Some(at) = self.0.iter().position(|(k, _)| k == key) else { return Ok(None) };
        let (_, value) = self.0.remove(at);
        match self.0.iter().any(|(k, _)| k == key) {
            true => Err(invalid(key, "is given twice")),
            false => Ok(Some(value)),
        }
    }

    /// Takes a parameter and parses it with `read`.
    pub(super) fn with<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ApiError> {
        self.text(key)?.map(|value| read(&value).map_err(|e| invalid(key, e))).transpose()
    }

    /// Takes a whole number from `least` to `most`.
    pub(super) fn number(&mut self, key: &str, least: u64, most: u64) -> Result<Option<u64>, ApiError> {
        self.with(key, |value| match value.parse::<u64>() {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(format!("{value:?} is not a whole number from {least} to {most}")),
        })
    }

    /// Takes `true` or `false`.
    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        self.with(key, |value| match value {
            "true" | "1" | "" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("{value:?} is neither true nor false")),
        })
    }

    /// Refuses the parameters that the handler has not taken out.
    pub(super) fn done(self) -> Result<(), ApiError> {
        match self.0.first() {
            Some((key, _)) => {
                Err(ApiError::bad_request("invalid_query", format!("there is no parameter {key:?} here")))
            }
            None => Ok(()),
        }
    }
}

/// The variable segment of a path.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request("invalid_path", e.body_text()))?;
        Ok(Self(text))
    }
}

impl Segment {
    /// Splits the segment at its last colon, into an id and a verb. Ids may contain colons themselves.
    ///
    /// # Errors
    /// 404 when there is no verb.
    pub(super) fn verb(&self) -> Result<(&str, &str), ApiError> {
        self.0.rsplit_once(':').ok_or_else(|| {
            let detail = format!("say what to do, such as {}:cancel", self.0);
            ApiError::new(axum::http::StatusCode::NOT_FOUND, "unknown_verb", detail)
        })
    }
}

/// Reads a header as text.
///
/// # Errors
/// 400 when it is given twice or not visible ASCII.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        (Ok(_), Some(_)) => Err(ApiError::bad_request("invalid_header", format!("{name} is given twice"))),
        (Err(_), _) => Err(ApiError::bad_request("invalid_header", format!("{name} must be visible ASCII"))),
    }
}
