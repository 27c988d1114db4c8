//! Packets of the key-value protocol: how their bytes are laid out, and the numbers that have names in it.

use std::io;
use std::time::Duration;

/// Length of the fixed header.
pub const HEADER: usize = 24;
/// More than any request may have: a document of 20 MiB with its key and paths.
const LONGEST_BODY: usize = 24 << 20;

/// Commands.
pub mod opcode {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const TOUCH: u8 = 0x1c;
    pub const GET_AND_TOUCH: u8 = 0x1d;
    pub const HELLO: u8 = 0x1f;
    pub const SASL_LIST_MECHS: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const SELECT_BUCKET: u8 = 0x89;
    pub const GET_LOCKED: u8 = 0x94;
    pub const UNLOCK: u8 = 0x95;
    pub const GET_META: u8 = 0xa0;
    pub const GET_CLUSTER_CONFIG: u8 = 0xb5;
    pub const GET_MANIFEST: u8 = 0xba;
    pub const GET_COLLECTION_ID: u8 = 0xbb;
    pub const GET_SCOPE_ID: u8 = 0xbc;
    pub const SUBDOC_GET: u8 = 0xc5;
    pub const SUBDOC_EXISTS: u8 = 0xc6;
    pub const SUBDOC_DICT_ADD: u8 = 0xc7;
    pub const SUBDOC_DICT_UPSERT: u8 = 0xc8;
    pub const SUBDOC_DELETE: u8 = 0xc9;
    pub const SUBDOC_REPLACE: u8 = 0xca;
    pub const SUBDOC_ARRAY_PUSH_LAST: u8 = 0xcb;
    pub const SUBDOC_ARRAY_PUSH_FIRST: u8 = 0xcc;
    pub const SUBDOC_ARRAY_INSERT: u8 = 0xcd;
    pub const SUBDOC_ARRAY_ADD_UNIQUE: u8 = 0xce;
    pub const SUBDOC_COUNTER: u8 = 0xcf;
    pub const SUBDOC_MULTI_LOOKUP: u8 = 0xd0;
    pub const SUBDOC_MULTI_MUTATION: u8 = 0xd1;
    pub const SUBDOC_GET_COUNT: u8 = 0xd2;
    pub const SUBDOC_REPLACE_BODY_WITH_XATTR: u8 = 0xd3;
    pub const GET_ERROR_MAP: u8 = 0xfe;
    /// Sent by the server: there is a newer cluster configuration.
    pub const CLUSTERMAP_CHANGED: u8 = 0x01;
}

