//! One key-value connection: what was negotiated on it, and its requests in the order in which they come.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cluster::{self, Version};
use super::collections;
use super::faults::{self, Fault, Service};
use super::kv;
use super::scram::{Hash, Scram};
use super::wire::{self, Request, Response, datatype, feature, opcode, status};
use super::{Shared, State};

/// What a connection has agreed on.
pub struct Session {
    pub node: usize,
    tls: bool,
    features: BTreeSet<u16>,
    conversation: Option<Scram>,
    user: Option<String>,
    bucket: Option<String>,
    /// The newest configuration that this client was given.
    pushed: Version,
}

/// What becomes of the connection after a request.
enum Next {
    Answer(Response),
    Nothing,
    Close,
    AnswerAndClose(Response),
}

impl Session {
    pub fn has(&self, feature: u16) -> bool {
        self.features.contains(&feature)
    }

    /// The bits of the datatype that this client may send.
    pub fn datatypes(&self) -> u8 {
        let bits =
            [(feature::JSON, datatype::JSON), (feature::SNAPPY, datatype::SNAPPY), (feature::XATTR, datatype::XATTR)];
        bits.iter().filter(|(feature, _)| self.has(*feature)).map(|(_, bit)| bit).sum()
    }

    /// The datatype of an answer, as far as this client understands it.
    pub fn datatype(&self, json: bool, compressed: bool) -> u8 {
        let bits = if json { datatype::JSON } else { 0 } | if compressed { datatype::SNAPPY } else { 0 };
        bits & self.datatypes()
    }
}

/// Serves a connection until one side ends it.
pub async fn serve<S>(shared: Arc<Shared>, node: usize, tls: bool, mut stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session {
        node,
        tls,
        features: BTreeSet::new(),
        conversation: None,
        user: None,
        bucket: None,
        pushed: Version::default(),
    };
    let mut changes = shared.changes();
    let mut buffer = Vec::new();
    let mut out = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut buffer) => if read? == 0 { return Ok(()) },
            changed = changes.changed() => {
                changed.map_err(io::Error::other)?;
                notify(&mut session, &shared, &mut out);
            }
        }
        while let Some(request) = wire::take_request(&mut buffer)? {
            let began = Instant::now();
            let next = meet(&mut session, &shared, &request).await;
            let took = session.has(feature::TRACING).then(|| began.elapsed());
            let (answer, close) = match next {
                Next::Answer(answer) => (Some(answer), false),
                Next::AnswerAndClose(answer) => (Some(answer), true),
                Next::Nothing => (None, false),
                Next::Close => (None, true),
            };
            if let Some(answer) = answer {
                // What HELLO agrees on holds from the next answer on.
                let took = took.filter(|_| request.opcode != opcode::HELLO);
                wire::put_response(&mut out, request.opcode, request.opaque, &answer, took);
            }
            if close {
                stream.write_all(&out).await?;
                return stream.shutdown().await;
            }
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
    }
}

/// Answers a request, unless a fault says otherwise.
async fn meet(session: &mut Session, shared: &Shared, request: &Request) -> Next {
    let fault = {
        let mut state = shared.state();
        state.count(Service::KeyValue, Some(request.opcode));
        let key = kv::logical_key(session, request).to_vec();
        state.faults.of_key_value(request.opcode, &key)
    };
    let Some(fault) = fault else { return answer(session, &mut shared.state(), request) };
    match fault {
        Fault::Refuse(status) | Fault::RefuseWith(status, _) => {
            Next::Answer(refuse(session, &mut shared.state(), status))
        }
        Fault::DoAndRefuse(status) => {
            answer(session, &mut shared.state(), request);
            Next::Answer(refuse(session, &mut shared.state(), status))
        }
        Fault::Ignore => Next::Nothing,
        Fault::DoAndIgnore => {
            answer(session, &mut shared.state(), request);
            Next::Nothing
        }
        Fault::Disconnect => Next::Close,
        Fault::DoAndDisconnect => {
            answer(session, &mut shared.state(), request);
            Next::Close
        }
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            answer(session, &mut shared.state(), request)
        }
    }
}

