//! Asks about groups of jobs.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::Method;

use super::transport::encode;
use super::{Client, ClientError};
use crate::domain::GroupName;
use crate::wire::{GroupResult, GroupView};

/// The results of a group's jobs, as they are received.
pub struct GroupResults {
    client: Client,
    body: BoxStream<'static, Result<Vec<u8>, ClientError>>,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Client {
    /// Asks how far the jobs of a group are.
    ///
    /// # Errors
    /// `NotFound` when there is no job of such a group.
    pub async fn group(&self, group: &GroupName) -> Result<GroupView, ClientError> {
        self.answer(self.api(Method::GET, &format!("groups/{}", encode(group.as_str())))).await
    }

    /// Begins to read what the jobs of a group gave back, in the order of their indices.
    ///
    /// # Errors
    /// `NotFound` when there is no job of such a group.
    pub async fn group_results(&self, group: &GroupName) -> Result<GroupResults, ClientError> {
        let path = format!("groups/{}/results", encode(group.as_str()));
        let response = self.open(self.api(Method::GET, &path)).await?;
        let client = self.clone();
        let body = response.bytes_stream().map(move |piece| piece.map(Into::into).map_err(|e| client.lost(e))).boxed();
        Ok(GroupResults { client: self.clone(), body, begun: Vec::new() })
    }
}

impl GroupResults {
    /// Returns the next jobs; `None` when all have come.
    ///
    /// # Errors
    /// When the answer breaks off, or is none of Jobber's.
    pub async fn next(&mut self) -> Result<Option<Vec<GroupResult>>, ClientError> {
        while let Some(piece) = self.body.next().await.transpose()? {
            self.begun.extend(piece);
            let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = self.begun.split_off(end + 1);
            let whole = std::mem::replace(&mut self.begun, rest);
            let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let results = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
            return results.map(Some).map_err(|e| self.client.no_jobber("a result can't be read").caused_by(e));
        }
        if self.begun.is_empty() { Ok(None) } else { Err(self.client.no_jobber("it ended in the middle of a result")) }
    }
}
