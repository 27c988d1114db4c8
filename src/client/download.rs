//! A body that is received piece by piece, and must be whole.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::{Response, header};

use super::{Client, ClientError};

/// A body as it is received.
pub struct Download {
    client: Client,
    /// How many bytes are still to come; `None` when the server did not tell.
    left: Option<u64>,
    body: BoxStream<'static, Result<Vec<u8>, ClientError>>,
}

impl Download {
    pub(super) fn new(client: &Client, response: Response) -> Self {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let sender = client.clone();
        let pieces = response.bytes_stream();
        let body = pieces.map(move |piece| piece.map(Into::into).map_err(|e| sender.lost(e))).boxed();
        Self { client: client.clone(), left, body }
    }

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
                Err(self.client.no_jobber("it closed the connection before everything had come"))
            }
            None => Ok(None),
        }
    }
}
