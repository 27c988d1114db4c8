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
        self.download(format!("jobs/{}/attempts/{attempt}/files/{}", encode(id.as_str()), path(name))).await
    }

    /// Begins to download an input of a job, by its name for the job.
    ///
    /// # Errors
    /// `NotFound` when it has none of this name (any more).
    pub async fn input(&self, id: &JobId, name: &str) -> Result<Download, ClientError> {
        self.download(format!("jobs/{}/inputs/{}", encode(id.as_str()), path(name))).await
    }

    async fn download(&self, path: String) -> Result<Download, ClientError> {
        let response = self.open(self.api(Method::GET, &path)).await?;
        Ok(Download::new(self, response))
    }
}

/// The name of a file as a part of a path: its slashes stand as they are.
fn path(name: &str) -> String {
    let parts: Vec<_> = name.split('/').map(|part| encode(part).to_string()).collect();
    parts.join("/")
}
