//! Downloads what an attempt has written.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::{Method, header};

use super::transport::encode;
use super::{Client, ClientError};
use crate::domain::{JobId, Stream};

/// One stream of one attempt, as it is received.
pub struct AttemptOutput {
    /// Whether it is all that the attempt has written to the stream by now, not only the tail that history keeps.
    pub is_whole: bool,
    client: Client,
    /// How many bytes are still to come; `None` when the server did not tell.
    left: Option<u64>,
    body: BoxStream<'static, Result<Vec<u8>, ClientError>>,
}

impl Client {
    /// Begins to download what an attempt has written to `stream`.
    ///
    /// # Errors
    /// `NotFound` when there is no such job or attempt.
    pub async fn attempt_output(&self, id: &JobId, attempt: u32, stream: Stream) -> Result<AttemptOutput, ClientError> {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let path = format!("jobs/{}/attempts/{attempt}/{stream}", encode(id.as_str()));
        let response = self.open(self.api(Method::GET, &path)).await?;
        let extent = response.headers().get("x-jobber-output").and_then(|value| value.to_str().ok());
        let is_whole = match extent {
            Some("whole") => true,
            Some("tail") => false,
            _ => return Err(self.no_jobber("it sent no output of an attempt")),
        };
        let length = response.headers().get(header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let client = self.clone();
        let pieces = response.bytes_stream();
        let body = pieces.map(move |piece| piece.map(Into::into).map_err(|e| client.lost(e))).boxed();
        Ok(AttemptOutput { is_whole, client: self.clone(), left, body })
    }
}

impl AttemptOutput {
    /// Returns the next bytes; `None` when all have come.
    ///
    /// # Errors
    /// When the connection ends before that.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self.body.next().await.transpose()? {
            Some(piece) => {
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                Ok(Some(piece))
            }
            None if self.left.is_some_and(|left| left > 0) => {
                Err(self.client.no_jobber("it closed the connection before all output had come"))
            }
            None => Ok(None),
        }
    }
}
