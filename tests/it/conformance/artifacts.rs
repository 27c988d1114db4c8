//! What every store of files must do.

use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jobber::artifacts::{ArtifactErrorKind, ArtifactStore, Pieces, Place, S3Settings, open};
use jobber::domain::{ContentDigest, Secret, Timestamp};
use sha2::{Digest, Sha256};

use crate::harness::s3::{KEY, S3, SECRET};

/// An empty store.
struct Store {
    store: Arc<dyn ArtifactStore>,
    _behind: Box<dyn Send>,
}

async fn directory() -> Store {
    let dir = tempfile::tempdir().unwrap();
    // It is made with the first file.
    let store = open(&Place::Directory(dir.path().join("files of jobs"))).unwrap();
    Store { store, _behind: Box::new(dir) }
}

async fn s3() -> Store {
    let server = S3::start().await;
    let store = open(&Place::S3(S3Settings {
        bucket: "jobs".to_owned(),
        prefix: "a/prefix".to_owned(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        path_style: true,
        keys: Some((Secret::new(KEY), Secret::new(SECRET))),
        session_token: None,
        ca: None,
    }));
    Store { store: store.unwrap(), _behind: Box::new(server) }
}

/// Content that no part of it is like another one.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

fn digest(bytes: &[u8]) -> ContentDigest {
    ContentDigest::of(&Sha256::digest(bytes).into())
}

/// The content in pieces of odd length.
fn pieces(bytes: &[u8]) -> Pieces<'_> {
    stream::iter(bytes.chunks(100_003).map(|piece| Ok(piece.to_vec()))).boxed()
}

async fn read(store: &dyn ArtifactStore, key: &str, range: Option<std::ops::Range<u64>>) -> Vec<u8> {
    store.get(key, range).await.unwrap().pieces.try_concat().await.unwrap()
}

async fn keys(store: &dyn ArtifactStore, prefix: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(prefix).try_collect().await.unwrap();
    let mut keys: Vec<_> = listed.into_iter().map(|file| file.key).collect();
    keys.sort();
    keys
}

/// More than one request holds, and not a whole number of parts.
const LARGE: usize = (20 << 20) + 17;

async fn what_is_kept_comes_back(Store { store, .. }: Store) {
    for (key, bytes) in
        [("jobs/1~a/1/empty", Vec::new()), ("jobs/1~a/1/small", noise(1000)), ("jobs/1~a/1/l", noise(LARGE))]
    {
        let stored = store.put(key, pieces(&bytes), None).await.unwrap();
        assert_eq!((stored.size, &stored.sha256), (bytes.len() as u64, &digest(&bytes)), "{key}");
        assert!(read(&*store, key, None).await == bytes, "{key}");
        assert_eq!(store.look(key).await.unwrap().unwrap().1, bytes.len() as u64);
    }
    // A part that begins and ends within requests.
    let part = read(&*store, "jobs/1~a/1/l", Some(8_000_000..17_000_001)).await;
    assert!(part == noise(LARGE)[8_000_000..17_000_001]);
    assert_eq!(store.get("jobs/1~a/1/small", Some(1..2)).await.unwrap().size, 1000);
}

async fn a_file_is_replaced_as_a_whole(Store { store, .. }: Store) {
    store.put("jobs/k", pieces(b"a longer one"), None).await.unwrap();
    store.put("jobs/k", pieces(b"short"), None).await.unwrap();
    assert_eq!(read(&*store, "jobs/k", None).await, b"short");
}

async fn what_is_not_as_announced_is_not_kept(Store { store, .. }: Store) {
    for length in [10, LARGE] {
        let bytes = noise(length);
        let refused = store.put("inputs/a", pieces(&bytes), Some(&digest(b"other"))).await.unwrap_err();
        assert_eq!(refused.kind, ArtifactErrorKind::Mismatch, "{refused}");
        assert_eq!(store.look("inputs/a").await.unwrap(), None);
    }
    let bytes = noise(LARGE);
    store.put("inputs/a", pieces(&bytes), Some(&digest(&bytes))).await.unwrap();
    assert!(read(&*store, "inputs/a", None).await == bytes);
}

async fn what_breaks_off_is_not_kept(Store { store, .. }: Store) {
    for length in [10, LARGE] {
        let bytes = noise(length);
        let broken = stream::iter([Err(io::Error::other("the cable was pulled"))]);
        let refused = store.put("jobs/b", pieces(&bytes).chain(broken).boxed(), None).await.unwrap_err();
        assert_eq!(refused.kind, ArtifactErrorKind::Source, "{refused}");
        assert!(refused.to_string().contains("cable"), "{refused}");
        assert_eq!(store.look("jobs/b").await.unwrap(), None);
        assert!(keys(&*store, "jobs").await.is_empty());
    }
}

async fn what_is_missing_is_said(Store { store, .. }: Store) {
    let missing = store.get("jobs/nothing", None).await.err().unwrap();
    assert_eq!(missing.kind, ArtifactErrorKind::Missing, "{missing}");
    assert_eq!(store.look("jobs/nothing").await.unwrap(), None);
    store.remove("jobs/nothing").await.unwrap();
    assert!(keys(&*store, "jobs").await.is_empty());
}

async fn lists_and_removes(Store { store, .. }: Store) {
    let before = Timestamp::from_millis(1_700_000_000_000);
    for key in ["jobs/1~a/1/x", "jobs/1~a/2/y/z", "jobs/2~=40/1/x=20y", "inputs/ab"] {
        store.put(key, pieces(key.as_bytes()), None).await.unwrap();
    }
    assert_eq!(keys(&*store, "jobs").await, ["jobs/1~a/1/x", "jobs/1~a/2/y/z", "jobs/2~=40/1/x=20y"]);
    let listed: Vec<_> = store.list("inputs").try_collect().await.unwrap();
    assert!(listed.len() == 1 && listed[0].kept_at > before, "{listed:?}");
    store.remove("jobs/1~a/2/y/z").await.unwrap();
    assert_eq!(keys(&*store, "jobs").await, ["jobs/1~a/1/x", "jobs/2~=40/1/x=20y"]);
    assert_eq!(read(&*store, "jobs/2~=40/1/x=20y", None).await, b"jobs/2~=40/1/x=20y");
}

conformance! {
    suite artifacts {
        what_is_kept_comes_back,
        a_file_is_replaced_as_a_whole,
        what_is_not_as_announced_is_not_kept,
        what_breaks_off_is_not_kept,
        what_is_missing_is_said,
        lists_and_removes,
    } for directory, s3
}
