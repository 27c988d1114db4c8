//! The adapter: a directory, or a bucket of an S3-compatible store.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};
use sha2::{Digest, Sha256};

use super::{ArtifactError, ArtifactErrorKind, ArtifactStore, Content, Listed, Pieces, Stored};
use crate::domain::{ContentDigest, Secret, Timestamp};

/// How much is sent in one request. A store takes up to 10,000 such parts of one file.
const PART: usize = 8 << 20;
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
/// How long one request is repeated; callers go on by themselves after that.
const REPEAT: Duration = Duration::from_secs(10);
/// How often at most.
const REPEATS: usize = 3;

/// Where files are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// In this directory, an absolute path. It is made with the first file.
    Directory(PathBuf),
    /// In a bucket.
    S3(S3Settings),
}

/// How a bucket is reached.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with; may be empty.
    pub prefix: String,
    /// The address of the store; `None` for Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Whether the bucket stands in the path of requests, not in the name of the host.
    pub path_style: bool,
    /// Key and secret key; `None` for those of the machine's role.
    pub keys: Option<(Secret, Secret)>,
    /// The token that goes with keys for a while.
    pub session_token: Option<Secret>,
    /// Certificates (PEM) of the authorities to trust besides the system's.
    pub ca: Option<Vec<u8>>,
}

/// Opens the store. Reaches for it only when it is used.
///
/// # Errors
/// When the settings make no sense.
pub fn open(place: &Place) -> Result<Arc<dyn ArtifactStore>, ArtifactError> {
    let wrong = |error: object_store::Error| ArtifactError::new(ArtifactErrorKind::Unavailable, error.to_string());
    match place {
        Place::Directory(directory) => {
            let files = LocalFileSystem::new().with_automatic_cleanup(true).with_fsync(true);
            let root = Path::from_absolute_path(directory).map_err(|error| wrong(error.into()))?;
            Ok(Arc::new(Objects { store: Arc::new(PrefixStore::new(files, root)) }))
        }
        Place::S3(settings) => {
            let s3 = builder(settings)?.build().map_err(wrong)?;
            let root = Path::parse(&settings.prefix).map_err(|error| wrong(error.into()))?;
            Ok(Arc::new(Objects { store: Arc::new(PrefixStore::new(s3, root)) }))
        }
    }
}

fn builder(settings: &S3Settings) -> Result<AmazonS3Builder, ArtifactError> {
    let mut client = ClientOptions::new()
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT)
        .with_allow_http(settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")));
    if let Some(pem) = &settings.ca {
        let unreadable =
            |error| ArtifactError::new(ArtifactErrorKind::Unavailable, format!("artifacts.tls_ca: {error}"));
        for certificate in Certificate::from_pem_bundle(pem).map_err(unreadable)? {
            client = client.with_root_certificate(certificate);
        }
    }
    let mut s3 = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(!settings.path_style)
        // Not all stores know it.
        .with_disable_bulk_delete(true)
        .with_client_options(client)
        .with_retry(RetryConfig { backoff: BackoffConfig::default(), max_retries: REPEATS, retry_timeout: REPEAT });
    if let Some(endpoint) = &settings.endpoint {
        s3 = s3.with_endpoint(endpoint);
    }
    if let Some((id, secret)) = &settings.keys {
        s3 = s3.with_access_key_id(id.reveal()).with_secret_access_key(secret.reveal());
    }
    if let Some(token) = &settings.session_token {
        s3 = s3.with_token(token.reveal());
    }
    Ok(s3)
}

struct Objects {
    store: Arc<dyn ObjectStore>,
}

fn path(key: &str) -> Result<Path, ArtifactError> {
    Path::parse(key).map_err(|error| ArtifactError::new(ArtifactErrorKind::Missing, error.to_string()))
}

fn explain(error: object_store::Error) -> ArtifactError {
    let kind = match error {
        object_store::Error::NotFound { .. } => ArtifactErrorKind::Missing,
        _ => ArtifactErrorKind::Unavailable,
    };
    ArtifactError::new(kind, error.to_string())
}

