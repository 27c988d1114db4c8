//! Sends the notices of one target: what is due in the outbox, several at once, each until it is delivered or given up.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::command::CommandRunner;
use super::notice::{Notice, NoticeEvent};
use super::outbox::{Outbox, OutboxRow, Settled};
use super::retry::next_try;
use super::target::NoticeTarget;
use super::webhook::Webhook;
use super::{Sent, TestResult};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{Clock, Timestamp};
use crate::metrics::METRICS;
use crate::reconnect::dice;
use crate::sqlite::SqliteError;
use crate::store::History;

/// How many notices of a target are under way at the same time.
const AT_ONCE: usize = 8;
/// How much longer than a try a claim lasts.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a notice that depends on the category of an error waits for it.
const CATEGORY_PATIENCE: Duration = Duration::from_secs(60);
/// How long history may take to tell a category.
const HISTORY_PATIENCE: Duration = Duration::from_secs(2);
/// How long tries that are under way may go on after the stop.
const LAST: Duration = Duration::from_secs(2);

/// How notices reach a target.
pub enum Channel {
    /// Over HTTP.
    Webhook(Box<Webhook>),
    /// By a program.
    Command(Box<CommandRunner>),
}

/// Sends the notices of one target.
pub struct Sender {
    target: NoticeTarget,
    channel: Channel,
    outbox: Outbox,
    history: Arc<dyn History>,
    clock: Clock,
}

/// What is known of the category of a notice's error.
enum Category {
    /// The notice can be sent as it is now.
    Told,
    /// Not yet: ask again later.
    Open,
    /// The target does not want the notice.
    Unwanted,
}

impl Sender {
    /// Sends what waits in `outbox` for `target` by way of `channel`. `history` tells the categories of errors.
    pub fn new(
        target: NoticeTarget,
        channel: Channel,
        outbox: Outbox,
        history: Arc<dyn History>,
        clock: Clock,
    ) -> Self {
        Self { target, channel, outbox, history, clock }
    }

    /// The target.
    pub fn target(&self) -> &NoticeTarget {
        &self.target
    }