fn answer(session: &mut Session, state: &mut State, request: &Request) -> Next {
    let response = match request.opcode {
        opcode::HELLO => hello(session, state, request),
        opcode::GET_ERROR_MAP => error_map(session, request),
        opcode::NOOP => Response::default(),
        opcode::VERSION => Response::value("7.6.2"),
        opcode::QUIT => return Next::AnswerAndClose(Response::default()),
        opcode::SASL_LIST_MECHS => Response::value(mechanisms(session).join(" ")),
        opcode::SASL_AUTH => sasl_auth(session, state, request),
        opcode::SASL_STEP => sasl_step(session, request),
        _ if session.user.is_none() => Response::status(status::NO_ACCESS),
        opcode::SELECT_BUCKET => select_bucket(session, state, request),
        opcode::GET_CLUSTER_CONFIG => cluster_config(session, state, request),
        _ => of_bucket(session, state, request),
    };
    Next::Answer(response)
}

fn of_bucket(session: &mut Session, state: &mut State, request: &Request) -> Response {
    let known = faults::is_data(request.opcode)
        || matches!(request.opcode, opcode::GET_MANIFEST | opcode::GET_COLLECTION_ID | opcode::GET_SCOPE_ID);
    if !known {
        return Response::status(status::UNKNOWN_COMMAND);
    }
    let Some(bucket) = session.bucket.as_ref().and_then(|name| state.buckets.get_mut(name)) else {
        return Response::status(status::NO_BUCKET);
    };
    let response = match request.opcode {
        opcode::GET_MANIFEST => Response {
            datatype: session.datatype(true, false),
            ..Response::value(bucket.manifest.to_json().to_string())
        },
        opcode::GET_COLLECTION_ID | opcode::GET_SCOPE_ID => match look_up(&bucket.manifest, request) {
            Ok(id) => {
                let extras = [&bucket.manifest.uid.to_be_bytes()[..], &id.to_be_bytes()].concat();
                Response { extras, ..Response::default() }
            }
            Err(status) => kv::refuse(session, bucket, status),
        },
        _ => kv::answer(session, bucket, request),
    };
    if response.status == status::NOT_MY_VBUCKET { refuse(session, state, response.status) } else { response }
}

/// A refusal, with the body that the protocol promises for it.
fn refuse(session: &mut Session, state: &mut State, status: u16) -> Response {
    if status == status::NOT_MY_VBUCKET {
        let known = session.has(feature::DEDUPE_NOT_MY_VBUCKET) && session.pushed >= state.version;
        return Response { status, ..if known { Response::default() } else { current_config(session, state) } };
    }
    match session.bucket.as_ref().and_then(|name| state.buckets.get(name)) {
        Some(bucket) => kv::refuse(session, bucket, status),
        None => Response::status(status),
    }
}

fn hello(session: &mut Session, state: &State, request: &Request) -> Response {
    let asked: BTreeSet<u16> =
        request.value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    if !request.extras.is_empty() || !request.value.len().is_multiple_of(2) {
        return Response::status(status::INVALID_ARGUMENTS);
    }
    let needs_duplex = [feature::CLUSTERMAP_NOTIFICATION, feature::CLUSTERMAP_NOTIFICATION_BRIEF];
    let agreed = feature::ALL.iter().copied().filter(|feature| {
        asked.contains(feature)
            && !state.without.contains(feature)
            && (!needs_duplex.contains(feature) || asked.contains(&feature::DUPLEX))
    });
    session.features = agreed.collect();
    Response::value(session.features.iter().flat_map(|feature| feature.to_be_bytes()).collect::<Vec<_>>())
}

fn error_map(session: &Session, request: &Request) -> Response {
    match request.value.as_slice() {
        [high, low] if request.key.is_empty() && request.extras.is_empty() => {
            let map = cluster::error_map(u16::from_be_bytes([*high, *low]));
            Response { datatype: session.datatype(true, false), ..Response::value(map.to_string()) }
        }
        _ => Response::status(status::INVALID_ARGUMENTS),
    }
}

/// The password itself is only taken where nobody else can read it.
fn mechanisms(session: &Session) -> Vec<&'static str> {
    let hashed = ["SCRAM-SHA512", "SCRAM-SHA256", "SCRAM-SHA1"];
    hashed.into_iter().chain(session.tls.then_some("PLAIN")).collect()
}

fn sasl_auth(session: &mut Session, state: &State, request: &Request) -> Response {
    (session.user, session.bucket, session.conversation) = (None, None, None);
    let password = |user: &str| state.users.get(user).map(|user| user.password.clone());
    if request.key == b"PLAIN" && session.tls {
        let text = String::from_utf8_lossy(&request.value).into_owned();
        if let [_, user, given] = text.split('\0').collect::<Vec<_>>()[..]
            && password(user).as_deref() == Some(given)
        {
            session.user = Some(user.to_owned());
            return Response::default();
        }
        return Response::status(status::AUTH_ERROR);
    }
    let begun = Hash::of(&request.key).and_then(|hash| Scram::begin(hash, &request.value, password));
    match begun {
        Some((conversation, answer)) => {
            session.conversation = Some(conversation);
            Response { status: status::AUTH_CONTINUE, ..Response::value(answer) }
        }
        None => Response::status(status::AUTH_ERROR),
    }
}