/// How a request ended.
#[expect(dead_code, reason = "tests inject by name what the double itself never answers")]
pub mod status {
    pub const SUCCESS: u16 = 0x00;
    pub const KEY_NOT_FOUND: u16 = 0x01;
    pub const KEY_EXISTS: u16 = 0x02;
    pub const TOO_BIG: u16 = 0x03;
    pub const INVALID_ARGUMENTS: u16 = 0x04;
    pub const NOT_STORED: u16 = 0x05;
    pub const BAD_DELTA: u16 = 0x06;
    pub const NOT_MY_VBUCKET: u16 = 0x07;
    pub const NO_BUCKET: u16 = 0x08;
    pub const LOCKED: u16 = 0x09;
    pub const NOT_LOCKED: u16 = 0x0e;
    pub const AUTH_STALE: u16 = 0x1f;
    pub const AUTH_ERROR: u16 = 0x20;
    pub const AUTH_CONTINUE: u16 = 0x21;
    pub const NO_ACCESS: u16 = 0x24;
    pub const RATE_LIMITED_MAX_COMMANDS: u16 = 0x33;
    pub const UNKNOWN_FRAME_INFO: u16 = 0x80;
    pub const UNKNOWN_COMMAND: u16 = 0x81;
    pub const OUT_OF_MEMORY: u16 = 0x82;
    pub const NOT_SUPPORTED: u16 = 0x83;
    pub const INTERNAL: u16 = 0x84;
    pub const BUSY: u16 = 0x85;
    pub const TEMPORARY_FAILURE: u16 = 0x86;
    pub const UNKNOWN_COLLECTION: u16 = 0x88;
    pub const UNKNOWN_SCOPE: u16 = 0x8c;
    pub const DURABILITY_INVALID_LEVEL: u16 = 0xa0;
    pub const DURABILITY_IMPOSSIBLE: u16 = 0xa1;
    pub const SYNC_WRITE_IN_PROGRESS: u16 = 0xa2;
    pub const SYNC_WRITE_AMBIGUOUS: u16 = 0xa3;
    pub const PATH_NOT_FOUND: u16 = 0xc0;
    pub const PATH_MISMATCH: u16 = 0xc1;
    pub const PATH_INVALID: u16 = 0xc2;
    pub const PATH_TOO_BIG: u16 = 0xc3;
    pub const DOCUMENT_TOO_DEEP: u16 = 0xc4;
    pub const VALUE_CANT_INSERT: u16 = 0xc5;
    pub const NOT_JSON: u16 = 0xc6;
    pub const BAD_RANGE: u16 = 0xc7;
    pub const SUBDOC_BAD_DELTA: u16 = 0xc8;
    pub const PATH_EXISTS: u16 = 0xc9;
    pub const VALUE_TOO_DEEP: u16 = 0xca;
    pub const INVALID_COMBO: u16 = 0xcb;
    pub const MULTI_PATH_FAILURE: u16 = 0xcc;
    pub const SUCCESS_DELETED: u16 = 0xcd;
    pub const XATTR_INVALID_FLAG_COMBO: u16 = 0xce;
    pub const XATTR_INVALID_KEY_COMBO: u16 = 0xcf;
    pub const XATTR_UNKNOWN_MACRO: u16 = 0xd0;
    pub const XATTR_UNKNOWN_VATTR: u16 = 0xd1;
    pub const XATTR_CANT_MODIFY_VATTR: u16 = 0xd2;
    pub const MULTI_PATH_FAILURE_DELETED: u16 = 0xd3;
    pub const INVALID_XATTR_ORDER: u16 = 0xd4;
}

/// What a client may ask for in its HELLO.
#[expect(dead_code, reason = "tests name some of them to switch them off")]
pub mod feature {
    pub const TCP_NODELAY: u16 = 0x03;
    pub const MUTATION_TOKENS: u16 = 0x04;
    pub const XATTR: u16 = 0x06;
    pub const XERROR: u16 = 0x07;
    pub const SELECT_BUCKET: u16 = 0x08;
    pub const SNAPPY: u16 = 0x0a;
    pub const JSON: u16 = 0x0b;
    pub const DUPLEX: u16 = 0x0c;
    pub const CLUSTERMAP_NOTIFICATION: u16 = 0x0d;
    pub const UNORDERED_EXECUTION: u16 = 0x0e;
    pub const TRACING: u16 = 0x0f;
    pub const ALT_REQUESTS: u16 = 0x10;
    pub const SYNC_REPLICATION: u16 = 0x11;
    pub const COLLECTIONS: u16 = 0x12;
    pub const SNAPPY_EVERYWHERE: u16 = 0x13;
    pub const PRESERVE_EXPIRY: u16 = 0x14;
    pub const CREATE_AS_DELETED: u16 = 0x17;
    pub const SUBDOC_DOCUMENT_MACROS: u16 = 0x18;
    pub const REPLACE_BODY_WITH_XATTR: u16 = 0x19;
    pub const KNOWN_CONFIG_VERSION: u16 = 0x1d;
    pub const DEDUPE_NOT_MY_VBUCKET: u16 = 0x1e;
    pub const CLUSTERMAP_NOTIFICATION_BRIEF: u16 = 0x1f;

    /// All that the double can do, in the order of their numbers.
    pub const ALL: &[u16] = &[
        TCP_NODELAY,
        MUTATION_TOKENS,
        XATTR,
        XERROR,
        SELECT_BUCKET,
        SNAPPY,
        JSON,
        DUPLEX,
        CLUSTERMAP_NOTIFICATION,
        UNORDERED_EXECUTION,
        TRACING,
        ALT_REQUESTS,
        SYNC_REPLICATION,
        COLLECTIONS,
        SNAPPY_EVERYWHERE,
        PRESERVE_EXPIRY,
        SUBDOC_DOCUMENT_MACROS,
        REPLACE_BODY_WITH_XATTR,
        KNOWN_CONFIG_VERSION,
        DEDUPE_NOT_MY_VBUCKET,
        CLUSTERMAP_NOTIFICATION_BRIEF,
    ];
}