    /// Sends what is due until `stop`. Tries under way then go on for two seconds; those that take longer are repeated
    /// by the next process.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        const SEND: BackgroundLoop = BackgroundLoop::new("notices", Period::Pause(Duration::from_secs(1)))
            .warn("the outbox of notices can't be used; trying again", "the outbox of notices can be used again")
            .back_off(Duration::from_millis(500), Duration::from_secs(10));
        let mut turns = SEND.start(&stop);
        while turns.run_woken(self.outbox.came(), self.send_due(&stop)).await {}
    }

    async fn send_due(&self, stop: &CancellationToken) -> Result<NextRun, crate::background::RunError> {
        let now = self.clock.now();
        let until = now + self.target.timeout + MARGIN;
        let rows = self.outbox.claim(&self.target.name, now, until, AT_ONCE).await?;
        if rows.is_empty() {
            return Ok(NextRun::InTurn);
        }
        let all = futures_util::future::join_all(rows.into_iter().map(|row| self.deliver(row)));
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        tokio::select! {
            all = all => all.into_iter().collect::<Result<(), SqliteError>>()?,
            () = ended => {}
        }
        Ok(NextRun::AtOnce)
    }

    async fn deliver(&self, row: OutboxRow) -> Result<(), SqliteError> {
        let mut notice = row.notice;
        let target = self.target.name.as_str();
        match self.find_category(&mut notice, row.since).await? {
            Category::Told => {}
            Category::Open => {
                let at = self.clock.now() + Duration::from_secs(1);
                return self.outbox.settle(row.number, Settled::Due { at, problem: None }).await;
            }
            Category::Unwanted => return self.outbox.settle(row.number, Settled::Gone).await,
        }
        notice.write_text();
        let sent = self.send(&notice).await;
        let now = self.clock.now();
        let tries = row.tries.saturating_add(1);
        let settled = match sent {
            Sent::Delivered { .. } => {
                METRICS.notices.count(target, "delivered");
                tracing::debug!(
                    notify = target,
                    id = notice.id,
                    event = notice.event.as_str(),
                    tries,
                    "notice delivered"
                );
                Settled::Gone
            }
            Sent::Later { problem, after } => {
                METRICS.notices.count(target, "failed");
                match next_try(tries, row.since, now, self.target.give_up_after, after, dice()) {
                    Some(at) => {
                        tracing::debug!(notify = target, id = notice.id, problem, tries, "notice not delivered yet");
                        Settled::Due { at, problem: Some(problem) }
                    }
                    None => {
                        let problem = format!("given up after {tries} tries: {problem}");
                        self.dead(&notice, problem, now)
                    }
                }
            }
            Sent::Refused { problem } => {
                METRICS.notices.count(target, "failed");
                self.dead(&notice, format!("refused: {problem}"), now)
            }
        };
        self.outbox.settle(row.number, settled).await
    }

    fn dead(&self, notice: &Notice, problem: String, at: Timestamp) -> Settled {
        let target = self.target.name.as_str();
        METRICS.notices.count(target, "dead");
        tracing::warn!(
            notify = target,
            id = notice.id,
            event = notice.event.as_str(),
            problem,
            "a notice was given up"
        );
        Settled::Dead { problem, at, keep: self.target.dead_limit }
    }

    async fn send(&self, notice: &Notice) -> Sent {
        match &self.channel {
            Channel::Webhook(webhook) => webhook.send(notice).await,
            Channel::Command(command) => command.send(notice).await,
        }
    }

    /// Fills in the category of the error. A notice that depends on it waits until the classifier has told, up to
    /// [`CATEGORY_PATIENCE`] from `since`; after that its error counts as one near to no category.
    async fn find_category(&self, notice: &mut Notice, since: Timestamp) -> Result<Category, SqliteError> {
        let Some(job) = &mut notice.job else { return Ok(Category::Told) };
        let (event, filter) = (notice.event, &self.target.filter);
        let Some(fingerprint) = job.fingerprint else {
            // A job without an error of its own, such as one whose worker was lost, is in no category.
            return Ok(if filter.takes_category(event, None) { Category::Told } else { Category::Unwanted });
        };
        let asked = [fingerprint];
        let found = tokio::time::timeout(HISTORY_PATIENCE, self.history.errors_without_vectors(&asked)).await;
        let knowledge = match found {
            Ok(Ok(records)) => records.into_iter().flatten().find_map(|record| record.knowledge),
            // It is away, or slow: nothing is known now.
            Ok(Err(_)) | Err(_) => None,
        };
        let is_known = knowledge.is_some();
        job.category = knowledge.and_then(|knowledge| knowledge.category).map(|id| id.as_str().to_owned());
        let category = job.category.clone();
        if !filter.needs_category(notice) {
            return Ok(Category::Told);
        }
        if !is_known && self.clock.now() < since + CATEGORY_PATIENCE {
            return Ok(Category::Open);
        }
        if !filter.takes_category(event, category.as_deref()) {
            return Ok(Category::Unwanted);
        }
        if let (NoticeEvent::Category, true, Some(category)) = (event, filter.first, category) {
            let key = format!("category/{}/{category}", self.target.name);
            if self.outbox.mark(&key, &notice.id).await? != notice.id {
                return Ok(Category::Unwanted);
            }
        }
        Ok(Category::Told)
    }

    /// Sends a sample, at once and not by way of the outbox.
    pub(super) async fn test(&self, now: Timestamp) -> TestResult {
        let event = self.target.on.first().copied().unwrap_or(NoticeEvent::Unhealthy);
        let id = Notice::id_of(&self.target.name, event, &["test", &now.to_string()]);
        let mut notice = Notice { id: id.clone(), ..Notice::sample(event, &self.target.name, now) };
        notice.write_text();
        let began = tokio::time::Instant::now();
        let sent = self.send(&notice).await;
        TestResult { target: self.target.name.clone(), id, sent, took: began.elapsed() }
    }
}
