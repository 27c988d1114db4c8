//! Sub-document commands: what several operations on one document's body and attributes read or change at once.

mod edit;
mod path;
mod xattr;

use serde_json::{Map, Value};

use super::connection::Session;
use super::documents::{Bucket, Changed, Document, LARGEST, Place, Semantics};
use super::kv;
use super::wire::{Frames, Request, Response, feature, opcode, status, u32_at};
use edit::Spec;

/// Most operations of one command.
const MOST: usize = 16;

mod path_flag {
    pub const MAKE_PARENTS: u8 = 0x01;
    pub const XATTR: u8 = 0x04;
    pub const EXPAND_MACROS: u8 = 0x10;
}

mod doc_flag {
    pub const UPSERT: u8 = 0x01;
    pub const INSERT: u8 = 0x02;
    pub const ACCESS_DELETED: u8 = 0x04;
}

/// A command, taken apart.
struct Command {
    specs: Vec<Spec>,
    doc_flags: u8,
    /// Present only if the client sent one.
    expiry: Option<u32>,
}

/// Whether this is a sub-document command with one path.
pub fn is_single(code: u8) -> bool {
    (opcode::SUBDOC_GET..=opcode::SUBDOC_COUNTER).contains(&code) || code == opcode::SUBDOC_GET_COUNT
}

fn is_lookup(code: u8) -> bool {
    matches!(code, opcode::SUBDOC_GET | opcode::SUBDOC_EXISTS | opcode::SUBDOC_GET_COUNT)
}

/// The command with one path: the same as one with several, but its only status is the status of the whole.
pub fn single(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request, frames: Frames) -> Response {
    let Some(command) = take_single(request) else { return Response::status(status::INVALID_ARGUMENTS) };
    if let Err(status) = check(session, &command, is_lookup(request.opcode)) {
        return Response::status(status);
    }
    let mut response = if is_lookup(request.opcode) {
        look(session, bucket, place, &command)
    } else {
        change(session, bucket, place, &command, request.cas, frames)
    };
    match response.status {
        status::MULTI_PATH_FAILURE | status::SUCCESS if is_lookup(request.opcode) => {
            response.status = u16::from_be_bytes([response.value[0], response.value[1]]);
            response.value.drain(..6);
        }
        status::MULTI_PATH_FAILURE => {
            response.status = u16::from_be_bytes([response.value[1], response.value[2]]);
            response.value.clear();
        }
        status::SUCCESS if !response.value.is_empty() => {
            response.value.drain(..7);
        }
        _ => {}
    }
    response
}

pub fn multi_lookup(session: &Session, bucket: &mut Bucket, place: &Place, request: &Request) -> Response {
    let doc_flags = match request.extras.as_slice() {
        [] => 0,
        [flags] => *flags,
        _ => return Response::status(status::INVALID_ARGUMENTS),
    };
    let Some(specs) = take_specs(&request.value, false) else { return Response::status(status::INVALID_ARGUMENTS) };
    let command = Command { specs, doc_flags, expiry: None };
    if let Err(status) = check(session, &command, true) {
        return Response::status(status);
    }
    look(session, bucket, place, &command)
}

pub fn multi_mutation(
    session: &Session,
    bucket: &mut Bucket,
    place: &Place,
    request: &Request,
    frames: Frames,
) -> Response {
    let extras = request.extras.as_slice();
    let (expiry, doc_flags) = match extras.len() {
        0 => (None, 0),
        1 => (None, extras[0]),
        4 => (Some(u32_at(extras, 0)), 0),
        5 => (Some(u32_at(extras, 0)), extras[4]),
        _ => return Response::status(status::INVALID_ARGUMENTS),
    };
    let Some(specs) = take_specs(&request.value, true) else { return Response::status(status::INVALID_ARGUMENTS) };
    let command = Command { specs, doc_flags, expiry };
    if let Err(status) = check(session, &command, false) {
        return Response::status(status);
    }
    change(session, bucket, place, &command, request.cas, frames)
}

fn take_single(request: &Request) -> Option<Command> {
    let extras = request.extras.as_slice();
    let (expiry, doc_flags) = match extras.len() {
        3 => (None, 0),
        4 => (None, extras[3]),
        7 => (Some(u32_at(extras, 3)), 0),
        8 => (Some(u32_at(extras, 3)), extras[7]),
        _ => return None,
    };
    let length = usize::from(u16::from_be_bytes([extras[0], extras[1]]));
    let (path, value) = request.value.split_at_checked(length)?;
    let spec = spec(request.opcode, extras[2], path, value)?;
    Some(Command { specs: vec![spec], doc_flags, expiry })
}

fn take_specs(mut bytes: &[u8], with_value: bool) -> Option<Vec<Spec>> {
    let head = if with_value { 8 } else { 4 };
    let mut specs = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at_checked(head)?;
        let (path, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([header[2], header[3]])))?;
        let length = if with_value { u32_at(header, 4) as usize } else { 0 };
        let (value, rest) = rest.split_at_checked(length)?;
        specs.push(spec(header[0], header[1], path, value)?);
        bytes = rest;
    }
    Some(specs)
}