fn sasl_step(session: &mut Session, request: &Request) -> Response {
    match session.conversation.take().and_then(|conversation| conversation.finish(&request.value)) {
        Some((user, answer)) => {
            session.user = Some(user);
            Response::value(answer)
        }
        None => Response::status(status::AUTH_ERROR),
    }
}

fn select_bucket(session: &mut Session, state: &State, request: &Request) -> Response {
    let name = String::from_utf8_lossy(&request.key).into_owned();
    session.bucket = None;
    if !state.buckets.contains_key(&name) {
        return Response::status(status::KEY_NOT_FOUND);
    }
    let user = session.user.as_ref().and_then(|user| state.users.get(user));
    if !user.is_some_and(|user| user.may_use(&name)) {
        return Response::status(status::NO_ACCESS);
    }
    session.bucket = Some(name);
    Response::default()
}

fn cluster_config(session: &mut Session, state: &State, request: &Request) -> Response {
    let known = match request.extras.len() {
        0 => Version::default(),
        16 => Version {
            epoch: wire::u64_at(&request.extras, 0) as i64,
            revision: wire::u64_at(&request.extras, 8) as i64,
        },
        _ => return Response::status(status::INVALID_ARGUMENTS),
    };
    if known >= state.version {
        return Response::default();
    }
    current_config(session, state)
}

fn current_config(session: &mut Session, state: &State) -> Response {
    session.pushed = state.version;
    let bucket = session.bucket.as_ref().and_then(|name| state.buckets.get(name));
    let config = cluster::config(&state.nodes, session.node, state.version, bucket).to_string().into_bytes();
    let compress = session.has(feature::SNAPPY_EVERYWHERE);
    let value = if compress { snap::raw::Encoder::new().compress_vec(&config).expect("a short text") } else { config };
    let datatype = if compress { datatype::JSON | datatype::SNAPPY } else { session.datatype(true, false) };
    Response { datatype, ..Response::value(value) }
}

/// Tells the client of a newer configuration, if it asked to be told.
fn notify(session: &mut Session, shared: &Shared, out: &mut Vec<u8>) {
    let state = shared.state();
    let brief = session.has(feature::CLUSTERMAP_NOTIFICATION_BRIEF);
    let full = session.has(feature::CLUSTERMAP_NOTIFICATION);
    let known = session.has(feature::DEDUPE_NOT_MY_VBUCKET) && session.pushed >= state.version;
    if !(brief || full) || known || session.user.is_none() {
        return;
    }
    let extras = state.version.to_bytes();
    let key = session.bucket.clone().unwrap_or_default();
    let code = opcode::CLUSTERMAP_CHANGED;
    if brief {
        wire::put_notification(out, code, &extras, key.as_bytes(), 0, &[]);
    } else {
        let config = current_config(session, &state);
        wire::put_notification(out, code, &extras, key.as_bytes(), config.datatype, &config.value);
    }
}

/// The id behind `scope.collection`, or behind `scope`; names that are left out are the default ones.
fn look_up(manifest: &collections::Manifest, request: &Request) -> Result<u32, u16> {
    // The path is the value; clients of the first days had it in the key.
    let path = if request.value.is_empty() { &request.key } else { &request.value };
    let path = std::str::from_utf8(path).map_err(|_| status::INVALID_ARGUMENTS)?;
    let or_default = |name: &str| if name.is_empty() { collections::DEFAULT.to_owned() } else { name.to_owned() };
    let (scope, collection) = match path.split_once('.') {
        Some((scope, collection)) if !collection.contains('.') => (or_default(scope), or_default(collection)),
        None if request.opcode == opcode::GET_SCOPE_ID => (or_default(path), or_default("")),
        _ => return Err(status::INVALID_ARGUMENTS),
    };
    if !collections::is_lookup_name(&scope) || !collections::is_lookup_name(&collection) {
        return Err(status::INVALID_ARGUMENTS);
    }
    let found = manifest.scope(&scope).ok_or(status::UNKNOWN_SCOPE)?;
    if request.opcode == opcode::GET_SCOPE_ID {
        return Ok(found.id);
    }
    Ok(manifest.collection(&scope, &collection).ok_or(status::UNKNOWN_COLLECTION)?.id)
}
