//! Details of the protocol that the SDK hides, byte by byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;
use crate::harness::couchbase_double::wire::{feature, opcode, status, u32_at, u64_at};
use crate::harness::couchbase_double::{CouchbaseDouble, Fault, Options};

/// A packet that came from the server.
#[derive(Debug, Default)]
struct Packet {
    magic: u8,
    opcode: u8,
    datatype: u8,
    status: u16,
    opaque: u32,
    cas: u64,
    frames: Vec<u8>,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A client that writes what it is told to.
struct Client {
    stream: TcpStream,
    opaque: u32,
}

/// What a request may carry besides its opcode.
#[derive(Debug, Default)]
struct Sent<'a> {
    datatype: u8,
    vbucket: u16,
    cas: u64,
    frames: &'a [u8],
    extras: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

impl Client {
    async fn connect(double: &CouchbaseDouble) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", double.port())).await.unwrap();
        Self { stream, opaque: 0x1234 }
    }

    /// Negotiates, logs in and selects the bucket, with SCRAM of the given name.
    async fn ready(double: &CouchbaseDouble, features: &[u16], mechanism: &str) -> Self {
        let mut client = Self::connect(double).await;
        let features: Vec<u8> = features.iter().flat_map(|feature| feature.to_be_bytes()).collect();
        client.ask(opcode::HELLO, Sent { key: b"test", value: &features, ..Sent::default() }).await;
        assert_eq!(client.log_in(mechanism, "jobber", "secret").await, status::SUCCESS);
        let selected = client.ask(opcode::SELECT_BUCKET, Sent { key: b"jobber", ..Sent::default() }).await;
        assert_eq!(selected.status, status::SUCCESS);
        client
    }

