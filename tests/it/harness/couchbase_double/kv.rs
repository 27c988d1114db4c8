//! Commands on whole documents.

use std::time::Duration;

use super::connection::Session;
use super::documents::{Bucket, Changed, Document, Durable, LARGEST, Place, Semantics};
use super::subdoc;
use super::wire::{self, Frames, Request, Response, datatype, feature, opcode, status, u32_at, u64_at};

/// The longest names of documents, in the default collection and in others.
const LONGEST_KEY: usize = 250;
const LONGEST_KEY_IN_COLLECTION: usize = 246;
/// The version that a locked document shows to everybody else.
const HIDDEN_CAS: u64 = u64::MAX;
/// How long a lock holds, and at most.
const LOCK_DEFAULT: u32 = 15;
const LOCK_LONGEST: u32 = 30;

/// Answers a request about a document of the bucket.
pub fn answer(session: &Session, bucket: &mut Bucket, request: &Request) -> Response {
    match prepare(session, bucket, request) {
        Ok((place, frames)) => execute(session, bucket, request, &place, frames),
        Err(status) => refuse(session, bucket, status),
    }
}

/// A refusal, with the body that the protocol promises for it.
pub fn refuse(session: &Session, bucket: &Bucket, status: u16) -> Response {
    let extended = session.has(feature::XERROR);
    let (status, value) = match status {
        status::UNKNOWN_COLLECTION | status::UNKNOWN_SCOPE => {
            (status, format!("{{\"manifest_uid\":\"{:x}\"}}", bucket.manifest.uid).into_bytes())
        }
        // Who does not understand the newer words hears an older one.
        status::LOCKED | status::NOT_LOCKED if !extended => (status::TEMPORARY_FAILURE, Vec::new()),
        status => (status, Vec::new()),
    };
    let datatype = session.datatype(!value.is_empty(), false);
    Response { status, value, datatype, ..Response::default() }
}

/// The document's name without its collection, for who looks at requests from outside.
pub fn logical_key<'a>(session: &Session, request: &'a Request) -> &'a [u8] {
    if session.has(feature::COLLECTIONS) {
        wire::take_collection(&request.key).map_or(&request.key, |(_, key)| key)
    } else {
        &request.key
    }
}

fn prepare(session: &Session, bucket: &mut Bucket, request: &Request) -> Result<(Place, Frames), u16> {
    let frames = wire::frames(&request.frames)?;
    let (collection, key) = if session.has(feature::COLLECTIONS) {
        wire::take_collection(&request.key).ok_or(status::INVALID_ARGUMENTS)?
    } else {
        (0, request.key.as_slice())
    };
    let longest = if collection == 0 { LONGEST_KEY } else { LONGEST_KEY_IN_COLLECTION };
    if key.is_empty() || key.len() > longest {
        return Err(status::INVALID_ARGUMENTS);
    }
    let allowed = session.datatypes();
    if request.datatype & !allowed != 0 {
        return Err(status::INVALID_ARGUMENTS);
    }
    if bucket.vbuckets.get(usize::from(request.vbucket)) != Some(&session.node) {
        return Err(status::NOT_MY_VBUCKET);
    }
    if bucket.manifest.by_id(collection).is_none() {
        return Err(status::UNKNOWN_COLLECTION);
    }
    let mutates = !matches!(
        request.opcode,
        opcode::GET | opcode::GET_LOCKED | opcode::UNLOCK | opcode::GET_META | opcode::SUBDOC_MULTI_LOOKUP
    );
    if frames.durability.is_some() && !mutates {
        return Err(status::INVALID_ARGUMENTS);
    }
    if matches!(request.opcode, opcode::SET | opcode::ADD | opcode::REPLACE | opcode::SUBDOC_MULTI_MUTATION) {
        bucket.asked.insert(frames.durability);
    }
    match (frames.durability, bucket.durable) {
        (None, _) | (_, Durable::All) => {}
        (Some(level), Durable::InMemory) if level > 1 => return Err(status::DURABILITY_INVALID_LEVEL),
        (_, Durable::InMemory) => {}
        (_, Durable::Nothing) => return Err(status::DURABILITY_IMPOSSIBLE),
    }
    Ok((Place { collection, vbucket: request.vbucket, key: key.to_vec() }, frames))
}