/// One operation; `None` if its flags are none that exist.
fn spec(opcode: u8, flags: u8, path: &[u8], value: &[u8]) -> Option<Spec> {
    use path_flag::{EXPAND_MACROS, MAKE_PARENTS, XATTR};
    if flags & !(MAKE_PARENTS | XATTR | EXPAND_MACROS) != 0 {
        return None;
    }
    let has = |flag| flags & flag != 0;
    Some(Spec {
        opcode,
        make_parents: has(MAKE_PARENTS),
        xattr: has(XATTR),
        expand: has(EXPAND_MACROS),
        path: path.to_vec(),
        value: value.to_vec(),
    })
}

/// What is wrong with a command before any document is looked at.
fn check(session: &Session, command: &Command, lookup: bool) -> Result<(), u16> {
    let Command { specs, doc_flags, .. } = command;
    if specs.is_empty() || specs.len() > MOST {
        return Err(status::INVALID_COMBO);
    }
    let known = if lookup { doc_flag::ACCESS_DELETED } else { doc_flag::UPSERT | doc_flag::INSERT };
    if doc_flags & !(known | doc_flag::ACCESS_DELETED) != 0
        || doc_flags & (doc_flag::UPSERT | doc_flag::INSERT) == doc_flag::UPSERT | doc_flag::INSERT
    {
        return Err(status::INVALID_ARGUMENTS);
    }
    if specs.windows(2).any(|pair| pair[1].xattr && !pair[0].xattr) {
        return Err(status::INVALID_XATTR_ORDER);
    }
    let whole = if lookup { &[opcode::GET][..] } else { &[opcode::SET, opcode::DELETE][..] };
    let mut names = Vec::new();
    for spec in specs {
        let fits = if lookup {
            is_lookup(spec.opcode)
        } else {
            is_single(spec.opcode) && !is_lookup(spec.opcode)
                || spec.opcode == opcode::SUBDOC_REPLACE_BODY_WITH_XATTR && spec.xattr
        };
        let whole = whole.contains(&spec.opcode) && spec.path.is_empty() && !spec.xattr;
        if !fits && !whole {
            return Err(status::INVALID_COMBO);
        }
        if spec.expand && !(spec.xattr || session.has(feature::SUBDOC_DOCUMENT_MACROS)) {
            return Err(status::XATTR_INVALID_FLAG_COMBO);
        }
        if spec.xattr {
            let name = xattr::name(&spec.path)?;
            if xattr::is_virtual(&name) {
                match name.as_str() {
                    _ if !lookup => return Err(status::XATTR_CANT_MODIFY_VATTR),
                    "$document" | "$vbucket" | "$XTOC" => {}
                    _ => return Err(status::XATTR_UNKNOWN_VATTR),
                }
            } else if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    // A command may touch one stored attribute, and any number of paths in it.
    if names.len() > 1 { Err(status::XATTR_INVALID_KEY_COMBO) } else { Ok(()) }
}

fn look(session: &Session, bucket: &mut Bucket, place: &Place, command: &Command) -> Response {
    let deleted_too = command.doc_flags & doc_flag::ACCESS_DELETED != 0;
    let Some(document) = bucket.with_tombstone(place).filter(|d| deleted_too || !d.deleted).cloned() else {
        return Response::status(status::KEY_NOT_FOUND);
    };
    let shown = xattr::virtual_attributes(place, &document);
    let stored = Value::Object(document.xattrs.clone());
    let body = document.as_json();
    let mut value = Vec::new();
    let mut failed = false;
    for spec in &command.specs {
        let found = if spec.opcode == opcode::GET {
            Ok(document.value.clone())
        } else if spec.xattr {
            edit::look(if spec.path.starts_with(b"$") { &shown } else { &stored }, spec)
        } else {
            body.as_ref().ok_or(status::NOT_JSON).and_then(|body| edit::look(body, spec))
        };
        failed |= found.is_err();
        let (status, found) = found.map_or_else(|status| (status, Vec::new()), |found| (status::SUCCESS, found));
        value.extend(status.to_be_bytes());
        value.extend((found.len() as u32).to_be_bytes());
        value.extend(found);
    }
    let status = match (failed, document.deleted) {
        (false, false) => status::SUCCESS,
        (true, false) => status::MULTI_PATH_FAILURE,
        (false, true) => status::SUCCESS_DELETED,
        (true, true) => status::MULTI_PATH_FAILURE_DELETED,
    };
    let cas = kv::shown_cas(bucket, &document);
    Response { status, cas, value, datatype: session.datatype(false, false), ..Response::default() }
}

/// What the operations made of a document.
struct Edited {
    body: Vec<u8>,
    xattrs: Map<String, Value>,
    removed: bool,
    /// The operation and what it returns.
    results: Vec<(u8, Vec<u8>)>,
}

fn change(
    session: &Session,
    bucket: &mut Bucket,
    place: &Place,
    command: &Command,
    cas: u64,
    frames: Frames,
) -> Response {
    let semantics = match command.doc_flags & (doc_flag::UPSERT | doc_flag::INSERT) {
        doc_flag::INSERT if cas != 0 => return Response::status(status::INVALID_ARGUMENTS),
        doc_flag::INSERT => Semantics::Insert,
        doc_flag::UPSERT => Semantics::Upsert,
        _ => Semantics::Replace,
    };
    if let Err(status) = bucket.may_write(place, semantics, cas) {
        return Response::status(status);
    }
    let old = bucket.get(place).cloned();
    let make_parents = semantics != Semantics::Replace;
    // The first time with a version that is not known yet, to see whether it can be done; then with the real one.
    let edited = match apply(old.as_ref(), &command.specs, make_parents, 0, 0) {
        Ok(edited) => edited,
        Err((index, failure)) => {
            let [high, low] = failure.to_be_bytes();
            let value = vec![index, high, low];
            return Response { status: status::MULTI_PATH_FAILURE, value, ..Response::default() };
        }
    };
    if edited.body.len() > LARGEST {
        return Response::status(status::TOO_BIG);
    }
    let changed = if edited.removed {
        bucket.remove(place)
    } else {
        let kept = old.as_ref().map_or(0, |old| old.expiry);
        let expiry = match command.expiry {
            None => kept,
            Some(_) if frames.preserve_expiry && old.is_some() => kept,
            Some(expiry) => bucket.expiry(place.collection, expiry),
        };
        bucket.write(place, |cas, seqno| {
            let edited = apply(old.as_ref(), &command.specs, make_parents, cas, seqno);
            let edited = edited.map_err(|(index, _)| index).expect("it could be done a moment ago");
            let json = Document::is_json(&edited.body);
            let flags = old.as_ref().map_or(0, |old| old.flags);
            Document { value: edited.body, xattrs: edited.xattrs, json, flags, expiry, ..Document::default() }
        })
    };
    respond(session, changed, &edited.results)
}

fn respond(session: &Session, changed: Changed, results: &[(u8, Vec<u8>)]) -> Response {
    let mut response = kv::changed(session, changed);
    for (index, result) in results {
        response.value.push(*index);
        response.value.extend(status::SUCCESS.to_be_bytes());
        response.value.extend((result.len() as u32).to_be_bytes());
        response.value.extend(result);
    }
    response
}

/// Applies all operations to a copy, or tells the first that failed.
fn apply(
    old: Option<&Document>,
    specs: &[Spec],
    make_parents: bool,
    cas: u64,
    seqno: u64,
) -> Result<Edited, (u8, u16)> {
    let mut body = match old {
        Some(old) => old.as_json(),
        None => Some(root_for(specs)),
    };
    let mut raw = old.map(|old| old.value.clone()).unwrap_or_default();
    let mut touched = old.is_none();
    let mut xattrs = Value::Object(old.map(|old| old.xattrs.clone()).unwrap_or_default());
    let mut results = Vec::new();
    let mut removed = false;
    for (index, spec) in specs.iter().enumerate() {
        let at = |status| (index as u8, status);
        match spec.opcode {
            opcode::SET => {
                (body, raw, touched) = (serde_json::from_slice(&spec.value).ok(), spec.value.clone(), false);
                continue;
            }
            opcode::DELETE => {
                removed = true;
                continue;
            }
            opcode::SUBDOC_REPLACE_BODY_WITH_XATTR => {
                let path = path::parse(&spec.path).map_err(at)?;
                body = Some(path::find(&xattrs, &path).map_err(at)?.clone());
                touched = true;
                continue;
            }
            _ => {}
        }
        let expanded = xattr::expand(spec, cas, seqno, &raw).map_err(at)?;
        let spec = Spec { value: expanded, make_parents: spec.make_parents || make_parents, ..spec.clone() };
        let target = if spec.xattr {
            &mut xattrs
        } else {
            touched = true;
            body.as_mut().ok_or(at(status::NOT_JSON))?
        };
        if let Some(result) = edit::change(target, &spec).map_err(at)? {
            results.push((index as u8, result));
        }
    }
    if touched {
        raw = body.unwrap_or_default().to_string().into_bytes();
    }
    let Value::Object(xattrs) = xattrs else { unreachable!("operations on attributes have a path") };
    Ok(Edited { body: raw, xattrs, removed, results })
}

/// What a document is made of that is not there: what the first operation on its body can work on.
fn root_for(specs: &[Spec]) -> Value {
    let first = specs.iter().find(|spec| !spec.xattr && spec.opcode != opcode::SET);
    match first {
        Some(spec) if spec.path.is_empty() || spec.path.starts_with(b"[") => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    }
}