    /// A SCRAM conversation, written here a second time from the RFC's side of the client.
    async fn log_in(&mut self, mechanism: &str, user: &str, password: &str) -> u16 {
        use aws_lc_rs::{digest, hmac, pbkdf2};
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD as BASE64;
        let (mac, derive, hash) = match mechanism {
            "SCRAM-SHA1" => {
                (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY)
            }
            "SCRAM-SHA256" => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
            _ => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
        };
        let first = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
        let hello = format!("n,,{first}");
        let sent = Sent { key: mechanism.as_bytes(), value: hello.as_bytes(), ..Sent::default() };
        let challenge = self.ask(opcode::SASL_AUTH, sent).await;
        if challenge.status != status::AUTH_CONTINUE {
            return challenge.status;
        }
        let challenge = String::from_utf8(challenge.value).unwrap();
        let fields: Vec<_> = challenge.split(',').map(|field| field.split_once('=').unwrap().1).collect();
        let [nonce, salt, iterations] = fields[..] else { panic!("three fields: {challenge}") };
        assert!(nonce.starts_with("fyko+d2lbbFgONRv9qkxdawL") && nonce.len() > 24);
        let mut salted = vec![0; hash.output_len()];
        let salt = BASE64.decode(salt).unwrap();
        pbkdf2::derive(derive, iterations.parse().unwrap(), &salt, password.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text).as_ref().to_vec();
        let client_key = sign(&salted, b"Client Key");
        let stored = digest::digest(hash, &client_key);
        let last = format!("c=biws,r={nonce}");
        let all = format!("{first},{challenge},{last}");
        let signature = sign(stored.as_ref(), all.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let last = format!("{last},p={}", BASE64.encode(proof));
        let sent = Sent { key: mechanism.as_bytes(), value: last.as_bytes(), ..Sent::default() };
        let verdict = self.ask(opcode::SASL_STEP, sent).await;
        if verdict.status == status::SUCCESS {
            let own = BASE64.encode(sign(&sign(&salted, b"Server Key"), all.as_bytes()));
            assert_eq!(String::from_utf8(verdict.value).unwrap(), format!("v={own}"));
        }
        verdict.status
    }

    async fn ask(&mut self, code: u8, sent: Sent<'_>) -> Packet {
        self.send(code, sent).await;
        let packet = self.next().await;
        assert_eq!((packet.opcode, packet.opaque), (code, self.opaque));
        packet
    }

    async fn send(&mut self, code: u8, sent: Sent<'_>) {
        self.opaque += 1;
        let mut out = Vec::new();
        if sent.frames.is_empty() {
            out.extend([0x80, code]);
            out.extend((sent.key.len() as u16).to_be_bytes());
        } else {
            out.extend([0x08, code, sent.frames.len() as u8, sent.key.len() as u8]);
        }
        out.extend([sent.extras.len() as u8, sent.datatype]);
        out.extend(sent.vbucket.to_be_bytes());
        let body = [sent.frames, sent.extras, sent.key, sent.value].concat();
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(self.opaque.to_be_bytes());
        out.extend(sent.cas.to_be_bytes());
        out.extend(body);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn next(&mut self) -> Packet {
        let mut head = [0; 24];
        within(self.stream.read_exact(&mut head)).await.unwrap();
        let (frames, key) = match head[0] {
            0x18 => (usize::from(head[2]), usize::from(head[3])),
            0x81 | 0x82 => (0, usize::from(u16::from_be_bytes([head[2], head[3]]))),
            other => panic!("a magic of {other:#x}"),
        };
        let extras = usize::from(head[4]);
        let mut body = vec![0; u32_at(&head, 8) as usize];
        within(self.stream.read_exact(&mut body)).await.unwrap();
        let mut take = |length: usize| body.drain(..length).collect::<Vec<_>>();
        Packet {
            magic: head[0],
            opcode: head[1],
            datatype: head[5],
            status: u16::from_be_bytes([head[6], head[7]]),
            opaque: u32_at(&head, 12),
            cas: u64_at(&head, 16),
            frames: take(frames),
            extras: take(extras),
            key: take(key),
            value: body,
        }
    }

    async fn is_closed(&mut self) -> bool {
        within(self.stream.read(&mut [0; 1])).await.is_ok_and(|read| read == 0)
    }
}

const ALL: &[u16] = feature::ALL;

#[tokio::test]
async fn hello_agrees_on_what_both_know() {
    let double = CouchbaseDouble::with(Options { without: vec![feature::SNAPPY], ..Options::default() });
    let mut client = Client::connect(&double).await;
    let asked: &[u16] =
        &[0x01, feature::JSON, feature::SNAPPY, 0x7777, feature::XERROR, feature::CLUSTERMAP_NOTIFICATION_BRIEF];
    let asked: Vec<u8> = asked.iter().flat_map(|feature| feature.to_be_bytes()).collect();
    let agreed = client.ask(opcode::HELLO, Sent { value: &asked, ..Sent::default() }).await;
    // Notifications need a client that reads requests, and this one did not say so.
    assert_eq!(agreed.value, [0, feature::XERROR as u8, 0, feature::JSON as u8]);
}

#[tokio::test]
async fn every_scram_lets_in_who_knows_the_password_and_nobody_else() {
    let double = CouchbaseDouble::start();
    for mechanism in ["SCRAM-SHA1", "SCRAM-SHA256", "SCRAM-SHA512"] {
        let mut client = Client::connect(&double).await;
        let offered = client.ask(opcode::SASL_LIST_MECHS, Sent::default()).await.value;
        assert!(String::from_utf8(offered).unwrap().split(' ').any(|name| name == mechanism));
        assert_eq!(client.log_in(mechanism, "jobber", "wrong").await, status::AUTH_ERROR);
        assert_eq!(client.log_in(mechanism, "nobody", "secret").await, status::AUTH_ERROR);
        let select = Sent { key: b"jobber", ..Sent::default() };
        assert_eq!(client.ask(opcode::SELECT_BUCKET, select).await.status, status::NO_ACCESS);
        assert_eq!(client.log_in(mechanism, "jobber", "secret").await, status::SUCCESS);
        assert_eq!(client.ask(opcode::GET, Sent { key: b"a", ..Sent::default() }).await.status, status::NO_BUCKET);
        let missing = Sent { key: b"none", ..Sent::default() };
        assert_eq!(client.ask(opcode::SELECT_BUCKET, missing).await.status, status::KEY_NOT_FOUND);
    }
    // In the clear, the password itself is not asked for.
    let mut client = Client::connect(&double).await;
    let plain = Sent { key: b"PLAIN", value: b"\0jobber\0secret", ..Sent::default() };
    assert_eq!(client.ask(opcode::SASL_AUTH, plain).await.status, status::AUTH_ERROR);
}

#[tokio::test]
async fn packets_have_the_layout_that_was_agreed_on() {
    let double = CouchbaseDouble::start();
    let mut plain = Client::ready(&double, &[], "SCRAM-SHA1").await;
    // Without collections a key is a key, without tokens a change has no extras, without XERROR no tracing.
    let extras = [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0];
    let set = plain.ask(opcode::SET, Sent { extras: &extras, key: b"a", value: b"{}", ..Sent::default() }).await;
    assert_eq!((set.magic, set.status, set.extras.len(), set.value.len()), (0x81, 0, 0, 0));
    assert_ne!(set.cas, 0);
    let got = plain.ask(opcode::GET, Sent { key: b"a", ..Sent::default() }).await;
    assert_eq!((got.extras.as_slice(), got.value.as_slice()), (&extras[..4], &b"{}"[..]));
    assert_eq!((got.cas, got.datatype), (set.cas, 0));

    let mut full = Client::ready(&double, ALL, "SCRAM-SHA256").await;
    let got = full.ask(opcode::GET, Sent { key: b"\0a", ..Sent::default() }).await;
    assert_eq!((got.magic, got.datatype, got.frames[0]), (0x18, 0x01, 0x02));
    let frames = [0x11, 0x01];
    let sent = Sent { frames: &frames, extras: &extras, key: b"\0a", value: b"text", ..Sent::default() };
    let set = full.ask(opcode::SET, sent).await;
    assert_eq!((set.status, set.extras.len()), (status::SUCCESS, 16));
    let got = full.ask(opcode::GET, Sent { key: b"\0a", ..Sent::default() }).await;
    assert_eq!((got.value.as_slice(), got.datatype), (&b"text"[..], 0));
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let double = CouchbaseDouble::start();
    let mut client = Client::ready(&double, ALL, "SCRAM-SHA512").await;
    let extras = [0; 8];
    let refused = [
        ("a get with a value", opcode::GET, Sent { key: b"\0a", value: b"x", ..Sent::default() }),
        ("a set without extras", opcode::SET, Sent { key: b"\0a", value: b"1", ..Sent::default() }),
        ("an empty key", opcode::GET, Sent { key: b"\0", ..Sent::default() }),
        ("an add with a version", opcode::ADD, Sent { key: b"\0a", extras: &extras, cas: 1, ..Sent::default() }),
        ("no number of a collection", opcode::GET, Sent { key: &[0x81, 0, b'a'], ..Sent::default() }),
        ("durability of a read", opcode::GET, Sent { key: b"\0a", frames: &[0x11, 1], ..Sent::default() }),
        ("no snappy", opcode::SET, Sent { key: b"\0a", extras: &extras, datatype: 2, value: &[9], ..Sent::default() }),
    ];
    for (what, code, sent) in refused {
        assert_eq!(client.ask(code, sent).await.status, status::INVALID_ARGUMENTS, "{what}");
    }
    let level = Sent { key: b"\0a", extras: &extras, frames: &[0x11, 9], ..Sent::default() };
    assert_eq!(client.ask(opcode::SET, level).await.status, status::DURABILITY_INVALID_LEVEL);
    assert_eq!(client.ask(0x77, Sent::default()).await.status, status::UNKNOWN_COMMAND);
    client.stream.write_all(&[0x42; 24]).await.unwrap();
    assert!(client.is_closed().await, "what is no packet ends the connection");
}

#[tokio::test]
async fn refusals_bring_what_the_client_needs_to_go_on() {
    let double = CouchbaseDouble::start();
    let mut client = Client::ready(&double, &[feature::COLLECTIONS, feature::JSON], "SCRAM-SHA1").await;
    let unknown = client.ask(opcode::GET, Sent { key: b"\x63a", ..Sent::default() }).await;
    assert_eq!(unknown.status, status::UNKNOWN_COLLECTION);
    assert_eq!(unknown.value, br#"{"manifest_uid":"1"}"#);
    let named = client.ask(opcode::GET_COLLECTION_ID, Sent { value: b"none.jobs", ..Sent::default() }).await;
    assert_eq!(named.status, status::UNKNOWN_SCOPE);
    let found = client.ask(opcode::GET_COLLECTION_ID, Sent { value: b".", ..Sent::default() }).await;
    assert_eq!((found.extras.len(), u64_at(&found.extras, 0), u32_at(&found.extras, 8)), (12, 1, 0));

    let elsewhere = client.ask(opcode::GET, Sent { key: b"\0a", vbucket: 64, ..Sent::default() }).await;
    assert_eq!(elsewhere.status, status::NOT_MY_VBUCKET);
    let config: serde_json::Value = serde_json::from_slice(&elsewhere.value).unwrap();
    assert_eq!(config["vBucketServerMap"]["vBucketMap"].as_array().unwrap().len(), 64);
    assert_eq!(config["nodesExt"][0]["services"]["kv"], double.port());
}

#[tokio::test]
async fn a_client_that_knows_the_configuration_is_not_given_it_again() {
    let double = CouchbaseDouble::start();
    let mut client = Client::ready(&double, ALL, "SCRAM-SHA1").await;
    let config = client.ask(opcode::GET_CLUSTER_CONFIG, Sent::default()).await;
    assert_eq!(config.datatype, 0x03, "compressed, as it was agreed on");
    let config = snap::raw::Decoder::new().decompress_vec(&config.value).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let version = [config["revEpoch"].as_i64().unwrap(), config["rev"].as_i64().unwrap()];
    let version: Vec<u8> = version.iter().flat_map(|part| part.to_be_bytes()).collect();
    let known = Sent { extras: &version, ..Sent::default() };
    let nothing = client.ask(opcode::GET_CLUSTER_CONFIG, known).await;
    assert_eq!((nothing.status, nothing.value.len(), nothing.datatype), (status::SUCCESS, 0, 0));
    let elsewhere = client.ask(opcode::GET, Sent { key: b"\0a", vbucket: 64, ..Sent::default() }).await;
    assert_eq!((elsewhere.status, elsewhere.value.len()), (status::NOT_MY_VBUCKET, 0));

    double.move_all_to(0);
    let told = client.next().await;
    assert_eq!((told.magic, told.opcode, told.key.as_slice()), (0x82, opcode::CLUSTERMAP_CHANGED, &b"jobber"[..]));
    assert!(told.extras > version && told.value.is_empty());
    let elsewhere = client.ask(opcode::GET, Sent { key: b"\0a", vbucket: 64, ..Sent::default() }).await;
    assert!(!elsewhere.value.is_empty(), "a newer one");
}

#[tokio::test]
async fn the_error_map_is_of_the_version_asked_for() {
    let double = CouchbaseDouble::start();
    let mut client = Client::connect(&double).await;
    for version in [1_u16, 2] {
        let asked = version.to_be_bytes();
        let map = client.ask(opcode::GET_ERROR_MAP, Sent { value: &asked, ..Sent::default() }).await;
        let map: serde_json::Value = serde_json::from_slice(&map.value).unwrap();
        assert_eq!(map["version"], version);
        assert_eq!(map["errors"]["86"]["name"], "ETMPFAIL");
        let attributes = map["errors"]["33"]["attrs"].as_array().unwrap();
        assert_eq!(attributes.contains(&"rate-limit".into()), version == 2);
    }
}

#[tokio::test]
async fn one_path_alone_has_a_status_of_its_own() {
    let double = CouchbaseDouble::start();
    let mut client = Client::ready(&double, ALL, "SCRAM-SHA1").await;
    client.ask(opcode::SET, Sent { extras: &[0; 8], key: b"\0a", value: br#"{"n":1}"#, ..Sent::default() }).await;
    let path = |value| Sent { extras: &[0, 1, 0], key: b"\0a", value, ..Sent::default() };
    let got = client.ask(opcode::SUBDOC_GET, path(b"n")).await;
    assert_eq!((got.status, got.value.as_slice()), (status::SUCCESS, &b"1"[..]));
    assert_eq!(client.ask(opcode::SUBDOC_GET, path(b"m")).await.status, status::PATH_NOT_FOUND);
    let counted = client.ask(opcode::SUBDOC_COUNTER, path(b"n41")).await;
    assert_eq!((counted.status, counted.value.as_slice(), counted.extras.len()), (status::SUCCESS, &b"42"[..], 16));
    assert_eq!(client.ask(opcode::SUBDOC_COUNTER, path(b"nx")).await.status, status::SUBDOC_BAD_DELTA);
    assert_eq!(client.ask(opcode::SUBDOC_DICT_ADD, path(b"n1")).await.status, status::PATH_EXISTS);
}

#[tokio::test]
async fn faults_strike_where_and_as_often_as_they_are_told() {
    let double = CouchbaseDouble::start();
    let mut client = Client::ready(&double, &[], "SCRAM-SHA1").await;
    let set = |key| Sent { extras: &[0; 8], key, value: b"1", ..Sent::default() };
    let rule = Fault::Refuse(status::TEMPORARY_FAILURE).on(&[opcode::SET]).containing("b").after(1).every(2).times(2);
    let hits = double.fault(rule);
    let mut seen = Vec::new();
    for _ in 0..6 {
        assert_eq!(client.ask(opcode::SET, set(b"a")).await.status, status::SUCCESS);
        assert_eq!(client.ask(opcode::GET, Sent { key: b"b", ..Sent::default() }).await.status & !1, 0);
        seen.push(client.ask(opcode::SET, set(b"b")).await.status == status::SUCCESS);
    }
    assert_eq!(seen, [true, false, true, false, true, true]);
    assert_eq!(hits.count(), 2);
}