/// Bits of the datatype byte.
pub mod datatype {
    pub const JSON: u8 = 0x01;
    pub const SNAPPY: u8 = 0x02;
    pub const XATTR: u8 = 0x04;
}

/// A request, taken apart.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub opcode: u8,
    pub datatype: u8,
    pub vbucket: u16,
    pub opaque: u32,
    pub cas: u64,
    /// The framing extras, not yet taken apart.
    pub frames: Vec<u8>,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// What a response says besides the opcode and the opaque of its request.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub datatype: u8,
    pub cas: u64,
    pub extras: Vec<u8>,
    pub value: Vec<u8>,
}

impl Response {
    /// A response of a status alone.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Success with a value.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }
}

/// What the framing extras of a request ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Frames {
    /// A level from 1 to 3.
    pub durability: Option<u8>,
    pub preserve_expiry: bool,
}

/// Takes the first packet off the buffer. `None`: more bytes are needed. An error: what came is no packet, and the
/// connection can't go on.
pub fn take_request(buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let (frames, key) = match buffer[0] {
        0x80 => (0, usize::from(u16::from_be_bytes([buffer[2], buffer[3]]))),
        0x08 => (usize::from(buffer[2]), usize::from(buffer[3])),
        _ => return Err(invalid("not the magic of a request")),
    };
    let extras = usize::from(buffer[4]);
    let body = u32_at(buffer, 8) as usize;
    if body > LONGEST_BODY || frames + extras + key > body {
        return Err(invalid("lengths that don't add up"));
    }
    if buffer.len() < HEADER + body {
        return Ok(None);
    }
    let mut parts = &buffer[HEADER..HEADER + body];
    let mut part = |length| {
        let (head, rest) = parts.split_at(length);
        parts = rest;
        head.to_vec()
    };
    let request = Request {
        opcode: buffer[1],
        datatype: buffer[5],
        vbucket: u16::from_be_bytes([buffer[6], buffer[7]]),
        opaque: u32_at(buffer, 12),
        cas: u64_at(buffer, 16),
        frames: part(frames),
        extras: part(extras),
        key: part(key),
        value: part(body - frames - extras - key),
    };
    buffer.drain(..HEADER + body);
    Ok(Some(request))
}

/// Writes a response; with the time that the request took where the client asked for it.
pub fn put_response(out: &mut Vec<u8>, opcode: u8, opaque: u32, response: &Response, took: Option<Duration>) {
    let frame = took.map(|took| {
        let encoded = (took.as_micros() as f64 * 2.0).powf(1.0 / 1.74).min(f64::from(u16::MAX)) as u16;
        let [high, low] = encoded.to_be_bytes();
        // Object 0 of two bytes: the time between receipt and answer.
        [0x02, high, low]
    });
    let frames = frame.as_ref().map_or(&[][..], |frame| &frame[..]);
    let body = frames.len() + response.extras.len() + response.value.len();
    out.push(if frame.is_some() { 0x18 } else { 0x81 });
    out.push(opcode);
    // No response of ours has a key, so its length is zero in both layouts.
    out.push(frames.len() as u8);
    out.push(0);
    out.push(response.extras.len() as u8);
    out.push(response.datatype);
    out.extend(response.status.to_be_bytes());
    out.extend((body as u32).to_be_bytes());
    out.extend(opaque.to_be_bytes());
    out.extend(response.cas.to_be_bytes());
    out.extend(frames);
    out.extend(&response.extras);
    out.extend(&response.value);
}

/// Writes a request of the server, which the client does not answer.
pub fn put_notification(out: &mut Vec<u8>, opcode: u8, extras: &[u8], key: &[u8], datatype: u8, value: &[u8]) {
    out.extend([0x82, opcode]);
    out.extend((key.len() as u16).to_be_bytes());
    out.extend([extras.len() as u8, datatype, 0, 0]);
    out.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    out.extend([0; 12]);
    out.extend(extras);
    out.extend(key);
    out.extend(value);
}

