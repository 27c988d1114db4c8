//! Calls about notices: what waits, what was given up, and tests of the targets.

use std::time::Duration;

use reqwest::Method;

use super::{Client, ClientError};
use crate::wire::{ChooseNotices, ChosenNotices, Listing, NoticeTargetView, NoticeView, TestNotices, TestedNotices};

/// How long a test of all targets may take: the longest time of a single try, and some more.
const TEST: Duration = Duration::from_secs(330);

impl Client {
    /// Lists notices that were given up, or those that wait; the last that came first. `cursor` gets a further page.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn notices(
        &self,
        waiting: bool,
        target: Option<&str>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Listing<NoticeView>, ClientError> {
        let state = if waiting { "waiting" } else { "dead" };
        let mut pairs = vec![("state", state.to_owned()), ("limit", limit.to_string())];
        pairs.extend(target.map(|target| ("target", target.to_owned())));
        pairs.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        self.answer(self.api(Method::GET, "notices").query(&pairs)).await
    }

    /// Lists the targets of notices.
    ///
    /// # Errors
    /// When the server can't tell.
    pub async fn notice_targets(&self) -> Result<Vec<NoticeTargetView>, ClientError> {
        let listing: Listing<NoticeTargetView> = self.answer(self.api(Method::GET, "notices/targets")).await?;
        Ok(listing.items)
    }

    /// Acts on dead letters. `verb` is `retry` or `drop`.
    ///
    /// # Errors
    /// `Rejected` when the body chooses none.
    pub async fn act_on_notices(&self, verb: &str, chosen: &ChooseNotices) -> Result<ChosenNotices, ClientError> {
        self.answer(self.api(Method::POST, &format!("notices:{verb}")).json(chosen)).await
    }

    /// Sends a sample to a target, or to all.
    ///
    /// # Errors
    /// `NotFound` when there is no such target.
    pub async fn test_notices(&self, target: Option<&str>) -> Result<TestedNotices, ClientError> {
        let body = TestNotices { target: target.map(str::to_owned) };
        self.answer(self.api(Method::POST, "notices:test").json(&body).timeout(TEST)).await
    }
}
