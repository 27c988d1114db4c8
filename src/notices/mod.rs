//! Notices: tell people and programs outside of Jobber what happens to jobs, builds and the server itself.
//!
//! ```text
//! projector ──ended jobs, alarms──> Announcer ──> Outbox ──claim──> sender of each target ──> webhook, command
//! health watch ──turns────────────────┘             └── dead letters <── gives up ──┘
//! ```
//! The projector puts what matters into the [`Outbox`] before it commits the events that say so, under an id that the
//! events alone decide. So a kill at any moment loses nothing, and what is put twice is there once. A sender claims what
//! is due, for as long as a try may take: when its process is killed, the claim lapses and the notice is due again. A
//! receiver may thus get a notice twice, under the same id. Order is not promised.

mod announce;
mod command;
mod filter;
mod health;
mod notice;
mod outbox;
mod retry;
mod sender;
mod signature;
mod target;
mod template;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

pub use announce::Announcer;
pub use command::CommandRunner;
pub use filter::{Glob, NoticeFilter};
pub use health::{HealthWatch, HealthWatchPorts};
pub use notice::{HealthTurn, Notice, NoticeEvent, NoticeJob, NoticeRegression};
pub use outbox::{NewNotice, NoticeState, Outbox, OutboxCounts, OutboxPage, OutboxQuery, OutboxRow};
pub use sender::{Channel, Sender};
pub use signature::sign;
pub use target::{CommandTarget, Destination, Method, NoticeTarget, WebhookTarget, check_url};
pub use template::{Template, TemplateError};
pub use webhook::Webhook;

use tokio_util::sync::CancellationToken;

use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::Clock;
use crate::metrics::METRICS;
use crate::sqlite::SqliteError;

/// What became of one try to deliver a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The receiver has it.
    Delivered {
        /// What the receiver said, for people.
        answer: String,
    },
    /// It may work later.
    Later {
        /// Why it did not now.
        problem: String,
        /// How long the receiver asks to be left alone.
        after: Option<Duration>,
    },
    /// The receiver does not want it: no other try would work.
    Refused {
        /// What it said.
        problem: String,
    },
}

/// What a test of a target found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The target's name.
    pub target: String,
    /// The id under which the sample was sent.
    pub id: String,
    /// What became of it.
    pub sent: Sent,
    /// How long it took.
    pub took: Duration,
}

/// All targets of this server with what waits for them, for the API.
pub struct Notices {
    senders: Vec<Arc<Sender>>,
    outbox: Outbox,
    clock: Clock,
}

impl Notices {
    /// What goes to these senders by way of this outbox.
    pub fn new(senders: Vec<Arc<Sender>>, outbox: Outbox, clock: Clock) -> Self {
        Self { senders, outbox, clock }
    }

    /// The targets, in the order of the configuration.
    pub fn targets(&self) -> impl Iterator<Item = &NoticeTarget> {
        self.senders.iter().map(|sender| sender.target())
    }

    /// How many notices wait and lie dead, by target.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn counts(&self) -> Result<Vec<OutboxCounts>, SqliteError> {
        self.outbox.counts().await
    }

    /// Shows in the metrics how much waits, until `stop`.
    pub async fn keep_metrics(self: Arc<Self>, stop: CancellationToken) {
        const COUNT: BackgroundLoop =
            BackgroundLoop::new("notice metrics", Period::Pause(Duration::from_secs(3))).drop_run();
        let mut turns = COUNT.start(&stop);
        let count = async || {
            let counts = self.counts().await?;
            for target in self.targets() {
                let of = counts.iter().find(|counts| counts.target == target.name);
                let oldest = of.and_then(|of| of.oldest).map_or(0, |since| self.clock.now().since(since).as_secs());
                let (waiting, dead) = of.map_or((0, 0), |of| (of.waiting, of.dead));
                METRICS.notices.set(&target.name, waiting, dead, oldest);
            }
            Ok(NextRun::InTurn)
        };
        while turns.run(count()).await {}
    }

    /// A page of what waits or lies dead.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn list(&self, query: OutboxQuery) -> Result<OutboxPage, SqliteError> {
        self.outbox.list(query).await
    }

    /// Lets dead letters be tried again, with all their time before them, and answers the ids of those. Letters of a
    /// target that is not configured any more stay where they are.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn retry(&self, ids: &[String], target: Option<&str>) -> Result<Vec<String>, SqliteError> {
        let configured = self.targets().map(|target| target.name.clone()).collect();
        self.outbox.retry(ids, target, configured, self.clock.now()).await
    }

    /// Forgets dead letters, and answers the ids of those.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn forget(&self, ids: &[String], target: Option<&str>) -> Result<Vec<String>, SqliteError> {
        self.outbox.forget(ids, target).await
    }

    /// Sends a sample to one target or to each, at once and not by way of the outbox.
    pub async fn test(&self, target: Option<&str>) -> Vec<TestResult> {
        let chosen = self.senders.iter().filter(|sender| target.is_none_or(|name| sender.target().name == name));
        futures_util::future::join_all(chosen.map(|sender| sender.test(self.clock.now()))).await
    }
}
