//! The files that the attempts of a job have left.

use reqwest::Method;

use super::transport::encode;
use super::{Client, ClientError, Download};
use crate::domain::JobId;
use crate::wire::JobFiles;

impl Client {
    /// Lists the files of a job.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub async fn files(&self, id: &JobId) -> Result<JobFiles, ClientError> {
        self.answer(self.api(Method::GET, &format!("jobs/{}/files", encode(id.as_str())))).await
    }

    /// Begins to download a file that an attempt has left.
    ///
    /// # Errors
    /// `NotFound` when there is no such file (any more).
    pub async fn file(&self, id: &JobId, attempt: u32, name: &str) -> Result<Download, ClientError> {
        let name: Vec<_> = name.split('/').map(|part| encode(part).to_string()).collect();
        let path = format!("jobs/{}/attempts/{attempt}/files/{}", encode(id.as_str()), name.join("/"));
        let response = self.open(self.api(Method::GET, &path)).await?;
        Ok(Download::new(self, response))
    }
}