/// Nothing of the caller's can be missing when something is to be kept: the bucket is.
fn unkept(error: object_store::Error) -> ArtifactError {
    ArtifactError::new(ArtifactErrorKind::Unavailable, error.to_string())
}

/// Pieces as they are read, with their digest.
struct Hashed<'a> {
    pieces: Pieces<'a>,
    digest: Sha256,
    size: u64,
    rest: Vec<u8>,
}

impl Hashed<'_> {
    /// The next part: as much as one request takes, less at the end.
    async fn part(&mut self) -> Result<Vec<u8>, ArtifactError> {
        let mut part = std::mem::take(&mut self.rest);
        while part.len() < PART {
            let read = self.pieces.try_next().await;
            let Some(piece) = read.map_err(|error| ArtifactError::of_source(&error))? else { break };
            self.digest.update(&piece);
            self.size += piece.len() as u64;
            part.extend_from_slice(&piece);
        }
        if part.len() > PART {
            self.rest = part.split_off(PART);
        }
        Ok(part)
    }

    /// What was read, if it is what was expected.
    fn stored(&self, expected: Option<&ContentDigest>) -> Result<Stored, ArtifactError> {
        let sha256 = ContentDigest::of(&self.digest.clone().finalize().into());
        match expected {
            Some(expected) if *expected != sha256 => Err(ArtifactError::new(
                ArtifactErrorKind::Mismatch,
                format!("the content has the SHA-256 {sha256}, not {expected}"),
            )),
            _ => Ok(Stored { size: self.size, sha256 }),
        }
    }
}

/// Sends all parts of a file, the first of which is given.
async fn send(
    upload: &mut dyn MultipartUpload,
    content: &mut Hashed<'_>,
    first: Vec<u8>,
    expected: Option<&ContentDigest>,
) -> Result<Stored, ArtifactError> {
    let mut part = first;
    while !part.is_empty() {
        upload.put_part(PutPayload::from(part)).await.map_err(unkept)?;
        part = content.part().await?;
    }
    let stored = content.stored(expected)?;
    upload.complete().await.map_err(unkept)?;
    Ok(stored)
}

#[async_trait]
impl ArtifactStore for Objects {
    async fn put(
        &self,
        key: &str,
        pieces: Pieces<'_>,
        expected: Option<&ContentDigest>,
    ) -> Result<Stored, ArtifactError> {
        let path = path(key)?;
        let mut content = Hashed { pieces, digest: Sha256::new(), size: 0, rest: Vec::new() };
        let first = content.part().await?;
        if first.len() < PART {
            let stored = content.stored(expected)?;
            self.store.put(&path, PutPayload::from(first)).await.map_err(unkept)?;
            return Ok(stored);
        }
        let mut upload = self.store.put_multipart(&path).await.map_err(unkept)?;
        let sent = send(&mut *upload, &mut content, first, expected).await;
        if sent.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(key, %error, "the parts of a file that was not kept could not be removed");
        }
        sent
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Content, ArtifactError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.store.get_opts(&path(key)?, options).await.map_err(explain)?;
        let size = found.meta.size;
        let pieces = found.into_stream().map_ok(Into::into).map_err(std::io::Error::other).boxed();
        Ok(Content { size, pieces })
    }

    async fn look(&self, key: &str) -> Result<Option<(Timestamp, u64)>, ArtifactError> {
        match self.store.head(&path(key)?).await.map_err(explain) {
            Ok(meta) => Ok(Some((Timestamp::from_millis(meta.last_modified.timestamp_millis()), meta.size))),
            Err(error) if error.kind == ArtifactErrorKind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, key: &str) -> Result<(), ArtifactError> {
        match self.store.delete(&path(key)?).await.map_err(explain) {
            Err(error) if error.kind != ArtifactErrorKind::Missing => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, ArtifactError>> {
        let listed = self.store.list(Path::parse(prefix).ok().as_ref());
        let listed = listed.map_ok(|meta| Listed {
            key: meta.location.to_string(),
            kept_at: Timestamp::from_millis(meta.last_modified.timestamp_millis()),
        });
        listed.map_err(explain).boxed()
    }
}
