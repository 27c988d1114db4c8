//! Where the files of jobs are kept: a directory, or a bucket of an S3-compatible store.
//!
//! ```text
//! jobs/<time of submission>~<id>/<attempt>/<name>     what an attempt left
//! inputs/<SHA-256>                                    what a client uploaded for jobs
//! inputs-used/<SHA-256>                               when a job last used it: empty
//! ```
//! A file has its key for ever, and its content never changes.

mod content_type;
mod inputs;
mod keys;
mod object;

use std::io;
use std::ops::Range;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use content_type::{HEAD, content_type, is_picture};
pub use inputs::{INPUTS, input_key, last_used, remove_input, use_input};
pub use keys::{JobFolder, KEPT_FILES, file_key, job_of_key};
pub use object::{Place, S3Settings, open};

use crate::domain::{ContentDigest, Timestamp};

/// The kinds of error between which a caller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtifactErrorKind {
    /// There is no such file.
    Missing,
    /// The store can't be reached, or refuses; another try may work.
    Unavailable,
    /// The content is another than was announced: nothing was kept.
    Mismatch,
    /// The content could not be read to its end: nothing was kept.
    Source,
}

/// Why the store could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ArtifactError {
    /// The kind, by which a caller decides what to do.
    pub kind: ArtifactErrorKind,
    message: String,
    source_kind: Option<io::ErrorKind>,
}

impl ArtifactError {
    /// Makes an error of this kind.
    pub fn new(kind: ArtifactErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source_kind: None }
    }

    /// The content could not be read.
    pub fn of_source(error: &io::Error) -> Self {
        let kind = ArtifactErrorKind::Source;
        Self { kind, message: error.to_string(), source_kind: Some(error.kind()) }
    }

    /// Why the content could not be read, of an error of that kind.
    pub fn source_kind(&self) -> Option<io::ErrorKind> {
        self.source_kind
    }
}

/// Content on its way, piece by piece.
pub type Pieces<'a> = BoxStream<'a, io::Result<Vec<u8>>>;

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How many bytes it has.
    pub size: u64,
    /// What tells it from other content.
    pub sha256: ContentDigest,
}

/// Content as it comes from the store.
pub struct Content {
    /// How many bytes the file has in all.
    pub size: u64,
    /// Those that were asked for.
    pub pieces: Pieces<'static>,
}

/// A file as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When it was kept, by the store's clock.
    pub kept_at: Timestamp,
}

/// Keeps files under keys: parts of `[A-Za-z0-9._=~-]` with `/` between them.
#[async_trait]
pub trait ArtifactStore: Send + Sync + 'static {
    /// Keeps a file: all of it or nothing. One that is there under this key is replaced.
    ///
    /// # Errors
    /// `Mismatch` when it is not the content that is `expected`, `Source` when `pieces` fail.
    async fn put(
        &self,
        key: &str,
        pieces: Pieces<'_>,
        expected: Option<&ContentDigest>,
    ) -> Result<Stored, ArtifactError>;

    /// Gives a file, or a part of it that is not empty and lies within it.
    ///
    /// # Errors
    /// `Missing` when there is none.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Content, ArtifactError>;

    /// When a file was kept, and its size; `None` when there is none.
    async fn look(&self, key: &str) -> Result<Option<(Timestamp, u64)>, ArtifactError>;

    /// Removes a file, if it is there.
    async fn remove(&self, key: &str) -> Result<(), ArtifactError>;

    /// All files whose keys begin with this part.
    fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, ArtifactError>>;
}
