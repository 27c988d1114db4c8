//! What those who wait for a job are told while it does not start: the reasons of `jobber explain`, when they change.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Console;
use crate::client::{Client, ClientErrorKind};
use crate::domain::{JobId, JobState};

/// The command says nothing for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks, at most, while nothing changes.
const SELDOM: Duration = Duration::from_secs(10);

/// Why a job has not started.
pub(super) struct Reasons<'a> {
    id: &'a JobId,
    client: &'a Client,
    next_look: Instant,
    pause: Duration,
    /// What was said last, without its numbers: a shorter line before the job, or another time, is no other reason.
    said: Option<String>,
    /// There is nothing to say while it runs.
    runs: bool,
}

impl<'a> Reasons<'a> {
    pub(super) fn of(id: &'a JobId, client: &'a Client) -> Self {
        Self { id, client, next_look: Instant::now() + QUIET, pause: QUIET, said: None, runs: false }
    }

    /// Notes that an attempt has started, or has ended.
    pub(super) fn runs(&mut self, runs: bool) {
        self.runs = runs;
        self.look_again();
    }

    /// The value of `work`. Says meanwhile why the job has not started.
    pub(super) async fn told_during<T>(&mut self, work: impl Future<Output = T>, console: &mut Console) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                value = &mut work => return value,
                reason = self.next() => console.say(&reason),
            }
        }
    }

    /// The next reason that is new. May be dropped at any point.
    async fn next(&mut self) -> String {
        loop {
            if self.runs {
                return std::future::pending().await;
            }
            sleep_until(self.next_look).await;
            self.pause = (self.pause * 3 / 2).min(SELDOM);
            self.next_look = Instant::now() + self.pause;
            let Some(reason) = self.ask().await else {
                self.said = None;
                continue;
            };
            let essence: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
            if self.said.as_ref() != Some(&essence) {
                self.said = Some(essence);
                self.look_again();
                return reason;
            }
        }
    }

    fn look_again(&mut self) {
        self.pause = QUIET;
        self.next_look = Instant::now() + QUIET;
    }

    /// Why the job has not started; `None` when it has, or when nothing is known of it.
    async fn ask(&self) -> Option<String> {
        let explained = match self.client.explain(self.id).await {
            Ok(explained) => explained,
            Err(error) if error.kind == ClientErrorKind::Unreachable => {
                return Some(format!("job {}: the server can't be reached; trying on", self.id));
            }
            Err(_) => return None,
        };
        // A job that a worker has taken may still wait there for its turn.
        if explained.state.is_final() || explained.state == JobState::Active && self.has_started().await {
            return None;
        }
        Some(format!("job {} is {}: {}", self.id, explained.state, explained.reasons.join("; ")))
    }

    async fn has_started(&self) -> bool {
        let job = self.client.job(self.id, None).await;
        job.is_ok_and(|job| job.attempts.iter().any(|attempt| attempt.report.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{captured, text};
    use super::*;
    use crate::cli::Globals;
    use crate::client::fake::{self, FakeServer};

    #[tokio::test]
    async fn a_reason_is_said_again_only_when_it_changes() {
        let explained = |reasons: &[&str]| fake::json(200, &json!({"id": "a", "state": "waiting", "reasons": reasons}));
        let server = FakeServer::start(vec![
            explained(&["all 2 slots are taken", "13 jobs are ahead of it"]),
            explained(&["all 2 slots are taken", "12 jobs are ahead of it"]),
            explained(&["the queue is paused", "12 jobs are ahead of it"]),
        ])
        .await;
        let (mut console, _, err) = captured(&Globals::default());
        let (id, client) = ("a".parse().unwrap(), server.client());
        let mut reasons = Reasons { next_look: Instant::now(), ..Reasons::of(&id, &client) };
        for lines in [1, 1, 2] {
            let asked = server.requests().len();
            // As if the time had passed.
            reasons.next_look = Instant::now();
            let work = async {
                while server.requests().len() == asked || text(&err).lines().count() < lines {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            reasons.told_during(work, &mut console).await;
        }
        assert_eq!(
            text(&err),
            "job a is waiting: all 2 slots are taken; 13 jobs are ahead of it\n\
             job a is waiting: the queue is paused; 12 jobs are ahead of it\n"
        );
    }
}
