//! The inputs of jobs: uploaded once, found by their digests.

use std::io;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use super::problem::ApiError;
use super::query::{Params, Segment};
use super::state::Api;
use crate::artifacts::{ArtifactErrorKind, input_key, use_input};
use crate::domain::{ContentDigest, InputFile};
use crate::wire::{FieldProblem, InputView, SubmitJob};

fn digest(segment: &Segment) -> Result<ContentDigest, ApiError> {
    segment.0.parse().map_err(|error| ApiError::bad_request("invalid_path", format!("{:?} {error}", segment.0)))
}

fn too_large(api: &Api) -> ApiError {
    let most = api.settings.max_input_bytes;
    let detail = format!("an input may have {most} bytes; send less, or raise artifacts.max_input_bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// `GET` and `HEAD /api/v1/inputs/{sha256}`: whether a content is there. If so, it counts as used from now on. With
/// `size`, whether one of that size could be uploaded.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    segment: Segment,
    mut params: Params,
) -> Result<Response, ApiError> {
    let sha256 = digest(&segment)?;
    let size = params.number("size", 0, u64::MAX)?;
    params.done()?;
    if size.is_some_and(|size| size > api.settings.max_input_bytes) {
        return Err(too_large(&api));
    }
    match use_input(api.files()?, &sha256, api.clock.now()).await? {
        Some(size) => Ok(axum::Json(InputView { sha256, size }).into_response()),
        None => {
            let detail = format!("no content with the SHA-256 {sha256} was uploaded, or it has expired");
            Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_input", detail))
        }
    }
}

/// `PUT /api/v1/inputs/{sha256}`: keeps a content. To repeat it changes nothing.
pub(super) async fn put(State(api): State<Arc<Api>>, segment: Segment, request: Request) -> Result<Response, ApiError> {
    let sha256 = digest(&segment)?;
    let most = api.settings.max_input_bytes;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most) {
        return Err(too_large(&api));
    }
    let patience = api.settings.idle_timeout;
    let body = request.into_body().into_data_stream();
    // The most is checked as it comes: a body need not announce its length.
    let pieces = stream::try_unfold((body, 0u64), move |(mut body, mut size)| async move {
        let next = tokio::time::timeout(patience, body.next()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let Some(piece) = next.transpose().map_err(io::Error::other)? else { return Ok(None) };
        size += piece.len() as u64;
        if size > most {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(Some((piece.to_vec(), (body, size))))
    });
    let stored = api.files()?.put(&input_key(&sha256), pieces.boxed(), Some(&sha256)).await;
    let stored = stored.map_err(|error| match error.kind {
        ArtifactErrorKind::Mismatch => ApiError::new(StatusCode::CONFLICT, "digest_mismatch", error.to_string()),
        ArtifactErrorKind::Source if error.source_kind() == Some(io::ErrorKind::FileTooLarge) => too_large(&api),
        ArtifactErrorKind::Source if error.source_kind() == Some(io::ErrorKind::TimedOut) => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not come in time")
        }
        ArtifactErrorKind::Source => ApiError::bad_request("broken_body", format!("the body broke off: {error}")),
        ArtifactErrorKind::Missing | ArtifactErrorKind::Unavailable => ApiError::from(error),
    })?;
    let view = InputView { sha256, size: stored.size };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

/// Looks for the inputs that a job names, and notes their sizes.
///
/// # Errors
/// 503 when the store can't be asked.
pub(super) async fn find(api: &Api, job: &mut SubmitJob, place: &str) -> Result<Vec<FieldProblem>, ApiError> {
    let mut problems = Vec::new();
    for (i, InputFile { sha256, size, .. }) in job.inputs.iter_mut().enumerate() {
        match use_input(api.files()?, sha256, api.clock.now()).await? {
            Some(found) => *size = found,
            None => problems.push(FieldProblem {
                pointer: format!("{place}/inputs/{i}/sha256"),
                detail: "no such content was uploaded: PUT /api/v1/inputs/{sha256} first".to_owned(),
            }),
        }
    }
    Ok(problems)
}