fn execute(session: &Session, bucket: &mut Bucket, request: &Request, place: &Place, frames: Frames) -> Response {
    let extras = request.extras.len();
    let bare = request.value.is_empty();
    let result = match (request.opcode, extras) {
        (opcode::GET, 0) if bare => get(session, bucket, place),
        (opcode::GET_META, 0 | 1) if bare => get_meta(bucket, place, request),
        (opcode::GET_AND_TOUCH, 4) if bare => get_and_touch(session, bucket, place, request),
        (opcode::GET_LOCKED, 0 | 4) if bare => get_locked(session, bucket, place, request),
        (opcode::UNLOCK, 0) if bare => unlock(bucket, place, request),
        (opcode::TOUCH, 4) if bare => touch(bucket, place, request),
        (opcode::SET, 8) => store(session, bucket, place, request, frames, Semantics::Upsert),
        (opcode::ADD, 8) if request.cas == 0 => store(session, bucket, place, request, frames, Semantics::Insert),
        (opcode::REPLACE, 8) => store(session, bucket, place, request, frames, Semantics::Replace),
        (opcode::APPEND | opcode::PREPEND, 0) => join(session, bucket, place, request),
        (opcode::DELETE, 0) if bare => delete(session, bucket, place, request),
        (opcode::INCREMENT | opcode::DECREMENT, 20) if bare => count(session, bucket, place, request, frames),
        (opcode::SUBDOC_MULTI_LOOKUP, _) => Ok(subdoc::multi_lookup(session, bucket, place, request)),
        (opcode::SUBDOC_MULTI_MUTATION, _) => Ok(subdoc::multi_mutation(session, bucket, place, request, frames)),
        (code, _) if subdoc::is_single(code) => Ok(subdoc::single(session, bucket, place, request, frames)),
        _ => Err(status::INVALID_ARGUMENTS),
    };
    match result {
        Ok(response) if response.status == status::LOCKED => refuse(session, bucket, status::LOCKED),
        Ok(response) => response,
        Err(status) => refuse(session, bucket, status),
    }
}

/// The version as a reader may see it.
pub fn shown_cas(bucket: &Bucket, document: &Document) -> u64 {
    if bucket.is_locked(document) { HIDDEN_CAS } else { document.cas }
}

/// Success of a change, with its token where the client asked for tokens.
pub fn changed(session: &Session, changed: Changed) -> Response {
    let extras = if session.has(feature::MUTATION_TOKENS) {
        [changed.vbucket_uuid.to_be_bytes(), changed.seqno.to_be_bytes()].concat()
    } else {
        Vec::new()
    };
    Response { cas: changed.cas, extras, ..Response::default() }
}

fn shown(session: &Session, document: &Document, cas: u64) -> Response {
    let compress = document.compressed && session.has(feature::SNAPPY);
    let value = if compress {
        snap::raw::Encoder::new().compress_vec(&document.value).expect("short enough")
    } else {
        document.value.clone()
    };
    let extras = document.flags.to_be_bytes().to_vec();
    Response { cas, extras, value, datatype: session.datatype(document.json, compress), ..Response::default() }
}

fn get(session: &Session, bucket: &mut Bucket, place: &Place) -> Result<Response, u16> {
    let document = bucket.get(place).ok_or(status::KEY_NOT_FOUND)?.clone();
    Ok(shown(session, &document, shown_cas(bucket, &document)))
}

fn get_meta(bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    let document = bucket.with_tombstone(place).ok_or(status::KEY_NOT_FOUND)?.clone();
    let mut extras = Vec::new();
    extras.extend(u32::from(document.deleted).to_be_bytes());
    extras.extend(document.flags.to_be_bytes());
    extras.extend((document.expiry as u32).to_be_bytes());
    extras.extend(document.seqno.to_be_bytes());
    match request.extras.as_slice() {
        [2] => extras.push(if document.json { datatype::JSON } else { 0 }),
        [] | [1] => {}
        _ => return Err(status::INVALID_ARGUMENTS),
    }
    Ok(Response { cas: shown_cas(bucket, &document), extras, ..Response::default() })
}

fn get_and_touch(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    bucket.may_write(place, Semantics::Replace, 0)?;
    let expiry = bucket.expiry(place.collection, u32_at(&request.extras, 0));
    let changed = bucket.touch(place, expiry);
    let document = bucket.get(place).ok_or(status::KEY_NOT_FOUND)?;
    Ok(shown(session, document, changed.cas))
}

fn touch(bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    bucket.may_write(place, Semantics::Replace, 0)?;
    let expiry = bucket.expiry(place.collection, u32_at(&request.extras, 0));
    Ok(Response { cas: bucket.touch(place, expiry).cas, ..Response::default() })
}

