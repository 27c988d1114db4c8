//! Reads and parses request bodies. An error names the place in the body that is wrong.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_path_to_error::Segment;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::body_room::{BodyRoom, weight};
use super::problem::ApiError;
use super::state::Api;
use crate::domain::body::check_readable;
use crate::wire::FieldProblem;

/// A JSON object. A plain struct would also accept a list of its fields' values.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A JSON body, with the bytes from which it was read. A handler keeps it for as long as it uses
/// the value, because it holds the room for that.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let (bytes, coming) = read(request, api, api.settings.body_limit).await?;
        drop(coming);
        let room = if bytes.len() > BodyRoom::SMALL { api.body_room.reserve(weight(&bytes))? } else { None };
        Ok(Self { value: parse(&bytes)?, bytes, _room: room })
    }
}

/// A JSON body of at most 4 KiB: for clients that have not shown a token yet, and so must not take up room.
pub(super) struct SmallJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for SmallJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        const LIMIT: usize = 4096;
        check_content_type(request.headers())?;
        let (bytes, _room) = read(request, api, LIMIT).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A JSON body that a client may leave out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Api>> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let typed = check_content_type(request.headers());
        let (bytes, _room) = read(request, api, api.settings.body_limit).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        typed?;
        Ok(Self(parse(&bytes)?))
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let essence = given.as_deref().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let given = given.map_or(String::new(), |g| format!(", not {g:?}"));
    let detail = format!("send the header `Content-Type: application/json`{given}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// Reads the bytes of a body, and takes the room for them.
async fn read(request: Request, api: &Api, limit: usize) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let too_large = || {
        let or_raise = if limit == api.settings.body_limit { ", or raise serve.body_limit" } else { "" };
        let detail = format!("the body is larger than {limit} bytes; send less{or_raise}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let headers = request.headers();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let waits = headers.contains_key(header::EXPECT);
    let mut pieces = request.into_body().into_data_stream();
    if announced.is_some_and(|length| length > limit as u64) {
        // A client that waits for permission to send gets its answer at once.
        if !waits {
            discard(pieces).await;
        }
        return Err(too_large());
    }
    let expected = announced.map_or(limit, |n| usize::try_from(n).unwrap_or(limit));
    let room = match api.body_room.reserve(expected) {
        Ok(room) => room,
        Err(busy) => {
            if !waits {
                discard(pieces).await;
            }
            return Err(busy);
        }
    };
    // The time for the whole body. A client that sends a byte now and then gets no more than that.
    let deadline = Instant::now() + 2 * api.settings.idle_timeout;
    let mut bytes = Vec::with_capacity(if announced.is_some() { expected.min(limit) } else { 0 });
    loop {
        let patience = deadline.min(Instant::now() + api.settings.idle_timeout);
        let piece = match tokio::time::timeout_at(patience, pieces.next()).await {
            Ok(None) => return Ok((bytes.into(), room)),
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(e))) => return Err(ApiError::bad_request("broken_body", format!("the body broke off: {e}"))),
            Err(_) => {
                let detail = "the body did not come in time";
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail));
            }
        };
        if bytes.len() + piece.len() > limit {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    discard(pieces).await;
    Err(too_large())
}

/// Reads on for a while and drops the data. A client that is still sending would not read the answer,
/// and the kernel resets a connection that is closed on unread data, so that the answer is lost.
async fn discard(mut pieces: BodyDataStream) {
    const AT_MOST: usize = 64 * 1024 * 1024;
    const FOR: Duration = Duration::from_secs(5);
    let mut read = 0;
    let drain = async {
        while let Some(Ok(piece)) = pieces.next().await {
            read += piece.len();
            if read > AT_MOST {
                return;
            }
        }
    };
    // A client that sends for longer than that gets the reset.
    let _ = tokio::time::timeout(FOR, drain).await;
}

/// Reads a JSON object.
///
/// # Errors
/// 400 with line and column when it is no JSON; 422 with a JSON pointer when it is not the JSON that was asked for.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Checks all of it first: the parts that are carried as text from here on are not parsed again.
    let error = match check_readable(bytes).and_then(|()| serde_json::from_slice(bytes)) {
        Ok(Object(value)) => return Ok(value),
        Err(e) => e,
    };
    if error.classify() != serde_json::error::Category::Data {
        let detail =
            if bytes.is_empty() { "the body is empty".to_owned() } else { format!("the body is not JSON: {error}") };
        return Err(ApiError::bad_request("invalid_json", detail));
    }
    // The path to the wrong field costs time, so a second pass finds it only after an error.
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let (pointer, message) = match serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) {
        Err(e) => (pointer(e.path()), e.inner().to_string()),
        Ok(_) => (String::new(), error.to_string()),
    };
    let detail = plain(message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before));
    Err(ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer, detail }]))
}

/// serde's message, with the expected type in a client's words.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 4] = [
        ("u8", "a whole number from 0 to 255"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number that is not negative"),
        ("a sequence", "a list"),
    ];
    let parts = message.rsplit_once(", expected ");
    let word = parts.and_then(|(found, expected)| {
        WORDS.iter().find(|(rust, _)| *rust == expected).map(|(_, word)| format!("{found}, expected {word}"))
    });
    word.unwrap_or_else(|| message.to_owned())
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Refuses a text that a later part (a system call, a store) would cut short.
pub(super) fn check_text(pointer: &str, text: &str, longest: usize) -> Result<(), ApiError> {
    let detail = if text.contains('\0') {
        "must not contain a NUL character".to_owned()
    } else if text.len() > longest {
        format!("must be at most {longest} bytes")
    } else {
        return Ok(());
    };
    Err(ApiError::invalid_fields("invalid_body", vec![FieldProblem { pointer: pointer.to_owned(), detail }]))
}
