//! The files that the attempts of a job have left: a list, and each as a download. Likewise what a job was given.
//!
//! Jobs are not trusted, and neither are their files: a browser must not take one for a page of this server. So only
//! pictures and plain text are shown in place, no type is guessed, and what is shown may do nothing.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;

use super::jobs::view::JobSnapshot;
use super::problem::ApiError;
use super::query::Segment;
use super::state::Api;
use crate::artifacts::{ArtifactError, ArtifactErrorKind, ArtifactStore, Content, file_key, input_key, is_picture};
use crate::domain::{AttemptNumber, InputFile, JobId, KeptFile};
use crate::wire::{FilesNote, JobFile, JobFiles, JobView};

/// What a browser may do with a file that it shows.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
/// What stands as it is in a part of a path and in the name of a download.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// A file that a path names: of one attempt, or of the last one that has it.
pub(super) struct FilePath {
    id: JobId,
    attempt: Option<u32>,
    name: String,
}

impl<S: Send + Sync> FromRequestParts<S> for FilePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(mut words) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request("invalid_path", e.body_text()))?;
        let mut take = |name: &str| {
            let at = words.iter().position(|(key, _)| key == name)?;
            Some(words.swap_remove(at).1)
        };
        let id = JobId::parse(&take("id").unwrap_or_default())?;
        let attempt = match take("n") {
            Some(text) => Some(text.parse().map_err(|_| unknown_file(&id, &text))?),
            None => None,
        };
        Ok(Self { id, attempt, name: take("path").unwrap_or_default() })
    }
}

fn unknown_file(id: &JobId, name: &str) -> ApiError {
    let detail = format!("job {id} has no such file as {name:?}; see GET /api/v1/jobs/{id}/files");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_file", detail)
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        match error.kind {
            ArtifactErrorKind::Missing => {
                let detail = "the file is not in the store any more: it has expired, or the store was changed";
                ApiError::new(StatusCode::NOT_FOUND, "unknown_file", detail)
            }
            _ => ApiError::unavailable("files_unavailable", &error),
        }
    }
}

impl Api {
    pub(super) fn files(&self) -> Result<&dyn ArtifactStore, ApiError> {
        let without = || ApiError::busy("files_unavailable", "this server has no store of files");
        self.settings.artifacts.as_deref().ok_or_else(without)
    }

    /// The job. When it has just ended, waits a moment for history to know its last files.
    async fn with_files(&self, id: &JobId) -> Result<JobSnapshot, ApiError> {
        const MOMENT: Duration = Duration::from_secs(2);
        let snapshot = self.brief_snapshot(id).await?;
        if snapshot.settled || snapshot.view.incomplete.is_some() {
            return Ok(snapshot);
        }
        let written = self.source.span().await?.last;
        self.folded(written, Instant::now() + MOMENT).await;
        self.brief_snapshot(&snapshot.pinned()).await
    }
}

/// `GET /api/v1/jobs/{id}/files`.
pub(super) async fn list(State(api): State<Arc<Api>>, segment: Segment) -> Result<Response, ApiError> {
    let id = JobId::parse(&segment.0)?;
    let view = api.with_files(&id).await?.view;
    let mut files = JobFiles::default();
    for attempt in &view.attempts {
        let Some(report) = &attempt.report else { continue };
        let number = attempt.number.0;
        files.items.extend(report.files.iter().map(|file| JobFile {
            attempt: number,
            url: url_of(&id, number, &file.name),
            file: file.clone(),
        }));
        files.notes.extend(report.files_note.iter().map(|note| FilesNote { attempt: number, note: note.clone() }));
    }
    Ok(axum::Json(files).into_response())
}

fn url_of(id: &JobId, attempt: u32, name: &str) -> String {
    let name: Vec<_> = name.split('/').map(|part| utf8_percent_encode(part, PLAIN).to_string()).collect();
    let id = utf8_percent_encode(id.as_str(), PLAIN);
    format!("/api/v1/jobs/{id}/attempts/{attempt}/files/{}", name.join("/"))
}

/// `GET /api/v1/jobs/{id}/attempts/{n}/files/{path}` and `GET /api/v1/jobs/{id}/files/{path}`: a file, or a part of it.
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    path: FilePath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let snapshot = api.with_files(&path.id).await?;
    let (attempt, file) = find(&snapshot.view, &path).ok_or_else(|| unknown_file(&path.id, &path.name))?;
    let key = file_key(&snapshot.own_id, snapshot.view.submitted_at, attempt, &file.name);
    let mut response = answer(&api, &key, &file, &headers).await?;
    response.headers_mut().insert("x-jobber-attempt", attempt.0.into());
    Ok(response)
}

/// `GET /api/v1/jobs/{id}/inputs/{path}`: what the job was given under this name.
pub(super) async fn download_input(
    State(api): State<Arc<Api>>,
    path: FilePath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let JobSnapshot { view, .. } = api.brief_snapshot(&path.id).await?;
    let Some(InputFile { name, sha256, size }) = view.options.inputs.into_iter().find(|input| input.name == path.name)
    else {
        let detail = format!("job {} has no input {:?}; see `options.inputs` of the job", path.id, path.name);
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_file", detail));
    };
    let file = KeptFile { name, size, content_type: "application/octet-stream".to_owned(), sha256 };
    answer(&api, &input_key(&file.sha256), &file, &headers).await
}

