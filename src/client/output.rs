//! Downloads what an attempt has written.

use reqwest::Method;

use super::transport::encode;
use super::{Client, ClientError, Download};
use crate::domain::{JobId, Stream};

/// One stream of one attempt, as it is received.
pub struct AttemptOutput {
    /// Whether it is all that the attempt has written to the stream by now, not only the tail that history keeps.
    pub is_whole: bool,
    /// Its bytes.
    pub bytes: Download,
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
        Ok(AttemptOutput { is_whole, bytes: Download::new(self, response) })
    }
}
