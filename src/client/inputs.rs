//! The inputs of jobs: uploaded once, found by their digests.

use std::time::Duration;

use futures_util::stream::BoxStream;
use reqwest::{Body, Method};

use super::{Client, ClientError, ClientErrorKind};
use crate::domain::ContentDigest;
use crate::wire::InputView;

impl Client {
    /// Whether the server has this content of this size.
    ///
    /// # Errors
    /// `Rejected` when it is larger than the server takes.
    pub async fn has_input(&self, sha256: &ContentDigest, size: u64) -> Result<bool, ClientError> {
        let request = self.api(Method::GET, &format!("inputs/{sha256}")).query(&[("size", size)]);
        let found: Result<InputView, _> = self.answer(request).await;
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ClientErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a content of this size.
    ///
    /// # Errors
    /// `Rejected` when it is too large, or another than the digest says.
    pub async fn upload_input(
        &self,
        sha256: &ContentDigest,
        size: u64,
        pieces: BoxStream<'static, std::io::Result<Vec<u8>>>,
    ) -> Result<InputView, ClientError> {
        /// Enough for any upload that goes on.
        const LONG: Duration = Duration::from_secs(86_400);
        let request = self.api(Method::PUT, &format!("inputs/{sha256}")).timeout(LONG);
        self.answer(request.header("content-length", size).body(Body::wrap_stream(pieces))).await
    }
}