/// As much of a file as the client wants.
async fn answer(api: &Api, key: &str, file: &KeptFile, headers: &HeaderMap) -> Result<Response, ApiError> {
    let response = match wanted(headers, file) {
        Wanted::Nothing => StatusCode::NOT_MODIFIED.into_response(),
        Wanted::Whole => {
            let content = api.files()?.get(key, None).await?;
            let size = content.size;
            let mut whole = body(content).into_response();
            whole.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            whole
        }
        Wanted::Part(range) => part(api, key, file.size, range).await?,
        Wanted::Beyond => return Ok(beyond(file.size)),
    };
    Ok(described(response, file))
}

/// The file that the path names.
fn find(view: &JobView, path: &FilePath) -> Option<(AttemptNumber, KeptFile)> {
    let attempts = view.attempts.iter().rev();
    attempts.filter(|record| path.attempt.is_none_or(|wanted| record.number.0 == wanted)).find_map(|record| {
        let file = record.report.as_ref()?.files.iter().find(|file| file.name == path.name)?;
        Some((record.number, file.clone()))
    })
}

/// What a client wants of a file.
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// A part that the file does not have.
    Beyond,
    /// It has the file already.
    Nothing,
}

fn wanted(headers: &HeaderMap, file: &KeptFile) -> Wanted {
    let tag = tag_of(file);
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let mut known = text(header::IF_NONE_MATCH).into_iter().flat_map(|tags| tags.split(',')).map(str::trim);
    if known.any(|one| one == "*" || one.trim_start_matches("W/") == tag) {
        return Wanted::Nothing;
    }
    // A part of another content than the client has would be of no use to it.
    if text(header::IF_RANGE).is_some_and(|known| known != tag) {
        return Wanted::Whole;
    }
    match text(header::RANGE).and_then(|range| part_of(range, file.size)) {
        None => Wanted::Whole,
        Some(Ok(range)) => Wanted::Part(range),
        Some(Err(())) => Wanted::Beyond,
    }
}

fn tag_of(file: &KeptFile) -> String {
    format!("\"{}\"", file.sha256)
}

/// Says that a file of this size has no such part.
fn beyond(size: u64) -> Response {
    let detail = format!("the file has {size} bytes");
    let mut refused = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "invalid_range", detail).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        refused.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    refused
}

/// The answer with all that is to be said of the file.
fn described(mut response: Response, file: &KeptFile) -> Response {
    // The type of a text says how it is read: without that browsers guess.
    let content_type = match file.content_type.as_str() {
        kind if kind.starts_with("text/") => format!("{kind}; charset=utf-8"),
        kind => kind.to_owned(),
    };
    let is_shown = is_picture(&file.content_type) || file.content_type == "text/plain";
    let name = file.name.rsplit('/').next().unwrap_or(&file.name);
    let how = if is_shown { "inline" } else { "attachment" };
    let disposition = format!("{how}; filename*=UTF-8''{}", utf8_percent_encode(name, PLAIN));
    let tag = tag_of(file);
    for (name, value) in [
        (header::CONTENT_TYPE, content_type.as_str()),
        (header::ETAG, &tag),
        (header::CONTENT_DISPOSITION, &disposition),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn part(api: &Api, key: &str, size: u64, range: Range<u64>) -> Result<Response, ApiError> {
    let content = api.files()?.get(key, Some(range.clone())).await?;
    let mut response = (StatusCode::PARTIAL_CONTENT, body(content)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if let Ok(value) = HeaderValue::from_str(&format!("bytes {}-{}/{size}", range.start, range.end - 1)) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

/// A broken connection ends before all bytes have come, which the client notices by the length.
fn body(content: Content) -> Body {
    Body::from_stream(content.pieces.inspect_err(|error| tracing::warn!(%error, "a download of a file broke off")))
}

/// The bytes that a `Range` asks for; `None` when it is to be ignored: another unit, several parts, or no range at all. An
/// error when there are no such bytes.
fn part_of(range: &str, size: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(part_of("bytes=0-3", 10), Some(Ok(0..4)));
        assert_eq!(part_of("bytes=8-20", 10), Some(Ok(8..10)));
        assert_eq!(part_of("bytes=4-", 10), Some(Ok(4..10)));
        assert_eq!(part_of("bytes=-3", 10), Some(Ok(7..10)));
        assert_eq!(part_of("bytes=-30", 10), Some(Ok(0..10)));
        for nowhere in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(part_of(nowhere, 10), Some(Err(())), "{nowhere}");
        }
        assert_eq!(part_of("bytes=0-", 0), Some(Err(())));
        for other in ["lines=0-3", "bytes=3-1", "bytes=a-b", "bytes=0-1,3-4", "bytes"] {
            assert_eq!(part_of(other, 10), None, "{other}");
        }
    }

    #[test]
    fn a_name_in_a_url_is_one_path() {
        let id = JobId::parse("repeat:x:1").unwrap();
        assert_eq!(url_of(&id, 2, "a b/ä?.png"), "/api/v1/jobs/repeat%3Ax%3A1/attempts/2/files/a%20b/%C3%A4%3F.png");
    }
}