fn get_locked(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    let document = bucket.get(place).ok_or(status::KEY_NOT_FOUND)?.clone();
    if bucket.is_locked(&document) {
        return Err(status::LOCKED);
    }
    let asked = if request.extras.is_empty() { 0 } else { u32_at(&request.extras, 0) };
    let seconds = if (1..=LOCK_LONGEST).contains(&asked) { asked } else { LOCK_DEFAULT };
    let cas = bucket.lock(place, Duration::from_secs(u64::from(seconds)));
    Ok(shown(session, &document, cas))
}

fn unlock(bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    if request.cas == 0 {
        return Err(status::INVALID_ARGUMENTS);
    }
    let document = bucket.get(place).ok_or(status::KEY_NOT_FOUND)?.clone();
    if !bucket.is_locked(&document) {
        return Err(status::NOT_LOCKED);
    }
    if document.cas != request.cas {
        return Err(status::LOCKED);
    }
    bucket.unlock(place);
    Ok(Response::default())
}

fn store(
    session: &Session,
    bucket: &mut Bucket,
    place: &Place,
    request: &Request,
    frames: Frames,
    semantics: Semantics,
) -> Result<Response, u16> {
    if request.datatype & datatype::XATTR != 0 {
        return Err(status::INVALID_ARGUMENTS);
    }
    let compressed = request.datatype & datatype::SNAPPY != 0;
    let value = if compressed {
        snap::raw::Decoder::new().decompress_vec(&request.value).map_err(|_| status::INVALID_ARGUMENTS)?
    } else {
        request.value.clone()
    };
    if value.len() > LARGEST {
        return Err(status::TOO_BIG);
    }
    bucket.may_write(place, semantics, request.cas)?;
    let old = bucket.get(place).cloned();
    let expiry = match &old {
        Some(old) if frames.preserve_expiry => old.expiry,
        _ => bucket.expiry(place.collection, u32_at(&request.extras, 4)),
    };
    let document = Document {
        json: Document::is_json(&value),
        value,
        compressed,
        flags: u32_at(&request.extras, 0),
        expiry,
        // A new body leaves the attributes as they are.
        xattrs: old.map(|old| old.xattrs).unwrap_or_default(),
        ..Document::default()
    };
    Ok(changed(session, bucket.write(place, |_, _| document)))
}

fn join(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    let old = bucket.get(place).cloned().ok_or(status::NOT_STORED)?;
    bucket.may_write(place, Semantics::Replace, request.cas)?;
    let added = if request.datatype & datatype::SNAPPY != 0 {
        snap::raw::Decoder::new().decompress_vec(&request.value).map_err(|_| status::INVALID_ARGUMENTS)?
    } else {
        request.value.clone()
    };
    let value = match request.opcode {
        opcode::APPEND => [old.value.as_slice(), &added].concat(),
        _ => [added.as_slice(), &old.value].concat(),
    };
    if value.len() > LARGEST {
        return Err(status::TOO_BIG);
    }
    let document = Document { json: Document::is_json(&value), value, compressed: false, ..old };
    Ok(changed(session, bucket.write(place, |_, _| document)))
}

fn delete(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request) -> Result<Response, u16> {
    bucket.may_write(place, Semantics::Replace, request.cas)?;
    Ok(changed(session, bucket.remove(place)))
}

fn count(
    session: &Session,
    bucket: &mut Bucket,
    place: &Place,
    request: &Request,
    frames: Frames,
) -> Result<Response, u16> {
    let (delta, initial) = (u64_at(&request.extras, 0), u64_at(&request.extras, 8));
    let asked = u32_at(&request.extras, 16);
    let old = bucket.get(place).cloned();
    let value = match &old {
        None if asked == u32::MAX => return Err(status::KEY_NOT_FOUND),
        None => initial,
        Some(old) => {
            let text = std::str::from_utf8(&old.value).map_err(|_| status::BAD_DELTA)?;
            let now: u64 = text.parse().map_err(|_| status::BAD_DELTA)?;
            if request.opcode == opcode::INCREMENT { now.wrapping_add(delta) } else { now.saturating_sub(delta) }
        }
    };
    bucket.may_write(place, Semantics::Upsert, request.cas)?;
    let expiry = match &old {
        Some(old) if frames.preserve_expiry || asked == 0 => old.expiry,
        _ => bucket.expiry(place.collection, asked),
    };
    let document = Document {
        value: value.to_string().into_bytes(),
        json: true,
        compressed: false,
        expiry,
        ..old.unwrap_or_default()
    };
    let response = changed(session, bucket.write(place, |_, _| document));
    Ok(Response { value: value.to_be_bytes().to_vec(), ..response })
}