/// Takes framing extras apart; the status that a wrong one is refused with.
pub fn frames(mut bytes: &[u8]) -> Result<Frames, u16> {
    let mut found = Frames::default();
    while let Some((&head, rest)) = bytes.split_first() {
        bytes = rest;
        let mut escaped = |nibble: u8| -> Result<usize, u16> {
            match nibble {
                15 => {
                    let (&more, rest) = bytes.split_first().ok_or(status::INVALID_ARGUMENTS)?;
                    bytes = rest;
                    Ok(15 + usize::from(more))
                }
                nibble => Ok(usize::from(nibble)),
            }
        };
        let id = escaped(head >> 4)?;
        let length = escaped(head & 0x0f)?;
        let data = bytes.get(..length).ok_or(status::INVALID_ARGUMENTS)?;
        bytes = &bytes[length..];
        match (id, data) {
            // May be executed out of order: allowed, never needed.
            (0, []) => {}
            (1, [level @ 1..=3]) => found.durability = Some(*level),
            (1, [level @ 1..=3, high, low]) => match u16::from_be_bytes([*high, *low]) {
                0 | 0xffff => return Err(status::INVALID_ARGUMENTS),
                _ => found.durability = Some(*level),
            },
            (1, [_] | [_, _, _]) => return Err(status::DURABILITY_INVALID_LEVEL),
            // The context of a trace, which nobody follows here.
            (3, [_, ..]) => {}
            (5, []) => found.preserve_expiry = true,
            (0 | 1 | 3 | 5, _) => return Err(status::INVALID_ARGUMENTS),
            _ => return Err(status::UNKNOWN_FRAME_INFO),
        }
    }
    Ok(found)
}

/// Takes the collection's id off a key: unsigned LEB128 of at most five bytes, in its shortest form.
pub fn take_collection(key: &[u8]) -> Option<(u32, &[u8])> {
    let mut id = 0_u64;
    for (place, byte) in key.iter().take(5).enumerate() {
        id |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let shortest = place == 0 || *byte != 0;
            return shortest.then(|| u32::try_from(id).ok()).flatten().map(|id| (id, &key[place + 1..]));
        }
    }
    None
}

/// A number from its place in a packet. The place is within the bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A number from its place in a packet. The place is within the bytes.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn collection_ids_are_read_as_the_protocol_shows_them() {
    // The table of the protocol's description, and its rule about forms that are not the shortest.
    let shown: &[(&[u8], u32)] = &[
        (&[0x00], 0),
        (&[0x7f], 0x7f),
        (&[0x80, 0x01], 0x80),
        (&[0xd5, 0x0a], 0x555),
        (&[0xff, 0xff, 0x03], 0xffff),
        (&[0x8d, 0xe0, 0xfb, 0xd7, 0x0c], 0xcafe_f00d),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], 0xffff_ffff),
    ];
    for (bytes, id) in shown {
        let key = [bytes, &b"key"[..]].concat();
        assert_eq!(take_collection(&key), Some((*id, &b"key"[..])));
    }
    for wrong in
        [&[0x81, 0x00][..], &[0x80], &[], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], &[0xff, 0xff, 0xff, 0xff, 0x1f]]
    {
        assert_eq!(take_collection(wrong), None);
    }
}

#[test]
fn framing_extras_are_taken_apart() {
    assert_eq!(frames(&[]), Ok(Frames::default()));
    assert_eq!(frames(&[0x11, 0x02, 0x50]), Ok(Frames { durability: Some(2), preserve_expiry: true }));
    assert_eq!(frames(&[0x13, 0x01, 0x0b, 0xb8]), Ok(Frames { durability: Some(1), preserve_expiry: false }));
    assert_eq!(frames(&[0x13, 0x01, 0xff, 0xff]), Err(status::INVALID_ARGUMENTS));
    assert_eq!(frames(&[0x11, 0x04]), Err(status::DURABILITY_INVALID_LEVEL));
    assert_eq!(frames(&[0x11]), Err(status::INVALID_ARGUMENTS));
    assert_eq!(frames(&[0xf0, 0x20]), Err(status::UNKNOWN_FRAME_INFO));
}
